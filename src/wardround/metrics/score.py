"""One case's scores, as values that merge: ``merge_all(map(score, cases), Scores())`` pools them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from wardround.core.scores import NO_DICE, LabelScores, Scores
from wardround.core.stats import Histogram, Moments
from wardround.metrics.lesions import lesions as count_lesions
from wardround.metrics.masks import Mask, check_spacing
from wardround.metrics.overlap import overlap
from wardround.metrics.surface import surface_distances

MM3_PER_ML = 1000.0


def score_case(
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    spacing: Sequence[float],
    labels: Sequence[str],
    *,
    lesions: Collection[str] = (),
    tolerance_mm: float = 1.0,
    minimum_lesion_mm3: float = 3.0,
) -> Scores:
    """Scores of one case; `wardround.core.scores` says what empty masks give.

    Args:
        reference: label map (X, Y, Z), or (H, W, 1) for a picture; value i + 1 is ``labels[i]``, 0 background.
        prediction: the same for the network's answer.
        spacing: mm per axis; 1, 1, 1 where unknown, then distances are in pixels.
        labels: names of the foreground labels, in the order of their values.
        lesions: the labels whose connected components are counted.
        tolerance_mm: of the surface Dice.
        minimum_lesion_mm3: smaller components count on neither side.

    Raises:
        ValueError: shapes differ, types are not uint8, a value has no label, or ``lesions`` names none.
    """
    _check(reference, prediction, labels, lesions)
    check_spacing(spacing, reference.ndim)
    scores = {}
    for value, name in enumerate(labels, start=1):
        minimum = minimum_lesion_mm3 if name in lesions else None
        scores[name] = score_label(reference == value, prediction == value, spacing, tolerance_mm, minimum)
    return Scores(cases=1, labels=scores)


def score_label(
    reference: Mask, prediction: Mask, spacing: Sequence[float], tolerance_mm: float, minimum_lesion_mm3: float | None
) -> LabelScores:
    """Scores of one label of one case; lesions are counted unless their minimum is None."""
    counts = overlap(reference, prediction)
    distances = surface_distances(reference, prediction, spacing)
    difference = (counts.prediction - counts.reference) * math.prod(spacing) / MM3_PER_ML
    nsd = distances.surface_dice(tolerance_mm) if distances else None
    return LabelScores(
        dice=_one(counts.dice),
        dice_histogram=NO_DICE if counts.dice is None else _in_bins(counts.dice),
        hd95=_one(distances.hd95 if distances else None),
        surface_dice=_one(0.0 if nsd is None and counts.dice is not None else nsd),
        volume_difference=_one(difference),
        absolute_volume_difference=_one(abs(difference)),
        lesions=None
        if minimum_lesion_mm3 is None
        else count_lesions(reference, prediction, spacing, minimum_lesion_mm3),
        both_empty=int(counts.dice is None),
        prediction_empty=int(counts.prediction == 0 < counts.reference),
        reference_empty=int(counts.reference == 0 < counts.prediction),
    )


def _one(value: float | None) -> Moments:
    return Moments() if value is None else Moments.of([value])


def _in_bins(dice: float) -> Histogram:
    return Histogram.of([dice], NO_DICE.low, NO_DICE.high, len(NO_DICE.counts))


def _check(
    reference: NDArray[np.uint8], prediction: NDArray[np.uint8], labels: Sequence[str], lesions: Collection[str]
) -> None:
    if reference.shape != prediction.shape or reference.ndim not in (2, 3) or not reference.size:
        raise ValueError(f"masks need one shape of 2 or 3 axes, not {reference.shape} and {prediction.shape}")
    for what, mask in (("reference", reference), ("prediction", prediction)):
        if mask.dtype != np.uint8:
            raise ValueError(f"the {what} must be uint8, not {mask.dtype}")
        if mask.max() > len(labels):
            raise ValueError(f"the {what} holds the value {mask.max()}, but only {len(labels)} labels have names")
    if len(set(labels)) != len(labels):
        raise ValueError(f"labels must differ: {list(labels)}")
    if unknown := [name for name in lesions if name not in labels]:
        raise ValueError(f"lesions are to be counted for {unknown}, which are not among the labels {list(labels)}")
