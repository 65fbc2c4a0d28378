"""BIDS: ``sub-*/[ses-*/]anat/``, masks anywhere in ``derivatives/`` under the same subject and session."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from wardround.data.case import CaseFiles, Source
from wardround.data.case_names import ending, is_picture, stem
from wardround.data.findings import Finding
from wardround.data.layouts import Listing, ambiguous, ignored, list_folder

DEPTH = 3  # folders between derivatives/ and sub-*/
MASK_KINDS = frozenset(("mask", "dseg", "probseg", "lesion", "lesions", "label", "labels", "seg", "roi"))
_BRAIN = re.compile(r"(desc|label)-(brain|skull|head|bet|brainmask)(?![A-Za-z0-9])", re.IGNORECASE)
_FOLDER = re.compile(r"sub-[A-Za-z0-9]+")


def list_bids(root: Path) -> Listing | None:
    """The dataset as BIDS, or None where there is no ``sub-*/[ses-*/]anat``."""
    sessions = dict(_sessions(root))
    if not sessions:
        return None
    masks: defaultdict[str, list[Path]] = defaultdict(list)
    for folder in _subject_parents(root / "derivatives", DEPTH):
        for case, anat in _sessions(folder):
            masks[case] += [path for path in list_folder(anat)[0] if _is_mask(path)]
    cases, notes = [], []
    for case, anat in sorted(sessions.items()):
        images, more = _images(anat)
        mask, unclear = _mask(case, masks.get(case, []))
        notes += [*more, *unclear]
        cases.append(CaseFiles(case, images, mask, subject=case.split("_")[0]))
    notes += [
        Finding(case, "note", "mask_without_image", f"{paths[0].name} has no images in {case.replace('_', '/')}/anat")
        for case, paths in sorted(masks.items())
        if case not in sessions and paths
    ]
    return Listing("BIDS", tuple(cases), tuple(notes))


def _sessions(root: Path) -> Iterator[tuple[str, Path]]:
    """Case names and their anat folders under a folder of subjects."""
    for subject in sorted(root.glob("sub-*")):
        if not _FOLDER.fullmatch(subject.name):
            continue
        if (subject / "anat").is_dir():
            yield subject.name, subject / "anat"
        for session in sorted(subject.glob("ses-*")):
            if (session / "anat").is_dir():
                yield f"{subject.name}_{session.name}", session / "anat"


def _subject_parents(folder: Path, depth: int) -> Iterator[Path]:
    """Folders that hold ``sub-*`` folders, no deeper than ``depth`` below ``folder``."""
    if not folder.is_dir():
        return
    yield folder
    if depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.name.startswith(("sub-", ".")):
                yield from _subject_parents(child, depth - 1)


def _kind(path: Path) -> str:
    return stem(path).rpartition("_")[2]


def _is_mask(path: Path) -> bool:
    return _kind(path).casefold() in MASK_KINDS


def _images(anat: Path) -> tuple[dict[str, Source], list[Finding]]:
    """The images of a session; with several of a kind, the name's other parts tell them apart."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    files, _ = list_folder(anat)  # the JSON files beside the images belong to BIDS and need no note
    for path in files:
        if not is_picture(path) and not _is_mask(path):
            groups[_kind(path)].append(path)
    sources: dict[str, Source] = {}
    for kind, paths in groups.items():
        for path in paths:
            sources[kind if len(paths) == 1 else _entities(path)] = Source(path)
    others = [path.name for path in files if is_picture(path) and ending(path)]
    return sources, [ignored(anat, others)] if others else []


def _entities(path: Path) -> str:
    """``acq-sag_T1w`` of ``sub-01_ses-02_acq-sag_T1w.nii.gz``."""
    return "_".join(part for part in stem(path).split("_") if not part.startswith(("sub-", "ses-")))


def _mask(case: str, paths: list[Path]) -> tuple[Path | None, list[Finding]]:
    """The one mask of a case; masks of the brain are none."""
    chosen = [path for path in paths if not _BRAIN.search(path.name)]
    if len(chosen) > 1:
        return None, [ambiguous(case, "mask", chosen)]
    return (chosen[0] if chosen else None), []
