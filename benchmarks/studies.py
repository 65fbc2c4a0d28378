"""Strategies on sites that differ: `wardround compare` on three sets of four sites, as a user would start it.

Each study is a folder that goes on where it was stopped (``--out``); its table goes to docs/results/ with
command, date and seeds. ``shift`` makes its sites first, outside the repository: the hippocampus images with
the masks of one site eroded and of another dilated by a voxel, as annotators with opposite habits would.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
PLANS = Path(__file__).with_name("plans")
# SCAFFOLD's controls are gradients only under plain SGD, so FedAvg with the same optimiser stands beside it.
SGD = "training: {steps: 20, batch: 2, patch: [32, 40, 32], precision: bf16, foreground: 0.33, "
SGD += "optimiser: {name: sgd, momentum: 0, rate: RATE}, "
SGD += "augmentation: {flip: 0.0, rotate: 0.2, degrees: 15, scale: 0.2, scale_range: [0.85, 1.2]}}"
OWN_AFFINE = "norm.affine: {private: {tensors: [norm.affine], unseen: mean}}"
FINETUNE = "finetune: {finetune: {steps: 40, rate: 0.0005}}"
PROX = "fedprox: {strategy: {name: fedprox, mu: 0.01}}"
DITTO = "ditto: {strategy: {name: ditto, strength: 0.1}}"


def erode(mask: np.ndarray) -> np.ndarray:
    """One voxel less at every face of the whole structure."""
    return np.where(ndimage.binary_erosion(mask > 0), mask, 0).astype(mask.dtype)


def dilate(mask: np.ndarray) -> np.ndarray:
    """One voxel more at every face; a new voxel is given the label of the nearest old one."""
    if not mask.any():
        return mask
    nearest = ndimage.distance_transform_edt(mask == 0, return_distances=False, return_indices=True)
    return np.where(ndimage.binary_dilation(mask > 0), mask[tuple(nearest)], 0).astype(mask.dtype)


def opposite_styles(data: Path, out: Path) -> Path:
    """Four sites of the hippocampus images: H2 outlines too little, H3 too much. Returns their sites file."""
    source, entries = data / "hippocampus_msd", []
    styles = {"site_H2_float_lo": erode, "site_H3_float_hi": dilate}
    for folder in sorted(source.glob("site_*")):
        place = out / "opposite-styles" / folder.name
        entries.append({"name": folder.name.split("_")[1], "folder": str(place)})
        for kind in ("images", "masks"):
            (place / kind).mkdir(parents=True, exist_ok=True)
            for file in sorted((folder / kind).iterdir()):
                copy = place / kind / file.name
                if copy.exists():
                    continue
                part = copy.with_name(f"part-{file.name}")
                if kind == "masks" and folder.name in styles:
                    image = nib.load(file)
                    changed = styles[folder.name](np.asarray(image.dataobj).astype(np.uint8))
                    nib.save(nib.Nifti1Image(changed, image.affine), part)
                else:
                    part.write_bytes(file.read_bytes())
                part.replace(copy)
    file = out / "opposite-styles" / "sites.yaml"
    file.write_text(yaml.safe_dump({"sites": entries}, sort_keys=False))
    return file


def compare(name: str, title: str, words: str, sites: Path, options: argparse.Namespace, *more: str) -> None:
    """Carry a study out, or go on with it, and write its table down."""
    folder = options.out / name
    plan = PLANS / ("ms-lesions.yaml" if name == "ms-lesions" else "hippocampus.yaml")
    command = [sys.executable, "-m", "wardround", "compare", str(plan), "--sites", str(sites)]
    command += ["--data-root", str(options.data), "--seeds", str(options.seeds), "--out", str(folder), *more]
    subprocess.run(command, check=True, cwd=ROOT)
    when = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, no GPU, "
    text = [
        f"# {title}",
        "",
        f"Printed by `python benchmarks/studies.py {name}` ({when}seeds 0 to {options.seeds - 1}); the plan is "
        f"`benchmarks/plans/{plan.name}`.",
        "",
        words,
        "",
        (folder / "comparison.md").read_text(),
    ]
    (options.results / f"compare-{name}.md").write_text("\n".join(text), encoding="utf-8")


def hippocampus(options: argparse.Namespace) -> None:
    """Four intensity regimes."""
    words = (
        "Four sites whose images differ in intensity scale alone: a mild shift. All masks are real. Local-only and "
        "pooled train as the first variant does; the pair with SGD shows what SCAFFOLD's controls add to FedAvg with "
        "the same optimiser. Updates are optimiser steps of one model; fine-tuning takes 40 more at each site."
    )
    variants = [PROX, OWN_AFFINE, DITTO, FINETUNE]
    sgd = SGD.replace("RATE", str(options.sgd_rate))
    variants += [f"fedavg, SGD: {{{sgd}}}", f"scaffold, SGD: {{strategy: {{name: scaffold}}, {sgd}}}"]
    given = [part for text in variants for part in ("--variant", text)]
    sites = ROOT / "examples" / "hippocampus" / "sites.yaml"
    title = "Hippocampus: strategies at equal updates"
    compare("hippocampus", title, words, sites, options, "--strategies", "fedavg", *given, "--leave-one-out")


def ms_lesions(options: argparse.Namespace) -> None:
    """Four simulated scanners."""
    words = (
        "**Semi-synthetic images of only two anatomies: plumbing and scanner shift, no claim about generalisation, "
        "never a clinical result.** Sites have 1 to 3 test cases, and 160 updates are few for lesions: see "
        "[ms-lesions.md](ms-lesions.md) for twice as many. At C-biased, which has one test case, no model finds them "
        "within this budget: what is said of it below compares failures."
    )
    given = [part for text in (OWN_AFFINE, DITTO, FINETUNE) for part in ("--variant", text)]
    sites = ROOT / "examples" / "ms-lesions" / "sites.yaml"
    title = "MS lesions: strategies at equal updates"
    compare("ms-lesions", title, words, sites, options, "--strategies", "fedavg", *given, "--leave-one-out")


def shift(options: argparse.Namespace) -> None:
    """Opposite annotation styles."""
    words = (
        "**Constructed shift.** Real images; the masks of H2 are eroded and those of H3 dilated by one voxel, those "
        "of H1 and H4 are as they were. A site is tested in its own style, so one shared model cannot suit all."
    )
    longer = "finetune 80: {finetune: {steps: 80, rate: 0.001}}"
    given = [part for text in (OWN_AFFINE, DITTO, FINETUNE, longer) for part in ("--variant", text)]
    sites = opposite_styles(options.data, options.out)
    title = "Opposite annotation styles: strategies at equal updates"
    compare("shift", title, words, sites, options, "--strategies", "fedavg", *given)


STUDIES = {"hippocampus": hippocampus, "shift": shift, "ms-lesions": ms_lesions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "studies")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sgd-rate", type=float, default=1.0)
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not there: the images are not part of the repository (--data)")
    options.out, options.data = options.out.resolve(), options.data.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    options.results.mkdir(parents=True, exist_ok=True)
    for name in options.studies or STUDIES:
        STUDIES[name](options)


if __name__ == "__main__":
    main()
