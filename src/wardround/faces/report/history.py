"""What happened, round by round: the event log of a run as values.

Reading is tolerant: a run that was cut off has half a story, and a line that cannot be understood is
counted and passed over, so that a report can be made of every run directory.

Rounds are numbered from 1, as people count and as checkpoints are named: round 7 is the one after
which ``rounds/0007`` exists. In the log a training task carries the number of rounds *done* before it
(0 for the first), and scoring the new model the number done with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from wardround.core.messages import ScoreFacts, SiteSummary, TrainFacts
from wardround.core.stats import Moments

MOST = 1e15  # beyond this a number is a fault, and would break charts


@dataclass(frozen=True)
class Answered:
    """One site's answer in one round. Bytes and seconds are of its way there and back."""

    facts: TrainFacts | ScoreFacts
    bytes_down: int
    bytes_up: int
    transport: float


@dataclass(frozen=True)
class Failure:
    """One site that did not answer one task."""

    round: int
    verb: str
    site: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Notice:
    """One alert about one site's contribution."""

    round: int
    site: str
    kind: str
    value: float | None
    limit: float | None


@dataclass
class Round:
    """One training round. ``counted`` is None until the round has ended."""

    number: int
    asked: tuple[str, ...] = ()
    trained: dict[str, Answered] = field(default_factory=dict)
    validated: dict[str, Answered] = field(default_factory=dict)
    failed: dict[tuple[str, str], Failure] = field(default_factory=dict)  # by (verb, site)
    counted: tuple[str, ...] | None = None
    scores: dict[str, float] = field(default_factory=dict)
    mean_dice: float | None = None
    best: bool = False
    rate: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def answers(self) -> list[Answered]:
        """Everything that came back in this round."""
        return [*self.trained.values(), *self.validated.values()]


@dataclass
class History:
    """A run so far. Times are as the log has them; None where it has not come to that."""

    rounds: dict[int, Round] = field(default_factory=dict)
    summaries: dict[str, SiteSummary] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)  # events by name
    resumed: int = 0  # how many times the run went on after an interruption
    stopped: Mapping[str, Any] | None = None
    ended: Mapping[str, Any] | None = None
    first: datetime | None = None
    last: datetime | None = None
    unreadable: int = 0

    @property
    def closed(self) -> list[Round]:
        """The rounds that ended, in order."""
        return [self.rounds[n] for n in sorted(self.rounds) if self.rounds[n].counted is not None]

    @property
    def best_round(self) -> int | None:
        """The round whose model is kept: what the log says at the end, else the last new best so far."""
        if self.stopped and isinstance(self.stopped.get("best_round"), int):
            return int(self.stopped["best_round"])
        return max((r.number for r in self.closed if r.best), default=None)

    def updates(self, until: int | None = None) -> int:
        """Optimiser steps of one model: the sites of a round step side by side, so each round counts its longest."""
        chosen = (r for r in self.rounds.values() if until is None or r.number <= until)
        return sum(
            max((a.facts.updates for a in r.trained.values() if isinstance(a.facts, TrainFacts)), default=0)
            for r in chosen
        )

    def samples(self) -> int:
        """Training samples that went through all sites' models, counted or not."""
        return sum(f.samples for f in self.training_facts())

    def training_facts(self) -> list[TrainFacts]:
        """What every site said about every round of training."""
        answers = (a for r in self.rounds.values() for a in r.trained.values())
        return [a.facts for a in answers if isinstance(a.facts, TrainFacts)]


def number(value: object) -> float | None:
    """``value`` as a float, or None where it is no number, not finite, or beyond anything that a run can mean."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST:
        return float(value)
    return None


def mean_of(moments: Moments) -> float | None:
    """A site's mean as a `number`."""
    return number(moments.mean)


def std_of(moments: Moments) -> float | None:
    """A site's standard deviation as a `number`; sums come from outside and may be absurd."""
    return number(moments.std) if number(moments.total) is not None else None


def read_history(events: Iterable[Mapping[str, Any]]) -> History:
    """Fold events into a `History`, in the order given. Never raises for what an event holds."""
    history = History()
    for event in events:
        try:
            _take(history, event)
        except (KeyError, TypeError, ValueError, AttributeError):
            history.unreadable += 1
    return history


def _take(history: History, event: Mapping[str, Any]) -> None:
    name = str(event["event"])
    if name in _TAKERS:
        _TAKERS[name](history, event)
    history.counts[name] = history.counts.get(name, 0) + 1
    when = datetime.fromisoformat(event["time"])
    history.first = history.first or when
    history.last = when


def _round(history: History, event: Mapping[str, Any]) -> Round:
    n = _number(event)
    return history.rounds.setdefault(n, Round(n))


def _number(event: Mapping[str, Any]) -> int:
    """The round as people count; 0 for what comes before the first."""
    return int(event["round"]) + int(event.get("verb", "train") == "train")


def _described(history: History, event: Mapping[str, Any]) -> None:
    history.summaries[str(event["site"])] = SiteSummary.model_validate(event["summary"])


def _started(history: History, event: Mapping[str, Any]) -> None:
    _round(history, event).asked = tuple(map(str, event["sites"]))


def _replied(history: History, event: Mapping[str, Any]) -> None:
    if event["verb"] not in ("train", "validate"):
        return
    kind = TrainFacts if event["verb"] == "train" else ScoreFacts
    answered = Answered(
        facts=kind.model_validate(event["facts"]),
        bytes_down=int(event.get("bytes_down") or 0),
        bytes_up=int(event.get("bytes_up") or 0),
        transport=number(event.get("seconds_transport")) or 0.0,
    )
    place = _round(history, event)
    (place.trained if event["verb"] == "train" else place.validated)[str(event["site"])] = answered
    place.failed.pop((str(event["verb"]), str(event["site"])), None)  # a later answer heals an earlier failure


def _failed(history: History, event: Mapping[str, Any]) -> None:
    verb, site = str(event["verb"]), str(event["site"])
    failure = Failure(_number(event), verb, site, str(event["kind"]), str(event["reason"]))
    history.failures.append(failure)
    if verb in ("train", "validate"):
        _round(history, event).failed[verb, site] = failure


def _alerted(history: History, event: Mapping[str, Any]) -> None:
    value, limit = number(event.get("value")), number(event.get("limit"))
    history.notices.append(Notice(_number(event), str(event["site"]), str(event["kind"]), value, limit))


def _ended(history: History, event: Mapping[str, Any]) -> None:
    place = _round(history, event)
    place.counted = tuple(map(str, event["sites"]))
    scores = {str(site): number(value) for site, value in event["scores"].items()}
    place.scores = {site: value for site, value in scores.items() if value is not None}
    place.mean_dice = number(event.get("mean_dice"))
    place.best = event.get("best") is True
    place.rate = number(event.get("rate"))
    seconds = {str(part): number(value) for part, value in event["seconds"].items()}
    place.seconds = {part: value for part, value in seconds.items() if value is not None}


def _stopped(history: History, event: Mapping[str, Any]) -> None:
    history.stopped = event


def _run_ended(history: History, event: Mapping[str, Any]) -> None:
    history.ended = event


def _resumed(history: History, _: Mapping[str, Any]) -> None:
    history.resumed += 1
    history.stopped = history.ended = None  # what came before was not the end


_TAKERS = {
    "site_described": _described,
    "round_started": _started,
    "site_replied": _replied,
    "site_failed": _failed,
    "site_alert": _alerted,
    "round_ended": _ended,
    "run_stopped": _stopped,
    "run_ended": _run_ended,
    "run_resumed": _resumed,
}
