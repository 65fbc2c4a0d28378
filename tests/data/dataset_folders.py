"""Small dataset folders for the tests of the dataset layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHAPE = (8, 9, 10)
AFFINE = np.array([[1.0, 0, 0, -4], [0, 1.0, 0, -5], [0, 0, 2.0, -6], [0, 0, 0, 1]])


def voxels(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(10, 100, shape).astype(np.float32)


def cube(shape: tuple[int, ...] = SHAPE, value: int = 1) -> NDArray[np.uint8]:
    mask = np.zeros(shape, np.uint8)
    mask[2:5, 2:6, 3:7] = value
    return mask


def save(path: Path, data: NDArray[Any], affine: NDArray[Any] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def save_picture(path: Path, data: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(data).save(path)
    return path


def make_site(root: Path, cases: int = 4, modalities: tuple[str, ...] = ("FLAIR", "T1")) -> Path:
    """``images/`` + ``masks/`` as the shared multiple sclerosis set has them."""
    for case in range(cases):
        for place, name in enumerate(modalities):
            suffix = f"_{name}" if name else ""
            save(root / "images" / f"p{case}{suffix}.nii.gz", voxels(10 * case + place))
        save(root / "masks" / f"p{case}_mask.nii.gz", cube())
    return root


def touch(root: Path, *names: str) -> Path:
    """Empty files: layouts list, they do not open."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def describe(root: Path, **content: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))
    return root
