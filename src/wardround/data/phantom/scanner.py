"""Four scanners: what makes a hospital's images its own, from tissue to stored numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import ndimage

from wardround.data.phantom.anatomy import Anatomy
from wardround.data.phantom.confounders import add_confounders
from wardround.data.phantom.fields import Volume, blend, smooth_noise
from wardround.data.phantom.lesions import Lesions

# Signal of grey matter, white matter, fluid and lesion on a scale where 1 is about the brightest voxel.
FLAIR = (0.58, 0.44, 0.10, 0.97)
T1 = (0.58, 0.86, 0.16, 0.38)


@dataclass(frozen=True)
class Scanner:
    """How one hospital's images come out.

    Attributes:
        name: the hospital; ``site_<name>`` is its folder.
        cases: how many patients it has unless told otherwise.
        load: least and most lesion volume per patient in ml.
        noise: standard deviation of the noise, on the scale where 1 is about the brightest voxel.
        bias: standard deviation of the logarithm of the bias field.
        blur: standard deviation in mm of the point spread, in plane and through plane.
        slices: voxel size through plane as a multiple of that in plane.
        contrast: exponents on the FLAIR and T1 signal; below 1 flattens.
        scale: stored number of a signal of 1.
        dtype: how numbers are stored.
    """

    name: str
    cases: int
    load: tuple[float, float]
    noise: float
    bias: float
    blur: tuple[float, float]
    slices: float
    contrast: tuple[float, float]
    scale: float
    dtype: DTypeLike


SCANNERS = (
    Scanner("north", 10, (15.0, 28.0), 0.018, 0.06, (0.6, 0.6), 1.0, (1.0, 1.0), 2600.0, np.int16),
    Scanner("river", 8, (11.0, 22.0), 0.034, 0.09, (1.2, 1.2), 1.0, (0.9, 1.15), 190.0, np.uint8),
    Scanner("hill", 6, (13.0, 26.0), 0.022, 0.09, (0.6, 1.2), 1.5, (1.1, 0.9), 640.0, np.int16),
    Scanner("coast", 6, (15.0, 26.0), 0.025, 0.13, (0.9, 0.9), 1.0, (0.85, 0.8), 41000.0, np.float32),
)


def signals(rng: np.random.Generator, anatomy: Anatomy, lesions: Lesions) -> tuple[Volume, Volume]:
    """FLAIR and T1 as an ideal scanner would see them, in [0, about 1]."""
    tissue = np.stack([anatomy.gm, anatomy.wm, anatomy.csf])
    flair, t1 = (np.tensordot(np.array(s[:3], np.float32), tissue, axes=1) for s in (FLAIR, T1))
    flair, t1 = add_confounders(rng, anatomy, flair, t1)
    texture = np.float32(0.05) * smooth_noise(rng, anatomy.shape, anatomy.spacing, 5.0)
    weight = lesions.fraction * lesions.severity
    return blend(flair, FLAIR[3] + texture, weight), blend(t1, T1[3] + texture, weight)


def _thick(volume: Volume, factor: float) -> Volume:
    """Fewer, thicker slices along the last axis; the field of view stays as near as whole slices allow."""
    if factor == 1:
        return volume
    count = round(volume.shape[2] / factor)
    centres = (np.arange(count) + 0.5) * factor - 0.5
    low = np.clip(np.floor(centres).astype(np.int64), 0, volume.shape[2] - 2)
    part = np.clip(centres - low, 0, 1).astype(np.float32)
    return np.asarray(volume[:, :, low] * (1 - part) + volume[:, :, low + 1] * part, dtype=np.float32)


def _store(values: Volume, dtype: DTypeLike) -> NDArray[np.generic]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return values.astype(kind)
    return np.clip(np.rint(values), 0, np.iinfo(kind).max).astype(kind)


def acquire(
    rng: np.random.Generator, scanner: Scanner, signal: Volume, anatomy: Anatomy, exponent: float
) -> NDArray[np.generic]:
    """One stored image: blur, contrast, bias field, slices, noise, numbers. 0 outside the brain, above 0 inside."""
    in_plane, through = (millimetres / anatomy.spacing for millimetres in scanner.blur)
    seen = ndimage.gaussian_filter(signal, (in_plane, in_plane, through), truncate=2.5)
    seen = np.maximum(seen, 0) ** np.float32(exponent)
    seen = seen * np.exp(np.float32(scanner.bias) * smooth_noise(rng, anatomy.shape, anatomy.spacing, 70.0))
    seen, inside = _thick(seen, scanner.slices), _thick(anatomy.brain.astype(np.float32), scanner.slices) > 0.5
    real = seen + np.float32(scanner.noise) * rng.standard_normal(seen.shape, dtype=np.float32)
    imaginary = np.float32(scanner.noise) * rng.standard_normal(seen.shape, dtype=np.float32)
    magnitude = np.hypot(real, imaginary)  # noise of a magnitude image: Rician
    gain = scanner.scale * float(rng.uniform(0.85, 1.15))  # a technician's or the console's, new for each image
    return np.where(inside, np.maximum(_store(magnitude * gain, scanner.dtype), 1), 0).astype(scanner.dtype)


def acquire_mask(scanner: Scanner, lesions: Lesions) -> NDArray[np.uint8]:
    """The reference on the image's grid: 1 where at least half of the voxel is lesion."""
    return (_thick(lesions.fraction, scanner.slices) >= 0.5).astype(np.uint8)
