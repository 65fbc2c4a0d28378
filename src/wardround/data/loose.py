"""Images that lie in no dataset: single files or folders of them, for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wardround.core.errors import Fault, InputError
from wardround.data.case import CaseFiles, Source
from wardround.data.case_names import ending, same_modality, stem


def open_images(paths: Sequence[Path], modalities: Sequence[str]) -> list[CaseFiles]:
    """Group image files into cases by their names.

    ``p01_FLAIR`` and ``p01_T1`` are one case; ``p01_0000`` and ``p01_0001`` (nnU-Net) too. With one
    modality, or for colour pictures, a file without such an ending is a case.

    Raises:
        InputError: a path is not there, is no image, or two files claim the same place; lists all.
    """
    cases: dict[str, dict[str, Source]] = {}
    faults = []
    for path in (file for given in paths for file in _files(given)):
        if not path.is_file():
            faults.append(Fault(str(path), "is not there"))
        elif ending(path) is None:
            faults.append(Fault(str(path), "is not .nii, .nii.gz, .png or .tif"))
        else:
            name, modality = _split(stem(path), modalities)
            if modality in cases.setdefault(name, {}):
                faults.append(Fault(str(path), f"is a second image of case {name}"))
            cases[name][modality] = Source(path)
    if not cases and not faults:
        faults.append(Fault("", "no image was found"))
    if faults:
        raise InputError("cannot predict on these files", faults)
    return [CaseFiles(name, images, mask=None) for name, images in sorted(cases.items())]


def _files(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if ending(p) is not None) if path.is_dir() else [path]


def _split(name: str, modalities: Sequence[str]) -> tuple[str, str]:
    base, _, last = name.rpartition("_")
    if base:
        for modality in modalities:
            if same_modality(last, modality):
                return base, modality
        if last.isdigit() and len(last) == 4 and int(last) < len(modalities):
            return base, modalities[int(last)]
    return name, ""
