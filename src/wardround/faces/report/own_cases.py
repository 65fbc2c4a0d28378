"""A site's own test cases as its worker wrote them down: numbers by case, and pictures. For the site alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core.scores import LesionCounts
from wardround.core.stats import Moments, merge_all
from wardround.faces.report.history import number
from wardround.faces.report.pictures import MAX_TOTAL, Picture, picture_in

MAX_FILE = 64 << 20
Values = Mapping[str, float | None]


@dataclass(frozen=True)
class OwnCase:
    """One test case; ``dice`` is the mean over its labels, None where both sides mark nothing."""

    name: str
    dice: float | None
    labels: Mapping[str, Values]
    synthetic: bool = False

    def mean(self, metric: str) -> float | None:
        """Mean of a metric over the labels that have it."""
        return mean([values.get(metric) for values in self.labels.values()])

    @property
    def lesions(self) -> LesionCounts | None:
        """Of all labels whose lesions are counted; None where none are."""
        counts = [found for values in self.labels.values() if (found := lesion_counts(values)) is not None]
        return merge_all(counts, LesionCounts()) if counts else None


@dataclass(frozen=True)
class Shown:
    """A picture with the name of its case."""

    case: str
    picture: Picture


@dataclass(frozen=True)
class OwnCases:
    """All test cases, worst first; those without a score stand last. ``notes`` tells what could not be read."""

    cases: tuple[OwnCase, ...] = ()
    pictures: tuple[Shown, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The labels that were scored, in the plan's order."""
        return list(dict.fromkeys(name for case in self.cases for name in case.labels))

    @property
    def dice(self) -> float | None:
        """Mean over cases and labels, as the federation's scores are."""
        return mean([values.get("dice") for case in self.cases for values in case.labels.values()])

    def moments(self, label: str, metric: str) -> Moments:
        """A metric over the cases in which the label has one."""
        values = (case.labels.get(label, {}).get(metric) for case in self.cases)
        return Moments.of(value for value in values if value is not None)

    def lesions_of(self, label: str) -> LesionCounts | None:
        """A label's lesions over all cases; None where they are not counted."""
        counts = (lesion_counts(case.labels.get(label, {})) for case in self.cases)
        found = [count for count in counts if count is not None]
        return merge_all(found, LesionCounts()) if found else None


def read_cases(overlays: Path, site: str) -> OwnCases:
    """What the worker left in ``runs/<digest>/overlays``; what cannot be read is told in ``notes``."""
    notes: list[str] = []
    rows = _list(overlays / "cases.json", "list of test cases", notes)
    cases = [case for row in rows if (case := _case(row)) is not None]
    cases.sort(key=lambda case: (case.dice is None, case.dice or 0.0, case.name))
    shown, room = [], MAX_TOTAL
    entries = _list(overlays / "index.json", "list of pictures", notes)
    for entry in entries:
        picture = picture_in(overlays, site, entry)
        if picture is not None and len(picture.data) <= room:
            room -= len(picture.data)
            shown.append(Shown(str(entry.get("case", "")), picture))
    if len(shown) < len(entries):
        notes.append(f"{len(entries) - len(shown)} pictures are missing or damaged, and are left out.")
    return OwnCases(tuple(cases), tuple(shown), tuple(notes))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are there."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def lesion_counts(values: Mapping[str, Any]) -> LesionCounts | None:
    """A label's lesion counts, where its row has them."""
    try:
        return LesionCounts.model_validate({name: values[f"lesions_{name}"] for name in LesionCounts.model_fields})
    except (KeyError, ValueError):
        return None


def _list(path: Path, what: str, notes: list[str]) -> list[Any]:
    try:
        if path.stat().st_size > MAX_FILE:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, list):
            raise ValueError("not a list")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"The {what} cannot be read ({type(error).__name__}): {path}")
        return []
    return value


def _case(row: object) -> OwnCase | None:
    if not isinstance(row, dict) or not isinstance(row.get("labels"), dict):
        return None
    labels = {str(name): _values(values) for name, values in row["labels"].items() if isinstance(values, dict)}
    return OwnCase(str(row.get("case", "")), number(row.get("dice")), labels, row.get("synthetic") is True)


def _values(row: Mapping[str, Any]) -> dict[str, float | None]:
    return {str(name): number(value) for name, value in row.items()}
