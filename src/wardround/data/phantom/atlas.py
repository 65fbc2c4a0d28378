"""The average brain that every synthetic patient is a deformation of: MNI152 maps, as shipped inside nilearn."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wardround.core.errors import Fault, InputError
from wardround.data.phantom.fields import Volume

# The lateral ventricles lie inside this box of MNI millimetres (left-right, back-front, down-up).
VENTRICLE_BOX = ((-38, 38), (-60, 38), (-4, 34))
FAR = 24  # mm
VENTRICLES = 2  # the two largest pieces of dark fluid in the box: left and right


@dataclass(frozen=True)
class Atlas:
    """Maps on one 1 mm grid, axes left-right, back-front, down-up; ``origin`` is voxel (0, 0, 0) in MNI mm.

    ``tissue`` is (4, X, Y, Z): grey matter, white matter, brain (all in [0, 1]), and the distance to the
    lateral ventricles in mm, negative inside them and at most `FAR`.
    """

    tissue: Volume
    origin: NDArray[np.float64]


def _load_maps() -> tuple[list[NDArray[Any]], NDArray[Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nilearn announces its own and scikit-learn's changes on import
            from nilearn import datasets  # noqa: PLC0415 - an optional package

            loaders = (
                datasets.load_mni152_template,
                datasets.load_mni152_gm_template,
                datasets.load_mni152_wm_template,
            )
            images = [load(resolution=1) for load in loaders]
    except ImportError as error:
        raise InputError(
            "synthetic hospitals need the package nilearn, which ships the average brain they are made from",
            [Fault("", 'install it with: pip install "wardround[demo]"')],
        ) from error
    return [np.asarray(image.dataobj, dtype=np.float32) for image in images], np.asarray(images[0].affine)


def ventricle_distance(t1: Volume, fluid: Volume, origin: NDArray[np.float64]) -> Volume:
    """Millimetres to the lateral ventricles on a 1 mm grid, negative inside, from a T1 map in [0, 1].

    Exact up to `FAR`, which also stands for everything farther away.
    """
    limits = zip(VENTRICLE_BOX, origin, t1.shape, strict=True)
    box = tuple(slice(max(0, round(low - o)), min(n, round(high - o) + 1)) for (low, high), o, n in limits)
    near = tuple(slice(max(0, side.start - FAR), side.stop + FAR) for side in box)
    pieces, count = ndimage.label((t1[box] < 0.42) & (fluid[box] > 0.5))
    volumes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    inside = np.zeros(t1.shape, dtype=bool)
    inside[box] = np.isin(pieces, 1 + np.argsort(volumes)[-VENTRICLES:])
    distance = np.full(t1.shape, FAR, dtype=np.float32)
    outer, inner = (ndimage.distance_transform_edt(part) for part in (~inside[near], inside[near]))
    distance[near] = np.minimum(outer - inner, FAR)
    return distance


@cache
def load_atlas() -> Atlas:
    """The maps, read once per process (about 2 s).

    Raises:
        InputError: nilearn is not installed.
    """
    (t1, gm, wm), affine = _load_maps()
    origin = np.asarray(affine[:3, 3], dtype=np.float64)
    brain = np.asarray(t1 > 0.05, dtype=np.float32)
    distance = ventricle_distance(t1, brain - gm - wm, origin)
    return Atlas(np.stack([gm, wm, brain, distance]), origin)
