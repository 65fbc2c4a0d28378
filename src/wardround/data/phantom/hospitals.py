"""Four synthetic hospitals on disk, in the layout that any hospital's folder has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import yaml
from numpy.typing import NDArray

from wardround.core.errors import Fault, InputError, StorageError
from wardround.core.randomness import rng as random_for
from wardround.data.phantom.anatomy import CENTRE, grid_shape, make_anatomy
from wardround.data.phantom.atlas import load_atlas
from wardround.data.phantom.lesions import draw_lesions
from wardround.data.phantom.scanner import SCANNERS, Scanner, acquire, acquire_mask, signals

SYNTHETIC = "SYNTHETIC"
DESCRIPTION = (
    "SYNTHETIC: computed brains with computed lesions of multiple sclerosis (FLAIR and T1), made from the MNI152 "
    "average brain. No patient. Not for clinical use, and no statement about any real scanner or disease."
)
README = """# SYNTHETIC: site_{name}

{description}

- `images/<case>_FLAIR.nii.gz`, `images/<case>_T1.nii.gz`: skull-stripped, 0 outside the brain.
- `masks/<case>_mask.nii.gz`: 1 lesion, 0 everything else.
- Every case is another subject.
- Written with seed {seed}; the same seed gives the same images.

Source of the anatomy: MNI152 (ICBM 2009a nonlinear symmetric) maps as shipped with nilearn. Copyright (C) 1993-2004
Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill University.
Fonov et al., NeuroImage 54 (2011) 313-327.
"""
SPACING = (1.0, 8.0)  # mm; finer is slow and beyond the atlas, coarser has no lesions left

Progress = Callable[[int, int], None]


def _plan_cases(cases: Mapping[str, int] | None, spacing: float) -> dict[str, int]:
    """How many cases each hospital writes; all faults at once."""
    counts = {scanner.name: scanner.cases for scanner in SCANNERS}
    faults = [
        Fault(f"cases.{name}", f"there is no such hospital; expected one of {', '.join(counts)}")
        for name in (cases or {})
        if name not in counts
    ]
    faults += [
        Fault(f"cases.{name}", f"expected 0 or more cases, found {count}")
        for name, count in (cases or {}).items()
        if count < 0
    ]
    if not SPACING[0] <= spacing <= SPACING[1]:
        faults.append(Fault("spacing", f"expected {SPACING[0]:g} to {SPACING[1]:g} mm, found {spacing:g}"))
    if faults:
        raise InputError("the synthetic hospitals cannot be made as asked", faults)
    return counts if cases is None else {name: cases.get(name, 0) for name in counts}


def _affine(scanner: Scanner, spacing: float) -> NDArray[np.float64]:
    """Voxel to MNI mm: RAS, first voxel at the left, back and bottom of the field of view."""
    voxel = np.array([spacing, spacing, spacing * scanner.slices])
    half = (np.array(grid_shape(spacing)) - 1) / 2 * spacing
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = np.array(CENTRE) - half + (voxel - spacing) / 2
    return affine


def _write_image(path: Path, voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    image = nibabel.Nifti1Image(voxels, affine)
    image.header["descrip"] = SYNTHETIC.encode()
    image.header.set_xyzt_units("mm")
    image.to_filename(path)


def write_case(folder: Path, scanner: Scanner, number: int, seed: int, spacing: float) -> None:
    """One patient of one hospital: FLAIR, T1 and mask, the same for the same seed and number."""
    rng = random_for(seed, "phantom", scanner.name, number)
    anatomy = make_anatomy(rng, load_atlas(), spacing)
    lesions = draw_lesions(rng, anatomy, float(rng.uniform(*scanner.load)))
    case, affine = f"{scanner.name}{number:03d}", _affine(scanner, spacing)
    for name, signal, exponent in zip(("FLAIR", "T1"), signals(rng, anatomy, lesions), scanner.contrast, strict=True):
        voxels = acquire(rng, scanner, signal, anatomy, exponent)
        _write_image(folder / "images" / f"{case}_{name}.nii.gz", voxels, affine)
    _write_image(folder / "masks" / f"{case}_mask.nii.gz", acquire_mask(scanner, lesions), affine)


def _write_papers(folder: Path, scanner: Scanner, seed: int) -> None:
    """The dataset file and the readme that say what this is."""
    dataset = {"synthetic": True, "description": DESCRIPTION, "subject": r"(\w+)"}
    text = yaml.safe_dump(dataset, sort_keys=False, width=110, allow_unicode=True)
    (folder / "dataset.yaml").write_text(text, encoding="utf-8")
    readme = README.format(name=scanner.name, description=DESCRIPTION, seed=seed)
    (folder / "README.md").write_text(readme, encoding="utf-8")


def write_hospitals(
    out: Path,
    seed: int,
    cases: Mapping[str, int] | None = None,
    spacing: float = 2.0,
    progress: Progress | None = None,
) -> list[Path]:
    """Write ``out/site_<name>/{images,masks}`` for four hospitals with four scanners; about a second a case at 2 mm.

    Args:
        out: the folder to write into; made if missing. Files of the same name are overwritten.
        seed: the same seed gives the same images, whatever the number of cases asked for.
        cases: patients per hospital by name; a hospital that is not named is not written. None: 30 in all.
        spacing: voxel size in mm, 1 to 8; one hospital's slices are half as thick again.
        progress: called with (cases written, cases in all).

    Returns:
        The hospitals' folders, in a fixed order.

    Raises:
        InputError: nilearn is missing, a hospital is unknown, a number is out of range.
        StorageError: the folder cannot be written.
    """
    counts = _plan_cases(cases, spacing)
    load_atlas()  # before any folder is made: nilearn may be missing
    total, done, folders = sum(counts.values()), 0, []
    try:
        for scanner in (scanner for scanner in SCANNERS if counts[scanner.name]):
            folder = out / f"site_{scanner.name}"
            for part in ("images", "masks"):
                (folder / part).mkdir(parents=True, exist_ok=True)
            _write_papers(folder, scanner, seed)
            folders.append(folder)
            for number in range(1, counts[scanner.name] + 1):
                write_case(folder, scanner, number, seed, spacing)
                done += 1
                if progress is not None:
                    progress(done, total)
    except OSError as error:
        raise StorageError(
            f"cannot write the synthetic hospitals: {error}; choose another folder or free some space"
        ) from error
    return folders
