"""Tiny cases with two labels and two modalities, for hospitals that lack some of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tiny import SIZE

TASK: dict[str, Any] = {
    "dimensions": 3,
    "modalities": ["FLAIR", "T1"],
    "optional": ["T1"],
    "labels": {"ball": 1, "shell": 2},
}


def write_two(folder: Path, cases: int = 4, *, t1: bool = True) -> Path:
    """Cases with a ball and a shell around it; FLAIR and, if wanted, T1."""
    random = np.random.default_rng(len(folder.name))
    grid = np.stack(np.meshgrid(*map(np.arange, SIZE), indexing="ij")) - np.reshape([n / 2 for n in SIZE], (3, 1, 1, 1))
    distance = np.sqrt((grid**2).sum(0))
    label = np.where(distance < 3, 1, np.where(distance < 5, 2, 0)).astype(np.uint8)
    for sub in ("images", "masks"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        for name in ("FLAIR", "T1") if t1 else ("FLAIR",):
            image = (random.normal(1, 0.2, SIZE) + label).astype(np.float32)
            nib.save(nib.Nifti1Image(image, np.eye(4)), folder / "images" / f"p{number}_{name}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), folder / "masks" / f"p{number}.nii.gz")
    return folder
