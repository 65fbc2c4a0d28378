"""The table that a study is about: per site, local-only against pooled against federated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

from wardround.core.rundir import RunDir
from wardround.core.scores import LabelScores, LesionCounts, Scores
from wardround.core.stats import Moments, merge_all
from wardround.faces.report.collect import Material, collect
from wardround.faces.report.history import mean_of, number

FEW = 10  # test cases below which a mean is called an indication

METRICS = ("dice", "hd95", "surface_dice", "lesion_f1", "sensitivity", "precision")


@dataclass(frozen=True)
class Figures:
    """One model on one site's test cases, means over cases and labels; None where nothing could be scored.

    Dice, surface Dice, lesion F1, sensitivity and precision in [0, 1], HD95 in mm.
    In the mean row each value is the mean over the ``sites`` sites that have it.
    """

    cases: int = 0
    dice: float | None = None
    hd95: float | None = None
    surface_dice: float | None = None
    lesion_f1: float | None = None
    sensitivity: float | None = None
    precision: float | None = None
    sites: int = 1


@dataclass(frozen=True)
class Row:
    """One site (or, with ``mean``, the mean over sites) under the three arms."""

    site: str
    local: Figures
    pooled: Figures
    federated: Figures
    mean: bool = False

    @property
    def cases(self) -> int:
        """Test cases."""
        return self.federated.cases or self.pooled.cases or self.local.cases

    @property
    def over_local(self) -> float | None:
        """Federated minus local-only Dice."""
        return difference(self.federated.dice, self.local.dice)

    @property
    def over_pooled(self) -> float | None:
        """Federated minus pooled Dice."""
        return difference(self.federated.dice, self.pooled.dice)


@dataclass(frozen=True)
class Verdict:
    """The run in a few numbers, all Dice on test cases; None where an arm is missing."""

    mean: float | None = None
    worst: Row | None = None
    best: Row | None = None
    of_pooled: float | None = None  # mean federated / mean pooled, over the sites that have both
    over_local: float | None = None  # mean difference, over the sites that have both
    worse_than_local: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """Best minus worst site."""
        return difference(self.best.federated.dice, self.worst.federated.dice) if self.best and self.worst else None


def difference(left: float | None, right: float | None) -> float | None:
    """``left - right``, or None where one is missing."""
    return None if left is None or right is None else left - right


def figures(scores: Scores | None) -> Figures:
    """The table's numbers out of mergeable scores."""
    if scores is None:
        return Figures(sites=0)
    labels = list(scores.labels.values())
    lesions = merge_all((label.lesions for label in labels if label.lesions is not None), LesionCounts())
    return Figures(
        cases=scores.cases,
        dice=number(scores.mean_dice),
        hd95=_mean_of(labels, lambda label: label.hd95),
        surface_dice=_mean_of(labels, lambda label: label.surface_dice),
        lesion_f1=lesions.f1,
        sensitivity=lesions.sensitivity,
        precision=lesions.precision,
    )


def _mean_of(labels: Sequence[LabelScores], pick: Callable[[LabelScores], Moments]) -> float | None:
    return mean_of(reduce(Moments.merge, map(pick, labels), Moments()))


def summary_table(run: RunDir) -> list[Row]:
    """Per site local-only, pooled and federated test scores: worst federated Dice first, the mean row last.

    Sites without a federated score stand after those that have one. Empty where nothing was tested yet.

    Raises:
        RunError: this is no run directory.
    """
    return table(collect(run))


def table(material: Material) -> list[Row]:
    """See `summary_table`."""
    own, local = material.own.scores, material.local_scores()
    pooled = material.pooled.scores if material.pooled else {}
    rows = [
        Row(site, figures(local.get(site)), figures(pooled.get(site)), figures(own.get(site)))
        for site in material.sites
        if site in own or site in local or site in pooled
    ]
    if not rows:
        return []
    rows.sort(key=lambda row: (row.federated.dice is None, row.federated.dice or 0.0, row.site))
    mean = Row(
        "Mean over sites",
        _mean_figures([row.local for row in rows]),
        _mean_figures([row.pooled for row in rows]),
        _mean_figures([row.federated for row in rows]),
        mean=True,
    )
    return [*rows, mean]


def _mean_figures(parts: Sequence[Figures]) -> Figures:
    values = {name: [v for part in parts if (v := getattr(part, name)) is not None] for name in METRICS}
    means = {name: sum(found) / len(found) if found else None for name, found in values.items()}
    return Figures(cases=sum(part.cases for part in parts), sites=len(values["dice"]), **means)


def verdict(rows: Sequence[Row]) -> Verdict:
    """The headline numbers of a table."""
    scored = [row for row in rows if not row.mean and row.federated.dice is not None]
    if not scored:
        return Verdict()
    both = [(row.federated.dice or 0.0, row.pooled.dice) for row in scored if row.pooled.dice is not None]
    pooled = sum(dice for _, dice in both)
    gains = [row.over_local for row in scored if row.over_local is not None]
    return Verdict(
        mean=sum(row.federated.dice or 0.0 for row in scored) / len(scored),
        worst=scored[0],
        best=scored[-1],
        of_pooled=sum(dice for dice, _ in both) / pooled if pooled else None,
        over_local=sum(gains) / len(gains) if gains else None,
        worse_than_local=tuple(row.site for row in scored if row.over_local is not None and row.over_local < 0),
    )
