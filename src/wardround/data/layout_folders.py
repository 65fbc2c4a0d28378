"""``images/`` and ``masks/`` with matching names.

``masks/`` shows where a case's name ends: ``mss_000_mask.nii.gz`` makes ``mss_000_FLAIR.nii.gz`` the
FLAIR of ``mss_000``, and ``chase_01L.png`` makes ``chase_01L.png`` a case with one nameless image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from wardround.data.case import CaseFiles, Source
from wardround.data.case_names import MASK_SUFFIX, looks_like_modality, stem
from wardround.data.findings import Finding
from wardround.data.layouts import Listing, ambiguous, list_folder

MASK_FOLDERS = ("masks", "labels", "segmentations")


def list_folders(root: Path, known: Iterable[str]) -> Listing | None:
    """The dataset as ``images/`` + ``masks/``, or None where there is no ``images/``.

    Args:
        root: the dataset's folder.
        known: further modality names of the site (from its spec), to recognise in images without mask.
    """
    if not (root / "images").is_dir():
        return None
    images, notes = list_folder(root / "images")
    folder = next((root / name for name in MASK_FOLDERS if (root / name).is_dir()), None)
    masks, more = list_folder(folder) if folder else ([], [])
    notes += more
    by_case, unclear = _masks_by_case(masks, {stem(path) for path in images})
    notes += unclear
    found = _assign(images, set(by_case), {name.casefold() for name in known})
    cases = []
    for case, files in sorted(found.items()):
        notes += [ambiguous(case, f"{name or 'only'} image", paths) for name, paths in files.items() if len(paths) > 1]
        sources = {name: Source(paths[0]) for name, paths in sorted(files.items()) if len(paths) == 1}
        cases.append(CaseFiles(case, sources, by_case.get(case)))
    notes += [
        Finding(case, "note", "mask_without_image", f"{path.name} has no image named after {case}")
        for case, path in sorted(by_case.items())
        if case not in found and path is not None
    ]
    return Listing("images + masks", tuple(cases), tuple(notes))


def _masks_by_case(masks: list[Path], images: set[str]) -> tuple[dict[str, Path | None], list[Finding]]:
    """Each case's mask; None where several files could be it."""
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in masks:
        name = stem(path)
        groups[name if name in images else MASK_SUFFIX.sub("", name)].append(path)
    notes = [ambiguous(case, "mask", paths) for case, paths in groups.items() if len(paths) > 1]
    return {case: paths[0] if len(paths) == 1 else None for case, paths in groups.items()}, notes


def _assign(images: list[Path], cases: set[str], known: set[str]) -> dict[str, dict[str, list[Path]]]:
    """Case -> the site's modality name -> files."""
    found: defaultdict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    exact = sum(stem(path) in cases for path in images)
    nameless = exact * 2 >= max(len(cases), 1)  # most masks are named exactly like an image
    leftover = []
    for path in images:
        name = stem(path)
        case = name if name in cases else None if nameless else _longest_prefix(name, cases)
        if case is None:
            leftover.append(path)
        else:
            found[case][name[len(case) + 1 :]].append(path)
    seen = known | {modality.casefold() for files in found.values() for modality in files if modality}
    for path in leftover:
        case, modality = _split(stem(path), seen)
        found[case][modality].append(path)
    return found


def _longest_prefix(name: str, cases: set[str]) -> str | None:
    """The longest case that ``name`` begins with, up to a separator."""
    cuts = [index for index, letter in enumerate(name) if letter in "_-" and index]
    return next((name[:cut] for cut in reversed(cuts) if name[:cut] in cases), None)


def _split(name: str, seen: set[str]) -> tuple[str, str]:
    """Case and modality of an image that has no mask, by the modalities seen elsewhere."""
    cuts = [index for index, letter in enumerate(name) if letter in "_-" and index]
    for cut in cuts:
        if name[cut + 1 :].casefold() in seen:
            return name[:cut], name[cut + 1 :]
    if cuts and looks_like_modality(name[cuts[-1] + 1 :]):
        return name[: cuts[-1]], name[cuts[-1] + 1 :]
    return name, ""
