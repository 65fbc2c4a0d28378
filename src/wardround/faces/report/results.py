"""The results section: verdict, table, chart of the arms, work behind each arm, details by label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.core.scores import LabelScores, LesionCounts
from wardround.faces.report import bars
from wardround.faces.report.collect import Arm, Material
from wardround.faces.report.personal import personal_remarks
from wardround.faces.report.shown import counted, listed, ranges, whole
from wardround.faces.report.table import FEW, Row, Verdict, table, verdict


@dataclass(frozen=True)
class Work:
    """What one arm cost. ``updates`` are optimiser steps of one model, as text: a range where models differ."""

    arm: str
    models: int
    updates: str
    kept: str  # updates behind the model that was kept
    samples: int


@dataclass(frozen=True)
class Detail:
    """One label at one site under this run's model."""

    site: str
    label: str
    cases: int
    scores: LabelScores

    @property
    def lesions(self) -> LesionCounts | None:
        """Lesion counts where the label has them."""
        return self.scores.lesions

    @property
    def empties(self) -> str:
        """Cases in which a side marks nothing, in words."""
        parts = (
            (self.scores.both_empty, "both empty"),
            (self.scores.prediction_empty, "nothing found"),
            (self.scores.reference_empty, "nothing there"),
        )
        return ", ".join(f"{n} {words}" for n, words in parts if n)


@dataclass(frozen=True)
class Results:
    """Everything the section shows; ``rows`` is empty where nothing was tested yet."""

    rows: list[Row]
    verdict: Verdict
    chart: Markup | None
    work: list[Work]
    details: list[Detail]
    remarks: list[str]
    has_local: bool
    has_pooled: bool
    has_lesions: bool
    many_labels: bool


def results(material: Material) -> Results:
    """Out of the scores of all arms."""
    rows = table(material)
    sites = [row for row in rows if not row.mean]
    dots = [bars.Dots(r.site, (r.local.dice, r.pooled.dice, r.federated.dice)) for r in rows]
    details = [
        Detail(row.site, label, scores.cases, part)
        for row in sites
        if (scores := material.own.scores.get(row.site)) is not None
        for label, part in scores.labels.items()
    ]
    return Results(
        rows=rows,
        verdict=verdict(rows),
        chart=bars.dots(dots, ("Local-only", "Pooled", material.label)),
        work=work(material),
        details=details,
        remarks=_remarks(material, sites),
        has_local=any(row.local.dice is not None for row in sites),
        has_pooled=any(row.pooled.dice is not None for row in sites),
        has_lesions=any(d.lesions is not None for d in details),
        many_labels=len({d.label for d in details}) > 1,
    )


def work(material: Material) -> list[Work]:
    """Updates and samples of every arm that has trained."""
    arms = [(material.label, [material.own])]
    if material.pooled:
        arms.append(("Pooled", [material.pooled]))
    arms.append(("Local-only", list(material.local.values())))
    return [_work(name, group) for name, group in arms if any(arm.history.rounds for arm in group)]


def _work(name: str, arms: Sequence[Arm]) -> Work:
    made = [arm.history.updates() for arm in arms]
    kept = [arm.history.updates(arm.history.best_round) for arm in arms]
    return Work(name, len(arms), _span(made), _span(kept), sum(arm.history.samples() for arm in arms))


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return whole(low) if low == high else f"{whole(low)} to {whole(high)}"


def _remarks(material: Material, sites: Sequence[Row]) -> list[str]:
    if not sites:
        return []
    remarks = []
    few = [row for row in sites if 0 < row.cases < FEW]
    if few:
        said = listed(f"{row.site} ({counted(row.cases, 'case')})" for row in few)
        remarks.append(f"Few test cases at {said}: there, one case moves the mean a lot. Read it as an indication.")
    untested = [site for site in material.sites if site not in material.own.scores]
    if untested:
        remarks.append(f"No test scores of this model from {listed(untested)}.")
    if material.pooled is None and material.own.name == "federated":
        remarks.append("No pooled baseline was run, so nothing says what sharing all images would have reached.")
    if not material.local and material.own.name == "federated":
        remarks.append("No local-only baselines were run, so nothing says what each site would reach alone.")
    begun = [arm for arm in [material.pooled, *material.local.values()] if arm is not None and not arm.scores]
    if begun:
        remarks.append(f"{counted(len(begun), 'baseline was', 'baselines were')} begun, but not tested yet.")
    for name, values in (
        ("Local-only", [r.local.dice for r in sites]),
        ("Pooled", [r.pooled.dice for r in sites]),
        (material.label, [r.federated.dice for r in sites]),
    ):
        there = sum(v is not None for v in values)
        if 0 < there < len(values):
            remarks.append(f"The {name.lower()} mean covers {there} of {len(values)} sites.")
    return [*remarks, *personal_remarks(material)]


def skipped_words(material: Material) -> str:
    """Optimiser steps skipped for a non-finite gradient, over all sites, in words."""
    by_round = {
        place.number: sum(getattr(answer.facts, "skipped", 0) for answer in place.trained.values())
        for place in material.own.history.rounds.values()
    }
    hit = [n for n, skipped in by_round.items() if skipped]
    if not hit:
        return "none"
    return f"{counted(sum(by_round.values()), 'step')} (rounds {ranges(hit)})"
