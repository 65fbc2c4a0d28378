"""The best that one brightness threshold can do: the floor that a trained network has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CANDIDATES = 400  # thresholds tried per scale


def standardise(image: Array) -> NDArray[np.float64]:
    """Zero mean and unit variance over the non-zero voxels; voxels that are 0 become minus infinity.

    Zero marks what lies outside a skull-stripped brain, and no threshold should reach it.
    """
    values = np.asarray(image, dtype=np.float64)
    inside = values != 0
    if not inside.any():
        return np.full(values.shape, -np.inf)
    mean, spread = float(values[inside].mean()), float(values[inside].std())
    return np.where(inside, (values - mean) / (spread or 1.0), -np.inf)


def _thresholds(images: Sequence[Array]) -> NDArray[np.float64]:
    """Quantiles over all cases' finite values, denser towards the bright end, where lesions are."""
    values = np.concatenate([image[np.isfinite(image)].ravel() for image in images])
    if not values.size:
        return np.zeros(1)
    tail = 1 - np.geomspace(1e-5, 1, CANDIDATES // 2)
    levels = np.concatenate([np.linspace(0, 1, CANDIDATES - tail.size), tail])
    return np.asarray(np.unique(np.quantile(values, levels)), dtype=np.float64)


def _dice_curve(image: Array, mask: NDArray[np.bool_], thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dice of ``image >= threshold`` at each threshold; NaN where both prediction and reference are empty."""
    everything, lesion = np.sort(image, axis=None), np.sort(image[mask])
    predicted = everything.size - np.searchsorted(everything, thresholds, side="left")
    true = lesion.size - np.searchsorted(lesion, thresholds, side="left")
    total = predicted + lesion.size
    curve = np.full(thresholds.size, np.nan)
    np.divide(2.0 * true, total, out=curve, where=total > 0)
    return curve


def _scan(images: Sequence[Array], masks: Sequence[NDArray[np.bool_]]) -> tuple[float, float]:
    thresholds = _thresholds(images)
    curves = np.stack([_dice_curve(i, m, thresholds) for i, m in zip(images, masks, strict=True)])
    scored = np.isfinite(curves)
    means = np.where(scored, curves, 0).sum(axis=0) / np.maximum(scored.sum(axis=0), 1)
    best = int(np.argmax(means))
    return float(thresholds[best]), float(means[best])


def best_threshold_dice(images: Sequence[Array], masks: Sequence[Array]) -> tuple[float, float]:
    """The highest mean Dice that "brighter than t" reaches with one t for all cases.

    Generous to the threshold on purpose: t is chosen on the very cases that are scored, once on the raw
    intensities and once after a z-score of each case over its non-zero voxels, and the better one counts. Cases
    without any foreground count 0 where something is predicted and are left out where nothing is.

    Args:
        images: one array per case, any shape, 0 outside the body.
        masks: one array per case of its image's shape; above 0 is foreground.

    Returns:
        The threshold, on the scale (raw or z-score) that did better, and the mean Dice over cases in [0, 1].

    Raises:
        ValueError: no case, or a mask's shape or the number of masks differs from the images'.
    """
    if not images or len(images) != len(masks):
        raise ValueError(f"expected one mask for each of at least one image, found {len(images)} and {len(masks)}")
    for number, (image, mask) in enumerate(zip(images, masks, strict=True)):
        if np.shape(image) != np.shape(mask):
            raise ValueError(f"case {number}: image {np.shape(image)} and mask {np.shape(mask)} differ in shape")
    found = [np.asarray(mask) > 0 for mask in masks]
    raw = _scan([np.asarray(image, dtype=np.float64) for image in images], found)
    scaled = _scan([standardise(image) for image in images], found)
    return max(raw, scaled, key=lambda result: result[1])
