"""Who was missing when: a site by round grid, and the failures behind it in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.faces.alerts import alert_words
from wardround.faces.report import svg
from wardround.faces.report.history import Failure, History, Notice, Round
from wardround.faces.report.shown import counted, ranges, shortened

# state: (sign in the cell, what it means); signs, so that nothing hangs on colour alone
STATES = {
    "present": ("✓", "took part"),
    "unscored": ("½", "trained, but did not score the new model"),
    "late": ("L", "late"),
    "error": ("E", "error"),
    "refused": ("R", "refused"),
    "pending": ("P", "not approved yet"),
    "unused": ("U", "answered, but did not count"),
    "idle": ("·", "not asked"),
    "open": ("…", "round not finished"),
}


@dataclass(frozen=True)
class Absence:
    """Failures of one site that say the same, with the rounds in which they happened."""

    site: str
    verb: str
    kind: str
    reason: str
    rounds: str
    count: int


@dataclass(frozen=True)
class Conspicuous:
    """Alerts of one kind about one site, with the rounds and the words for the one that stood out most."""

    site: str
    rounds: str
    count: int
    words: str


def state(site: str, place: Round) -> str:
    """What became of one site in one round: a key of `STATES`."""
    failed = place.failed.get(("train", site))
    if failed is not None:
        return failed.kind if failed.kind in STATES else "error"
    if place.counted is None:
        return "open" if site in place.asked or not place.asked else "idle"
    if site in place.counted:
        return "unscored" if ("validate", site) in place.failed else "present"
    return "unused" if site in place.trained else "idle"


def grid(sites: Sequence[str], history: History) -> Markup | None:
    """Draw the grid, or None where no round was begun."""
    rounds = [history.rounds[n] for n in sorted(history.rounds)]
    if not rounds or not sites:
        return None
    left, top, step = 120.0, 26.0, 26.0
    width = min(34.0, max(9.0, (960 - left - 70) / len(rounds)))
    parts: list[Markup] = []
    every = set(svg.whole_ticks(rounds[0].number, rounds[-1].number, int(len(rounds) * width / 30) or 1))
    for i, place in enumerate(rounds):
        if place.number in every:
            parts.append(svg.text(left + (i + 0.5) * width, top - 9, str(place.number), anchor="middle"))
    for row, site in enumerate(sites):
        y = top + row * step
        parts.append(svg.text(0, y + 17, shortened(site, 14), "name"))
        states = [state(site, place) for place in rounds]
        for i, (place, what) in enumerate(zip(rounds, states, strict=True)):
            parts.append(_cell(left + i * width, y, (width, step), what, f"{site}, round {place.number}"))
        present = sum(what in ("present", "unscored") for what in states)
        words = f"{present} of {len(rounds)}"
        parts.append(svg.text(left + len(rounds) * width + 10, y + 17, words, "value"))
    total = left + len(rounds) * width + 76
    label = "Who took part: " + "; ".join(_said(site, rounds) for site in sites)
    return svg.picture(total, top + step * len(sites) + 4, label, *parts, class_="chart grid-chart")


def _cell(x: float, y: float, size: tuple[float, float], what: str, where: str) -> Markup:
    sign, words = STATES[what]
    box = svg.el("rect", x=x + 1, y=y + 1, width=size[0] - 2, height=size[1] - 2, rx=2, class_=f"cell c-{what}")
    letter = svg.text(x + size[0] / 2, y + 17.5, sign, f"sign c-{what}", "middle") if size[0] >= 12 else Markup("")
    return svg.el("g", svg.el("title", f"{where}: {words}"), box, letter)


def _said(site: str, rounds: Sequence[Round]) -> str:
    missing = [place.number for place in rounds if state(site, place) not in ("present", "unscored", "open")]
    if not missing:
        return f"{site} in every round"
    return f"{site} missing in {counted(len(missing), 'round')} ({ranges(missing)})"


def legend(sites: Sequence[str], history: History) -> list[tuple[str, str, str]]:
    """The states that occur, as (state, sign, meaning)."""
    seen = {state(site, place) for site in sites for place in history.rounds.values()}
    return [(key, sign, words) for key, (sign, words) in STATES.items() if key in seen]


def absences(failures: Sequence[Failure]) -> list[Absence]:
    """Equal failures together, in the order in which they first happened."""
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for item in failures:
        groups.setdefault((item.site, item.verb, item.kind, item.reason), []).append(item.round)
    return [Absence(*key, ranges(rounds), len(rounds)) for key, rounds in groups.items()]


def conspicuous(notices: Sequence[Notice]) -> list[Conspicuous]:
    """Alerts of one kind about one site together, in the order in which they first happened."""
    groups: dict[tuple[str, str], list[Notice]] = {}
    for item in notices:
        groups.setdefault((item.site, item.kind), []).append(item)
    found = []
    for (site, kind), items in groups.items():
        rounds = {item.round for item in items}  # a round that was repeated after an interruption counts once
        most = max(items, key=lambda item: (item.value or 0) / (item.limit or 1))
        found.append(Conspicuous(site, ranges([*rounds]), len(rounds), alert_words(kind, most.value, most.limit)))
    return found
