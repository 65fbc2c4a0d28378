"""A dataset read once from end to end: every finding of every case, never stopping at the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wardround.data.comparison import compare, mixed_dimensions
from wardround.data.dataset import Dataset
from wardround.data.findings import Finding, Severity, counts
from wardround.data.inspection import CaseTraits, inspect_case
from wardround.data.spec import label_table, unlabelled_indices

__all__ = ["CaseTraits", "CheckReport", "check_dataset", "compare", "inspect_case"]

_ORDER = {"error": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class CheckReport:
    """What a check found. Only `counts` may leave the site.

    Attributes:
        cases: how many were looked at.
        findings: by case, errors first; findings about the dataset as a whole come first.
        traits: of every case, in the dataset's order.
    """

    cases: int
    findings: tuple[Finding, ...]
    traits: tuple[CaseTraits, ...]

    @property
    def unusable(self) -> tuple[str, ...]:
        """The cases that are left out."""
        return tuple(sorted({finding.case for finding in self.findings if finding.severity == "error"}))

    @property
    def clean(self) -> bool:
        """True where every case can be used."""
        return not self.unusable

    def counts(self, severity: Severity | None = None) -> dict[str, int]:
        """In how many cases each code was found."""
        return counts(self.findings, severity)

    def labels(self) -> dict[int, tuple[int, int]]:
        """Number in the masks -> (cases that hold it, voxels)."""
        cases: Counter[int] = Counter()
        voxels: Counter[int] = Counter()
        for trait in self.traits:
            cases.update(trait.labels.keys())
            voxels.update(trait.labels)
        return {number: (cases[number], voxels[number]) for number in sorted(cases)}


def check_dataset(
    dataset: Dataset,
    modalities: Sequence[str] | None = None,
    labels: Mapping[str, int] | None = None,
    dimensions: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    need_mask: bool = True,
    optional: Sequence[str] = (),
) -> CheckReport:
    """Read every case, one at a time, and list all that is wrong.

    Args:
        dataset: as `open_dataset` lists it.
        modalities: the plan's; None: every modality that some case has, each case should have.
        labels: the plan's labels with their default numbers; None accepts any whole numbers.
        dimensions: the plan's, 2 or 3; None: the rarer kind is at fault where both are mixed.
        progress: called with (cases done, all cases).
        need_mask: False accepts cases without mask.
        optional: the plan's modalities that a case may lack.

    Raises:
        InputError: the labels of dataset.yaml are not the plan's.
    """
    if labels is not None:
        label_table(labels, dataset.spec)
        unlabelled_indices(labels, dataset.spec)
    wanted = modalities if modalities is not None else _common(dataset)
    findings = list(dataset.notes)
    traits = []
    for number, files in enumerate(dataset.cases, start=1):
        _, found, trait = inspect_case(
            files, wanted, labels, dataset.spec, dimensions, need_mask=need_mask, optional=optional
        )
        findings += found
        traits.append(trait)
        if progress is not None:
            progress(number, len(dataset.cases))
    findings += compare(traits)
    if dimensions is None:
        findings += mixed_dimensions(traits)
    ordered = sorted(findings, key=lambda finding: (finding.case, _ORDER[finding.severity], finding.code))
    return CheckReport(len(dataset.cases), tuple(ordered), tuple(traits))


def _common(dataset: Dataset) -> tuple[str, ...] | None:
    """Without a plan: all named modalities, or None where the only image of each case has no name."""
    names = dataset.modalities
    return None if "" in names or not names else names
