"""Things that look like lesions in one image: why a brightness threshold on FLAIR fails.

Each differs from a lesion in T1, place or shape: halos and caps around the ventricles and dirty white matter leave
T1 as it is, bright cortex is grey matter, choroid plexus and flow artefacts lie in fluid, vessels are thin, and
perivascular spaces are dark in T1 but not bright in FLAIR.
"""

from __future__ import annotations

import numpy as np

from wardround.data.phantom.anatomy import Anatomy
from wardround.data.phantom.fields import Volume, blend, ramp, smooth_noise


def _tubes(rng: np.random.Generator, anatomy: Anatomy, length: float, width: float) -> Volume:
    """Winding tubes, in [0, 1]: where two smooth fields are both near zero."""
    a = smooth_noise(rng, anatomy.shape, anatomy.spacing, length)
    b = smooth_noise(rng, anatomy.shape, anatomy.spacing, length)
    return np.asarray(np.exp(-(a * a + b * b) / np.float32(2 * (width / length) ** 2)), dtype=np.float32)


def _patches(rng: np.random.Generator, anatomy: Anatomy, length: float, low: float, high: float) -> Volume:
    """Soft blobs where smooth noise rises above ``low`` (in standard deviations)."""
    return ramp(smooth_noise(rng, anatomy.shape, anatomy.spacing, length), low, high)


def add_confounders(rng: np.random.Generator, anatomy: Anatomy, flair: Volume, t1: Volume) -> tuple[Volume, Volume]:
    """Both images with everything that is bright, or dark, and no lesion. Intensities: see `scanner`."""
    distance, shape, spacing = anatomy.ventricle, anatomy.shape, anatomy.spacing
    wm, gm, csf = anatomy.wm, anatomy.gm, anatomy.csf

    dirty = wm * _patches(rng, anatomy, 22.0, 0.4, 1.6)
    flair = blend(flair, 0.62, 0.7 * dirty)

    thickness = np.clip(1.8 + 1.7 * smooth_noise(rng, shape, spacing, 16.0), -1.0, 6.0)
    halo = ramp(thickness - distance, -1.5, 2.0) * (1 - csf)
    flair = blend(flair, 1.0, halo)

    cortex = gm * _patches(rng, anatomy, 12.0, 0.55, 1.7) * ramp(distance, 10.0, 16.0)
    flair = blend(flair, 1.06, cortex)

    plexus = csf * ramp(-distance, -0.5, 1.0) * _patches(rng, anatomy, 7.0, 0.5, 1.3)
    flair, t1 = blend(flair, 0.98, plexus), blend(t1, 0.6, plexus)

    flow = csf * ramp(distance, 4.0, 8.0) * _patches(rng, anatomy, 9.0, 1.1, 1.8)
    flair = blend(flair, 1.0, flow)

    vessels = wm * _tubes(rng, anatomy, 20.0, 1.3)
    flair, t1 = blend(flair, 0.95, vessels), blend(t1, 0.95, vessels)

    spaces = wm * _tubes(rng, anatomy, 18.0, 1.1)
    return blend(flair, 0.25, spaces), blend(t1, 0.4, spaces)
