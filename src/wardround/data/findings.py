"""What can be said about a case, as a closed set of codes: codes and counts may leave a site, texts stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]

CODES: dict[str, str] = {
    # errors: the case is left out
    "unreadable": "a file is damaged, cut off, empty, or of a kind that is not read",
    "too_large": "a file announces more voxels than any image here may have",
    "missing_modality": "an image that the plan needs is not there",
    "missing_mask": "there is no mask",
    "shape_mismatch": "two files of the case have different sizes",
    "affine_mismatch": "two files of the case lie at different places in space",
    "flipped_mask": "a file of the case runs the other way along an axis than its image",
    "bad_affine": "a file's position in space is not finite or has no volume",
    "wrong_dimensions": "a flat picture where volumes are expected, or the other way round",
    "non_finite": "a file holds values that are not finite numbers",
    "unknown_label": "the mask holds a number that stands for no label",
    "non_integer_label": "the mask holds values that are not whole numbers",
    # warnings: the case is used
    "empty_mask": "the mask marks nothing",
    "constant_image": "all voxels of an image have the same value",
    "spacing_outlier": "the voxel size is far from that of the other cases",
    "intensity_outlier": "the intensity scale is far from that of the other cases",
    "duplicate_image": "the same voxels appear twice",
    # notes
    "mask_without_image": "a mask has no image",
    "ambiguous_file": "several files could be the same image or mask; none of them is used",
    "ignored_file": "a file is not of a kind that is read",
    "orientation_differs": "the axes run in other directions than in most cases",
    "lacks_modality": "an image that the plan can do without is not there",
    "subject_unknown": "the rule for subjects does not fit the case's name",
}


@dataclass(frozen=True)
class Finding:
    """One thing seen in one case. ``case`` is empty where it concerns the dataset; ``message`` stays at the site."""

    case: str
    severity: Severity
    code: str
    message: str


def counts(findings: Iterable[Finding], severity: Severity | None = None) -> dict[str, int]:
    """In how many cases each code was found; this, and nothing else of a finding, may leave the site."""
    seen = {(finding.code, finding.case) for finding in findings if severity in (None, finding.severity)}
    return dict(sorted(Counter(code for code, _ in seen).items()))
