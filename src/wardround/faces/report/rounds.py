"""The curves section: what happened to validation Dice and training loss from round to round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.core.messages import TrainFacts
from wardround.faces.report import svg
from wardround.faces.report.collect import Material
from wardround.faces.report.curves import Curves, Line, curves
from wardround.faces.report.history import Round, number

Series = Mapping[str, Mapping[int, float]]


@dataclass(frozen=True)
class RoundRow:
    """One round in numbers. ``dice`` and ``loss`` are in the order of the sites."""

    number: int
    dice: tuple[float | None, ...]
    mean_dice: float | None
    loss: tuple[float | None, ...]
    rate: float | None
    sites: int | None
    seconds: float | None


@dataclass(frozen=True)
class Curve:
    """Both charts (None where there is nothing to draw yet) and the numbers behind them."""

    dice: Markup | None
    loss: Markup | None
    rows: tuple[RoundRow, ...]
    quiet: int  # sites drawn in grey, because colours for so many would say nothing


def both_curves(material: Material) -> Curve:
    """Charts and numbers over all rounds so far."""
    history, sites = material.own.history, material.sites
    rounds = [history.rounds[n] for n in sorted(history.rounds)]
    dice: Series = {site: {r.number: r.scores[site] for r in rounds if site in r.scores} for site in sites}
    loss: Series = {site: {r.number: v for r in rounds if (v := _loss(r, site)) is not None} for site in sites}
    mean = {r.number: r.mean_dice for r in rounds if r.mean_dice is not None}
    loud = _loud(sites, dice)
    lines = _lines(sites, dice, loud)
    strong = [Line("all cases", mean, strong=True)] if mean and len(sites) > 1 else []
    best = history.best_round
    return Curve(
        dice=curves(Curves("Mean validation Dice by round", "Dice", [*lines, *strong], best, ceiling=1.0)),
        loss=curves(Curves("Mean training loss by round", "loss", _lines(sites, loss, loud), best)),
        rows=tuple(_row(r, sites) for r in rounds),
        quiet=len(sites) - len(loud),
    )


def _loud(sites: Sequence[str], dice: Series) -> list[str]:
    """Sites that get a colour: all where the colours suffice, else the weakest ones."""
    if len(sites) <= svg.STYLES:
        return list(sites)
    weakest = sorted(sites, key=lambda site: dice[site][max(dice[site])] if dice[site] else 2.0)
    return weakest[: svg.STYLES // 2]


def _lines(sites: Sequence[str], series: Series, loud: Sequence[str]) -> list[Line]:
    return [
        Line(site, series[site], style=loud.index(site) if site in loud else None) for site in sites if series[site]
    ]


def _loss(place: Round, site: str) -> float | None:
    answered = place.trained.get(site)
    return number(answered.facts.loss) if answered and isinstance(answered.facts, TrainFacts) else None


def _row(place: Round, sites: Sequence[str]) -> RoundRow:
    return RoundRow(
        number=place.number,
        dice=tuple(place.scores.get(site) for site in sites),
        mean_dice=place.mean_dice,
        loss=tuple(_loss(place, site) for site in sites),
        rate=place.rate,
        sites=None if place.counted is None else len(place.counted),
        seconds=place.seconds.get("total"),
    )
