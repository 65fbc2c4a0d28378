"""Random changes of one patch, as plain functions of the patch and drawn numbers.

Ranges and order follow nnU-Net (Isensee et al., Nature Methods 2021, supplement), without blur,
low resolution and elastic deformation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from wardround.planning.training import Augmentation

Pair = tuple[torch.Tensor, torch.Tensor]


def flip(image: torch.Tensor, label: torch.Tensor, axes: Sequence[int]) -> Pair:
    """Mirror along spatial ``axes``; image (C, *patch), label (1, *patch)."""
    if not axes:
        return image, label
    dims = [axis + 1 for axis in axes]
    return image.flip(dims), label.flip(dims)


def warp(image: torch.Tensor, label: torch.Tensor, patch: tuple[int, ...], angles: NDArray[Any], zoom: float) -> Pair:
    """Rotate by ``angles`` (degrees) and enlarge by ``zoom`` about the centre, then cut out ``patch``.

    A flat 3D patch (longest over shortest edge above 3) turns only within its plane, as thick
    slices cannot be interpolated across (nnU-Net's "dummy 2D").
    """
    matrix = rotation(angles, patch) / zoom
    # affine_grid works in [-1, 1] coordinates in reversed axis order: scale voxels to them.
    source = np.diag([2 / n for n in reversed(image.shape[1:])])
    target = np.diag([n / 2 for n in reversed(patch)])
    theta = source @ matrix[::-1, ::-1] @ target
    theta = np.concatenate([theta, np.zeros((len(patch), 1))], axis=1)
    size = [1, 1, *patch]
    grid = F.affine_grid(torch.from_numpy(np.ascontiguousarray(theta, np.float32))[None], size, align_corners=False)
    moved = F.grid_sample(image[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
    classes = F.grid_sample(label[None], grid, mode="nearest", padding_mode="border", align_corners=False)[0]
    return moved, classes


def rotation(angles: NDArray[Any], patch: tuple[int, ...]) -> NDArray[Any]:
    """Rotation matrix in voxel coordinates: 2 x 2 by the first angle, or 3 x 3 about each axis."""
    radians = np.deg2rad(angles)
    if len(patch) == 2:
        c, s = np.cos(radians[0]), np.sin(radians[0])
        return np.array([[c, -s], [s, c]])
    flat = max(patch) > 3 * min(patch)
    matrix = np.eye(3)
    for axis in range(3):
        if flat and axis != int(np.argmin(patch)):
            continue
        c, s = np.cos(radians[axis]), np.sin(radians[axis])
        i, j = (k for k in range(3) if k != axis)
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -s, s, c
        matrix = matrix @ turn
    return matrix


def change_intensity(image: torch.Tensor, settings: Augmentation, random: np.random.Generator) -> torch.Tensor:
    """Contrast, brightness and gamma per modality, then noise; image (C, *patch), about z-scored."""
    channels = []
    for channel in image:
        value = channel
        if random.random() < settings.contrast:
            mean = value.mean()
            value = (value - mean) * float(random.uniform(*settings.contrast_range)) + mean
        if random.random() < settings.brightness:
            value = value + float(random.normal(0, settings.brightness_std))
        if random.random() < settings.gamma:
            value = _gamma(value, float(random.uniform(*settings.gamma_range)))
        channels.append(value)
    out = torch.stack(channels)
    if random.random() < settings.noise:
        std = float(random.uniform(0, settings.noise_std))
        out = out + std * torch.from_numpy(random.standard_normal(tuple(out.shape), dtype=np.float32))
    return out


def _gamma(value: torch.Tensor, gamma: float) -> torch.Tensor:
    low, high = value.min(), value.max()
    span = (high - low).clamp_min(1e-6)
    return ((value - low) / span) ** gamma * span + low
