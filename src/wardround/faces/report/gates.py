"""What a study should show, and whether it does: the questions that every comparison is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from wardround.faces.report.comparison import LEFT_OUT, LOCAL, OTHERS, OWN, POOLED, Line
from wardround.faces.report.shown import decimal, listed, percent

BASELINES = (LOCAL, OTHERS, POOLED, LEFT_OUT)
OF_POOLED, WORST_OF_POOLED = 0.99, 0.97


@dataclass(frozen=True)
class Gate:
    """One question and its answer."""

    question: str
    holds: bool
    seen: str


def gates(table: Sequence[Line]) -> list[Gate]:
    """The questions that the table's lines can answer. Who trains in another way than the baselines is not asked."""
    by_name = {line.name: line for line in table}
    trained = [line for line in table if line.name not in BASELINES and line.like_baselines]
    own = [line for line in trained if line.name.endswith(OWN)]
    variants = [line for line in trained if line not in own]
    found: list[Gate] = []
    if not variants:
        return found
    if POOLED in by_name:
        found += _against_pooled(variants, by_name[POOLED].sites)
    if LOCAL in by_name:
        found.append(_against_local("a federated model", variants, by_name[LOCAL]))
        if own:
            found.append(_against_local("a personalised model", own, by_name[LOCAL]))
    if LEFT_OUT in by_name and OTHERS in by_name:
        found.append(_left_out(by_name[LEFT_OUT].sites, by_name[OTHERS].sites))
    return found


def _against_pooled(variants: Sequence[Line], pooled: Mapping[str, float]) -> list[Gate]:
    best = max(variants, key=lambda line: fmean(line.sites.values()))
    share = fmean(best.sites.values()) / fmean(pooled.values())
    ratio = {line.name: line.sites[line.worst_site] / pooled[line.worst_site] for line in variants}
    top = max(variants, key=lambda line: ratio[line.name])
    return [
        Gate(
            f"best federated mean Dice >= {percent(OF_POOLED)} of pooled",
            share >= OF_POOLED,
            f"{best.name}: {percent(share)}",
        ),
        Gate(
            f"worst site >= {percent(WORST_OF_POOLED)} of its pooled score",
            ratio[top.name] >= WORST_OF_POOLED,
            f"{top.name}: {top.worst_site} {_pair(top.sites[top.worst_site], pooled[top.worst_site])}, "
            f"{percent(ratio[top.name])}",
        ),
    ]


def _against_local(what: str, variants: Sequence[Line], local: Line) -> Gate:
    def behind(line: Line) -> list[str]:
        return [site for site, dice in local.sites.items() if line.sites.get(site, 0.0) < dice]

    best = min(variants, key=lambda line: (len(behind(line)), -fmean(line.sites.values())))
    sites = behind(best)
    more = f", with {best.updates} updates against {local.updates}" if best.updates > local.updates else ""
    words = ", ".join(f"{s} {_pair(best.sites.get(s, 0.0), local.sites[s])}" for s in sites)
    return Gate(
        f"{what} >= local-only at every site",
        not sites,
        f"{best.name}: {f'behind at {words}' if sites else 'at every site'}{more}",
    )


def _pair(one: float, other: float) -> str:
    """Two scores, with as many digits as tell them apart."""
    digits = next((n for n in range(3, 6) if round(one, n) != round(other, n)), 6)
    return f"{decimal(one, digits)} against {decimal(other, digits)}"


def _left_out(left: Mapping[str, float], others: Mapping[str, float]) -> Gate:
    sites = [site for site in left if site in others]
    behind = [site for site in sites if left[site] < others[site]]
    words = ", ".join(f"{site} {_pair(left[site], others[site])}" for site in behind or sites)
    return Gate(
        "at a site left out >= the mean of the other sites' local models there",
        not behind,
        f"behind at {listed(behind)}: {words}" if behind else words,
    )
