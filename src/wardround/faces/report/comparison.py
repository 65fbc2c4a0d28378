"""The table of a study: every variant beside local-only and pooled, worst site first, with intervals.

All Dice are on test cases, means over cases and labels; a row is the mean over the seeds. Intervals are over
patients (`wardround.metrics.bootstrap`), with a patient's scores under all seeds kept together.

Where the plan gives sites whole models of their own (Ditto, fine-tuning), a variant has two lines: the shared
model at every site, and under ``<variant> (own)`` what each site uses, which is the shared one where it has no
other. Scores by case are kept of the model that a site uses, so the shared line of such a variant has no
intervals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import Any

from wardround.core.errors import RunError
from wardround.core.rundir import RunDir
from wardround.core.scores import Scores
from wardround.faces.report.collect import Arm, Material, at, collect
from wardround.faces.report.personal import personal_scores
from wardround.metrics.bootstrap import Interval, bootstrap

OWN = " (own)"
ALIKE = ("task", "preprocessing", "network", "training", "rounds", "evaluation")  # what baselines share
LOCAL, POOLED, LEFT_OUT, OTHERS = "local-only", "pooled", "left out", "others' local"


@dataclass
class Tally:
    """What was found of one variant over its seeds."""

    scores: dict[str, list[Scores]] = field(default_factory=dict)  # by site, one a seed
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)  # site -> patient -> Dice of cases
    means: list[float] = field(default_factory=list)  # over sites, one a seed
    like_baselines: bool = True
    updates: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)  # bytes, both ways, all sites
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """One variant in the table; Dice in [0, 1], bytes and seconds of one run."""

    name: str
    seeds: int
    sites: Mapping[str, float]
    mean: Interval | None  # None: there are no scores by case, see above
    worst: Interval | None
    worst_site: str
    spread: float | None  # standard deviation of the mean over seeds
    lesion_f1: float | None
    updates: int
    sent: float
    seconds: float
    like_baselines: bool = True  # it trains as the baselines do: only then is it fair to hold it against them

    @property
    def gap(self) -> float:
        """Best minus worst site."""
        return max(self.sites.values()) - min(self.sites.values())


def lines(members: Iterable[tuple[str, str | None, RunDir]]) -> list[Line]:
    """The table's lines, baselines first.

    Args:
        members: (variant, the site that it left out, its run directory) of every run that has scores.

    Raises:
        RunError: one is no run directory.
    """
    tallies: dict[str, Tally] = {LOCAL: Tally(), OTHERS: Tally(), POOLED: Tally(), LEFT_OUT: Tally()}
    first: Mapping[str, Any] | None = None  # the plan whose baselines there are
    for variant, left_out, run in members:
        material = collect(run)
        first = first or material.plan
        alike = all(at(material.plan, section) == at(first, section) for section in ALIKE)
        if left_out is not None:
            _add(tallies[LEFT_OUT], material.own, run, [left_out])
            continue
        own = own_scores(material)
        _add(tallies.setdefault(variant, Tally(like_baselines=alike)), material.own, run, by_case=own is None)
        if own is not None:
            used = replace(material.own, scores={**material.own.scores, **own})
            tally = tallies.setdefault(variant + OWN, Tally(like_baselines=alike))
            _add(tally, used, run)
            tally.updates[-1] += at(material.plan, "finetune.steps", 0)
        if material.pooled is not None:
            _add(tallies[POOLED], material.pooled, run.baseline("pooled"))
        for site, arm in material.local.items():
            place = run.baseline(f"local-{site}")
            _add(tallies[LOCAL], arm, place, [site])
            _add(tallies[OTHERS], arm, place, [other for other in arm.scores if other != site])
    return [_line(name, tally) for name, tally in tallies.items() if tally.scores]


def own_scores(material: Material) -> dict[str, Scores] | None:
    """Test scores of the sites' own whole models; None where the plan makes none, empty where none was kept."""
    own = personal_scores(material)
    return own if own or at(material.plan, "finetune") else None


def _add(tally: Tally, arm: Arm, run: RunDir, only: Sequence[str] | None = None, *, by_case: bool = True) -> None:
    chosen = {site: scores for site, scores in arm.scores.items() if only is None or site in only}
    for site, scores in chosen.items():
        tally.scores.setdefault(site, []).append(scores)
        for patient, value in case_dice(run, site) if by_case else ():
            tally.values.setdefault(site, {}).setdefault(patient, []).append(value)
    found = [dice for scores in chosen.values() if (dice := scores.mean_dice) is not None]
    if found and only is None:
        tally.means.append(fmean(found))  # of models that every site has
    history = arm.history
    tally.updates.append(history.updates())
    replies = [a for r in history.rounds.values() for a in r.answers]
    tally.sent.append(sum(a.bytes_up + a.bytes_down for a in replies))
    tally.seconds.append(sum(r.seconds.get("total", 0.0) for r in history.closed))


def case_dice(run: RunDir, site: str) -> list[tuple[str, float]]:
    """(patient, Dice) of a simulated site's test cases; a case of an unknown patient counts as one of its own."""
    path = run.site(site) / "overlays" / "cases.json"
    if not path.is_file():
        return []
    rows: list[dict[str, Any]] = RunDir(path.parent).read_json(path.name)
    return [(str(row.get("subject") or row["case"]), float(row["dice"])) for row in rows if row["dice"] is not None]


def _line(name: str, tally: Tally) -> Line:
    intervals = bootstrap(tally.values)
    sites = {site: _mean([s.mean_dice for s in scores]) for site, scores in tally.scores.items()}
    known = {site: dice for site, dice in sites.items() if dice is not None}
    if not known:
        raise RunError(f"{name}: no test case could be scored at any site")
    seeds = len(tally.means) or max(1, len(tally.seconds) // len(known))  # the parts of a study by site add up
    return Line(
        name=name,
        seeds=seeds,
        sites=known,
        mean=intervals.get("mean"),
        worst=intervals.get("worst"),
        worst_site=min(known, key=lambda site: known[site]),
        spread=stdev(tally.means) if len(tally.means) > 1 else None,
        lesion_f1=_mean([s.lesion_f1 for scores in tally.scores.values() for s in scores]),
        updates=max(tally.updates),
        sent=sum(tally.sent) / seeds,
        seconds=sum(tally.seconds) / seeds,
        like_baselines=tally.like_baselines,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
