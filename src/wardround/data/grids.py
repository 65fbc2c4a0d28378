"""Whether two files of a case lie on the same grid, and if not, how they differ."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.05  # of the smallest voxel edge: rounding in headers stays far below, a shift that matters above
ALONG = 0.99  # cosine from which two axes count as parallel
AXES = ("left-right", "back-front", "foot-head")


def difference(reference: NDArray[Any], other: NDArray[Any], shape: tuple[int, ...]) -> tuple[str, str] | None:
    """Code and text of how ``other`` lies differently from ``reference``; None where it does not.

    Args:
        reference: 4 x 4, voxel to mm, of the image.
        other: 4 x 4 of the file compared with it.
        shape: (X, Y, Z) of both.
    """
    corners = np.array([(*(c * (n - 1) for c, n in zip(corner, shape, strict=True)), 1) for corner in CORNERS])
    apart = float(np.linalg.norm((corners @ (reference - other).T)[:, :3], axis=1).max())
    allowed = TOLERANCE * float(np.linalg.norm(reference[:3, :3], axis=0).min())
    if apart <= allowed:
        return None
    cosines = (directions(reference) * directions(other)).sum(axis=0)
    if (np.abs(cosines) > ALONG).all() and (cosines < 0).any():
        reversed_axes = [AXES[int(np.abs(directions(reference)[:, i]).argmax())] for i in range(3) if cosines[i] < 0]
        return "flipped_mask", f"runs the other way along {' and '.join(reversed_axes)}"
    return (
        "affine_mismatch",
        f"lies elsewhere: its corners are up to {apart:.3g} mm away (allowed: {allowed:.3g} mm, "
        f"{TOLERANCE:.0%} of the smallest voxel edge)",
    )


CORNERS = tuple(product((0, 1), repeat=3))


def directions(affine: NDArray[Any]) -> NDArray[Any]:
    """3 x 3; column i is the unit vector along voxel axis i."""
    axes = np.asarray(affine[:3, :3], dtype=np.float64)
    return np.asarray(axes / np.linalg.norm(axes, axis=0))


def orientation(affine: NDArray[Any]) -> str:
    """The directions into which the voxel axes run, such as ``RAS``; axes may share a letter where oblique."""
    unit = directions(affine)
    main = np.abs(unit).argmax(axis=0)
    return "".join(("LR", "PA", "IS")[axis][int(unit[axis, i] > 0)] for i, axis in enumerate(main))
