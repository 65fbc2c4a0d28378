"""Distances between the surfaces of two masks, in mm.

Definitions (tools differ here by more than 100 mm, so they are stated):

- surface: the mask's voxels with a face neighbour outside the mask; beyond the image is outside. In a
  picture this is an 8-connected contour; axes of size 1 do not count.
- distance: between voxel centres, with the spacing, from each surface voxel to the nearest one of the
  other surface.
- HD95: the larger of the two directed 95th percentiles (linear interpolation), not the percentile of both
  directions pooled.
- surface Dice: the surface voxels of both masks that lie within the tolerance of the other surface, over
  all surface voxels (Nikolov 2018, counting voxels and not areas, as MONAI does by default).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wardround.metrics.masks import SLACK, Mask, box, check_spacing, drop_flat_axes

CROWDED = 20  # one surface voxel in so many: from here on a distance transform beats the tree


@dataclass(frozen=True)
class SurfaceDistances:
    """The directed distances in mm, one per surface voxel, in no particular order."""

    to_prediction: NDArray[np.float64]
    to_reference: NDArray[np.float64]

    @property
    def hd95(self) -> float:
        """Larger of the directed 95th percentiles, mm."""
        return float(max(np.percentile(self.to_prediction, 95), np.percentile(self.to_reference, 95)))

    def surface_dice(self, tolerance_mm: float) -> float:
        """Share of both surfaces within ``tolerance_mm`` of the other, in [0, 1]."""
        near = sum(np.count_nonzero(d <= tolerance_mm * SLACK) for d in (self.to_prediction, self.to_reference))
        return near / (self.to_prediction.size + self.to_reference.size)


def surface(mask: Mask) -> Mask:
    """The voxels of ``mask`` with a face neighbour outside it."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        inside, whole = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        inside[1:] &= whole[:-1]
        inside[:-1] &= whole[1:]
        inside[[0, -1]] = False
    return mask & ~inner


def surface_distances(reference: Mask, prediction: Mask, spacing: Sequence[float]) -> SurfaceDistances | None:
    """All directed distances; None where a mask is empty, as there is no distance then."""
    check_spacing(spacing, reference.ndim)
    (reference, prediction), spacing = drop_flat_axes(reference, prediction, spacing=spacing)
    if not reference.any() or not prediction.any():
        return None
    place = box(reference | prediction)
    ours, theirs = surface(reference[place]), surface(prediction[place])
    return SurfaceDistances(_directed(ours, theirs, spacing), _directed(theirs, ours, spacing))


def _directed(start: Mask, goal: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """From each voxel of ``start`` to the nearest of ``goal``; those on both are 0 without a search."""
    total, apart = int(np.count_nonzero(start)), start & ~goal
    found = np.zeros(total)
    searched = int(np.count_nonzero(apart))
    if searched:
        crowded = (searched + np.count_nonzero(goal)) * CROWDED > start.size
        search = _by_transform if crowded else _by_tree
        found[:searched] = search(apart, goal, spacing)
    return found


def _by_tree(start: Mask, goal: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Cost grows with the surfaces: a fifth of the transform's on organs."""
    from scipy.spatial import cKDTree  # noqa: PLC0415 - keeps the command line's start fast

    tree = cKDTree(np.argwhere(goal) * np.asarray(spacing), balanced_tree=False)
    distances: NDArray[np.float64] = tree.query(np.argwhere(start) * np.asarray(spacing))[0]
    return distances


def _by_transform(start: Mask, goal: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """Cost grows with the box alone: bounded even for the noise that an untrained network predicts."""
    from scipy import ndimage  # noqa: PLC0415 - keeps the command line's start fast

    distances: NDArray[np.float64] = ndimage.distance_transform_edt(~goal, sampling=spacing)[start]
    return distances
