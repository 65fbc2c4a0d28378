"""Which of the usual folder layouts a dataset has. Files are listed, not opened; links may lead anywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wardround.core.errors import DatasetError
from wardround.data.case import CaseFiles
from wardround.data.case_names import ending
from wardround.data.findings import Finding

MAX_FILES = 200_000


@dataclass(frozen=True)
class Listing:
    """A dataset folder as its layout reads it. Modalities bear the site's own names, "" where there is none."""

    layout: str
    cases: tuple[CaseFiles, ...]
    notes: tuple[Finding, ...] = ()
    labels: dict[int, str] = field(default_factory=dict)  # as the dataset itself declares them


def list_folder(folder: Path) -> tuple[list[Path], list[Finding]]:
    """The image files of a folder in name order, and a note on what is there besides.

    Raises:
        DatasetError: the folder cannot be listed, or holds more files than any dataset here may have.
    """
    files: list[Path] = []
    others: list[str] = []
    try:
        for count, path in enumerate(folder.iterdir()):
            if count >= MAX_FILES:
                raise DatasetError(f"{folder} holds more than {MAX_FILES} files")
            if path.name.startswith("."):
                continue
            if ending(path) and not path.is_dir():
                files.append(path)
            else:
                others.append(path.name)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror or error}") from error
    return sorted(files), [ignored(folder, sorted(others))] if others else []


def ignored(folder: Path, names: list[str]) -> Finding:
    """The note on files that no reader takes."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return Finding("", "note", "ignored_file", f"{folder.name}/ also holds {shown}: only NIfTI, PNG and TIFF are read")


def ambiguous(case: str, what: str, paths: list[Path]) -> Finding:
    """The note on files of which only one can be meant."""
    names = ", ".join(sorted(path.name for path in paths))
    return Finding(case, "note", "ambiguous_file", f"{names} could each be the {what}: keep one of them here")
