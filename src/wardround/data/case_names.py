"""File names taken apart: endings, modality suffixes, mask suffixes."""

from __future__ import annotations

import re
from pathlib import Path

NIFTI = (".nii.gz", ".nii")
PICTURES = (".png", ".tiff", ".tif")
MASK_SUFFIX = re.compile(r"[_-](mask|masks|seg|segmentation|label|labels|lesion|lesions|gt|dseg)$", re.IGNORECASE)

# What the last part of a name means where no mask shows which part is the case
COMMON_MODALITIES = frozenset(
    (
        *("flair", "t1", "t1w", "t1c", "t1ce", "t1gd", "t1n", "t2", "t2w", "t2f", "t2star", "t2starw", "pd", "pdw"),
        *("dwi", "adc", "swi", "dir", "ct", "ctp", "cta", "pet", "mra", "bold"),
    )
)


def ending(path: Path) -> str | None:
    """The file's ending in lower case where it is one that is read, else None."""
    name = path.name.lower()
    return next((end for end in (*NIFTI, *PICTURES) if name.endswith(end)), None)


def stem(path: Path) -> str:
    """The name without its ending."""
    return path.name[: -len(ending(path) or "")] if ending(path) else path.name


def is_picture(path: Path) -> bool:
    """True for PNG and TIFF."""
    return ending(path) in PICTURES


def same_modality(first: str, second: str) -> bool:
    """True where two names mean one modality: ``FLAIR`` and ``flair``, ``T1w`` and ``T1``."""
    return plain_modality(first) == plain_modality(second)


def plain_modality(name: str) -> str:
    """A modality's name without what people vary: case, separators, the ``w`` of ``T1w``."""
    text = re.sub(r"[^0-9a-z]", "", name.casefold())
    return re.sub(r"(?<=\d)w$", "", text)


def looks_like_modality(name: str) -> bool:
    """True for the usual short names of modalities."""
    return name.casefold() in COMMON_MODALITIES
