"""Tiny sites, plans and runs for tests: generated, learnable in seconds, never real."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import yaml

from wardround.planning.plan import Plan

SIZE = (12, 16, 12)


def write_case(folder: Path, name: str, seed: int, *, scale: float = 1.0, size: tuple[int, ...] = SIZE) -> None:
    """A bright ball in noise; one modality."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(float)
    centre = np.array([n * random.uniform(0.35, 0.65) for n in size]).reshape(3, 1, 1, 1)
    ball = ((grid - centre) ** 2).sum(0) < random.uniform(3, 4.5) ** 2
    image = (random.normal(1, 0.2, size) + 2 * ball) * scale
    affine = np.diag([1.0, 1.0, 1.5, 1.0])
    for sub, array in (("images", image.astype(np.float32)), ("masks", ball.astype(np.uint8))):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, affine), folder / sub / f"{name}.nii.gz")


def write_site(folder: Path, cases: int = 4, seed: int = 0, scale: float = 1.0) -> Path:
    for number in range(cases):
        write_case(folder, f"case_{number:02d}", 100 * seed + number, scale=scale)
    return folder


def write_sites(root: Path, names: Sequence[str] = ("A", "B")) -> Path:
    """Site folders and a sites file; returns the file."""
    for index, name in enumerate(names):
        write_site(root / f"site_{name}", seed=index + 1, scale=10.0**index)
    file = root / "sites.yaml"
    sites = [{"name": name, "folder": f"site_{name}"} for name in names]
    file.write_text(yaml.safe_dump({"sites": sites, "workers": 1}))
    return file


def plan_dict(**changes: Any) -> dict[str, Any]:
    """A valid plan of two quick rounds; ``changes`` replace whole sections."""
    plan: dict[str, Any] = {
        "wardround": 1,
        "study": {"title": "A tiny study"},
        "task": {"dimensions": 3, "modalities": ["T1"], "labels": {"ball": 1}},
        "network": {"name": "unet", "features": [4, 8]},
        "training": {"steps": 3, "batch": 2, "patch": [12, 16, 12], "precision": "fp32", "optimiser": {"rate": 0.01}},
        "rounds": {"limit": 2},
        "evaluation": {"folds": 3},
    }
    return {**plan, **changes}


def make_plan(**changes: Any) -> Plan:
    plan = plan_dict(**changes)
    optimiser = plan["training"].get("optimiser")
    if optimiser is not None:
        optimiser.setdefault("name", "adamw")
    return Plan.model_validate(plan)


def write_plan(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump(json.loads(make_plan(**changes).canonical()), sort_keys=False))
    return path
