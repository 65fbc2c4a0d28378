"""One synthetic patient's brain: the atlas flipped, turned, stretched and given its own folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wardround.data.phantom.atlas import Atlas
from wardround.data.phantom.fields import Volume, smooth_noise

FIELD_OF_VIEW = (160.0, 192.0, 160.0)  # mm; holds the largest deformed brain
CENTRE = (0.0, -17.0, 6.0)  # MNI mm in the middle of the field of view
SHARPNESS = 5.5  # how crisp the borders are that an average of many people has blurred

FLUID = 1.7  # the average brain's folds have lost most of their fluid; this gives it back


@dataclass(frozen=True)
class Anatomy:
    """Tissue of one patient on an isotropic grid of ``spacing`` mm, axes left-right, back-front, down-up.

    ``gm``, ``wm`` and ``csf`` are fractions that sum to 1 inside ``brain`` and are 0 outside;
    ``ventricle`` is the distance to the lateral ventricles in mm, negative inside them.
    """

    spacing: float
    gm: Volume
    wm: Volume
    csf: Volume
    brain: NDArray[np.bool_]
    ventricle: Volume

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = self.brain.shape
        return x, y, z


def grid_shape(spacing: float) -> tuple[int, int, int]:
    """Voxels along each axis that cover the field of view."""
    x, y, z = (round(size / spacing) for size in FIELD_OF_VIEW)
    return x, y, z


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [other for other in range(3) if other != axis]
        turn = np.eye(3)
        turn[[i, j], [i, j]] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def _atlas_positions(rng: np.random.Generator, shape: tuple[int, int, int], spacing: float) -> Volume:
    """Where each voxel comes from in the atlas: (3, X, Y, Z) in MNI mm."""
    grid = np.indices(shape, dtype=np.float32)
    half = (np.array(shape, dtype=np.float64) - 1) / 2
    matrix = _rotation(rng.uniform(-0.09, 0.09, 3)) @ np.diag(rng.uniform(0.97, 1.09, 3))
    matrix[0] *= rng.choice([-1.0, 1.0])  # left and right change places in half of the patients
    shift = np.array(CENTRE) + rng.uniform(-2.5, 2.5, 3) - matrix @ half * spacing
    positions = np.tensordot((matrix * spacing).astype(np.float32), grid, axes=1)
    positions += shift.astype(np.float32).reshape(3, 1, 1, 1)
    for axis in range(3):
        positions[axis] += np.float32(3.5) * smooth_noise(rng, shape, spacing, 36.0)
        positions[axis] += np.float32(1.3) * smooth_noise(rng, shape, spacing, 13.0)
    return positions


def _fractions(rng: np.random.Generator, maps: list[Volume], spacing: float) -> list[Volume]:
    """Crisp tissue fractions from blurred probabilities; the noise draws each patient's own folds."""
    shape = (maps[0].shape[0], maps[0].shape[1], maps[0].shape[2])
    scores = [np.exp(SHARPNESS * (p + 0.12 * smooth_noise(rng, shape, spacing, 5.0))) for p in maps]
    total = scores[0] + scores[1] + scores[2]
    return [np.asarray(score / total, dtype=np.float32) for score in scores]


def make_anatomy(rng: np.random.Generator, atlas: Atlas, spacing: float) -> Anatomy:
    """A new patient on a grid of ``spacing`` mm."""
    shape = grid_shape(spacing)
    positions = _atlas_positions(rng, shape, spacing)
    positions -= atlas.origin.astype(np.float32).reshape(3, 1, 1, 1)
    gm, wm, brain, ventricle = (
        ndimage.map_coordinates(part, positions, order=1, mode="nearest", output=np.float32) for part in atlas.tissue
    )
    # Patients differ in how wide their ventricles are.
    ventricle = ventricle - np.float32(rng.uniform(-0.5, 2.5))
    wide = np.clip(0.5 - ventricle / 2, 0, 1)
    gm, wm = gm * (1 - wide), wm * (1 - wide)
    inside = brain > 0.5
    csf = np.clip(1 - gm - wm, 0, 1) * FLUID
    gm, wm, csf = (part * inside for part in _fractions(rng, [gm, wm, csf], spacing))
    return Anatomy(spacing, gm, wm, csf, inside, ventricle)
