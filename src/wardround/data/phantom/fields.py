"""Smooth random fields: the one ingredient of every irregular shape in a synthetic brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Volume = NDArray[np.float32]


def spline_weights(size: int, spacing: float, length: float, phase: float) -> Volume:
    """Cubic B-spline weights, (size, knots): row i weighs the knots for the voxel at ``i * spacing`` mm.

    Args:
        size: voxels along the axis.
        spacing: voxel size in mm.
        length: distance between knots in mm, > 0.
        phase: where the first voxel lies between two knots, in [0, 1); a random one hides the knots' grid.
    """
    position = np.arange(size) * (spacing / length) + phase
    first = np.floor(position).astype(np.int64)
    t = position - first
    pieces = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = np.zeros((size, int(first[-1]) + 4), dtype=np.float32)
    for shift, piece in enumerate(pieces):
        weights[np.arange(size), first + shift] = piece / 6
    return weights


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], spacing: float, length: float) -> Volume:
    """Smooth noise over a grid: mean near 0, standard deviation near 1, features about ``length`` mm apart."""
    weights = [spline_weights(size, spacing, length, float(rng.uniform())) for size in shape]
    field = rng.standard_normal([w.shape[1] for w in weights]).astype(np.float32)
    for weight in weights:
        # Each contraction takes the first axis and appends the grid's own, so three of them restore the order.
        field = np.tensordot(field, weight, axes=(0, 1))
    # 0.479: mean over the phase of the sum of squared weights along one axis.
    return np.asarray(field / np.float32(0.479**1.5), dtype=np.float32)


def ramp(values: Volume, low: float, high: float) -> Volume:
    """0 at or below ``low``, 1 at or above ``high``, smooth between."""
    t = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)


def blend(image: Volume, target: Volume | float, weight: Volume) -> Volume:
    """``image`` where ``weight`` is 0, ``target`` where it is 1."""
    return np.asarray(image + weight * (np.float32(target) - image), dtype=np.float32)
