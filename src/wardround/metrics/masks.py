"""Small helpers on masks that the measures share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

SLACK = 1 + 1e-6  # spacings come from float32 headers: 3 x 0.1 mm must count as 0.3 mm


def check_spacing(spacing: Sequence[float], dimensions: int) -> None:
    """Raise ValueError unless there is one positive, finite number of mm per axis."""
    if len(spacing) != dimensions or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"spacing needs {dimensions} positive numbers in mm, not {tuple(spacing)}")


def drop_flat_axes(*masks: Mask, spacing: Sequence[float]) -> tuple[tuple[Mask, ...], tuple[float, ...]]:
    """Without the axes of size 1, so that a picture (H, W, 1) has contours and not slabs.

    One axis always stays.
    """
    shape = masks[0].shape
    flat = [axis for axis, size in enumerate(shape) if size == 1]
    if len(flat) == len(shape):
        flat = flat[1:]
    kept = tuple(float(s) for axis, s in enumerate(spacing) if axis not in flat)
    return tuple(mask.squeeze(tuple(flat)) for mask in masks), kept


def box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box that holds every true voxel; None of an empty mask."""
    found = []
    for axis in range(mask.ndim):
        line = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not line.size:
            return None
        found.append(slice(int(line[0]), int(line[-1]) + 1))
    return tuple(found)
