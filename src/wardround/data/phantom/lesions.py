"""Lesions of multiple sclerosis: irregular, in white matter, beside the ventricles, deep, or under the cortex."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wardround.data.phantom.anatomy import Anatomy
from wardround.data.phantom.fields import Volume, ramp, smooth_noise

PLACES = {"periventricular": 0.55, "deep": 0.2, "juxtacortical": 0.25}
DIAMETER = (3.0, 25.0)  # mm
MOST = 80  # lesions in one patient
ROUGHNESS = 0.28  # how far an outline strays from an ellipsoid, as a part of its radius


@dataclass(frozen=True)
class Lesions:
    """``fraction`` of each voxel that is lesion, and how ``severe`` it is there; both in [0, 1]."""

    fraction: Volume
    severity: Volume

    @property
    def mask(self) -> NDArray[np.uint8]:
        """1 where at least half of the voxel is lesion."""
        return (self.fraction >= 0.5).astype(np.uint8)


def _places(anatomy: Anatomy) -> dict[str, NDArray[np.int64]]:
    """Flat indices of the voxels where lesions of each kind may be centred."""
    white = anatomy.wm > 0.6
    distance = anatomy.ventricle
    low = np.arange(anatomy.shape[2]) * anatomy.spacing < 45  # below: brain stem and cerebellum
    white[:, :, low] = False
    near_cortex = ndimage.uniform_filter(anatomy.gm, max(1, round(6 / anatomy.spacing))) > 0.22
    return {
        "periventricular": np.flatnonzero(white & (distance > 1) & (distance < 9)),
        "deep": np.flatnonzero(white & (distance > 9) & ~near_cortex),
        "juxtacortical": np.flatnonzero(white & (distance > 14) & near_cortex),
    }


def _axes(rng: np.random.Generator, diameter: float) -> NDArray[np.float64]:
    """A random ellipsoid, as the 3 x 3 matrix that maps mm from its centre to radii."""
    stretch = np.exp(rng.normal(0, 0.25, 3))
    stretch /= stretch.prod() ** (1 / 3)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return np.asarray(np.diag(1 / (stretch * diameter / 2)) @ turn)


def _window(centre: NDArray[np.int64], reach: int, shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    x, y, z = (slice(max(0, int(c) - reach), min(n, int(c) + reach + 1)) for c, n in zip(centre, shape, strict=True))
    return x, y, z


def _draw_one(
    rng: np.random.Generator, anatomy: Anatomy, centre: NDArray[np.int64], rough: Volume, into: Lesions
) -> None:
    diameter = float(np.clip(rng.lognormal(np.log(10.0), 0.38), *DIAMETER))
    box = _window(centre, int(np.ceil(diameter / anatomy.spacing)) + 1, anatomy.shape)
    start = np.array([s.start for s in box]).reshape(3, 1, 1, 1)
    grid = (np.indices(rough[box].shape) + start - centre.reshape(3, 1, 1, 1)) * anatomy.spacing
    radii = np.sqrt((np.tensordot(_axes(rng, diameter), grid, axes=1) ** 2).sum(axis=0))
    inside_mm = (1 - radii - ROUGHNESS * rough[box]) * diameter / 2
    fraction = np.clip(0.5 + inside_mm / 2.0, 0, 1).astype(np.float32)  # the border is 2 mm wide
    severity = np.float32(rng.uniform(0.75, 1.0))
    new = fraction > into.fraction[box]
    into.severity[box][new] = severity
    into.fraction[box][new] = fraction[new]


def draw_lesions(rng: np.random.Generator, anatomy: Anatomy, load: float) -> Lesions:
    """Lesions until they fill ``load`` ml (the last one may exceed it); they may touch, and lie in white matter."""
    zeros = np.zeros(anatomy.shape, dtype=np.float32)
    lesions = Lesions(zeros, zeros.copy())
    rough = smooth_noise(rng, anatomy.shape, anatomy.spacing, 6.0)
    room = ramp(anatomy.wm + np.float32(0.35) * anatomy.gm, 0.15, 0.55)
    places, names = _places(anatomy), rng.choice(list(PLACES), size=MOST, p=list(PLACES.values()))
    for candidates in (places[str(name)] for name in names):
        if candidates.size:
            centre = np.array(np.unravel_index(int(rng.choice(candidates)), anatomy.shape))
            _draw_one(rng, anatomy, centre, rough, lesions)
        if float((lesions.fraction * room).sum()) * anatomy.spacing**3 / 1000 >= load:
            break
    return Lesions(lesions.fraction * room, lesions.severity)
