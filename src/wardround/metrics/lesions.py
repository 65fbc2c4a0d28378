"""Lesion-wise detection: connected components found, missed, true and false.

Components touch by faces, edges or corners (26 neighbours in 3D, 8 in 2D). A reference lesion is found
when the prediction covers at least 10 % of its voxels; a predicted lesion is true when at least 10 % of
its voxels lie in the reference. A component smaller than the minimum volume is counted on neither side,
but its voxels still cover what they cover: otherwise a lesion just above the minimum, predicted just
below it, would count as missed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wardround.core.scores import LesionCounts
from wardround.metrics.masks import SLACK, Mask, box, check_spacing, drop_flat_axes

PARTS = 10  # one of so many parts of a component must be covered; compared in whole numbers, where nothing is rounded


def lesions(reference: Mask, prediction: Mask, spacing: Sequence[float], minimum_mm3: float = 3.0) -> LesionCounts:
    """Counts of one case. ``spacing`` in mm per axis, ``minimum_mm3`` in mm^3 (0: every component counts)."""
    check_spacing(spacing, reference.ndim)
    least = minimum_mm3 / math.prod(spacing) / SLACK
    (reference, prediction), _ = drop_flat_axes(reference, prediction, spacing=spacing)
    found, missed = _covered(reference, prediction, least)
    true, false = _covered(prediction, reference, least)
    return LesionCounts(found=found, missed=missed, true=true, false=false)


def _covered(mask: Mask, by: Mask, least: float) -> tuple[int, int]:
    """How many components of ``mask``, of at least ``least`` voxels, are covered by ``by``, and how many not."""
    from scipy import ndimage  # noqa: PLC0415 - keeps the command line's start fast

    place = box(mask)
    if place is None:
        return 0, 0
    labelled, count = ndimage.label(mask[place], structure=np.ones((3,) * mask.ndim))
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    hits = np.bincount(labelled[by[place]], minlength=count + 1)[1:]
    counted = sizes >= least
    covered = int(np.count_nonzero(counted & (hits * PARTS >= sizes)))
    return covered, int(np.count_nonzero(counted)) - covered
