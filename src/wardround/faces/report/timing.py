"""Where the time of each round went, and what went over the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

from wardround.faces.report.bars import TIMES
from wardround.faces.report.collect import Material
from wardround.faces.report.history import Round, number


@dataclass(frozen=True)
class Timing:
    """Seconds by round and part, whole rounds in seconds, bytes over all rounds."""

    rounds: dict[int, dict[str, float]] = field(default_factory=dict)
    totals: dict[int, float] = field(default_factory=dict)
    bytes_up: int = 0
    bytes_down: int = 0
    answers: int = 0  # answers to train tasks
    up_each: float | None = None  # bytes of one answer to a train task, on average
    down_each: float | None = None
    at_once: int | None = None  # simulation: how many sites worked at the same time

    @property
    def total(self) -> float:
        """Wall-clock seconds of all rounds."""
        return sum(self.totals.values())

    def parts(self) -> list[tuple[str, float, float | None]]:
        """(part, seconds over all rounds, share of all parts)."""
        sums = {name: sum(parts.get(name, 0.0) for parts in self.rounds.values()) for name in TIMES}
        whole = sum(sums.values())
        return [(name, value, value / whole if whole else None) for name, value in sums.items()]


def timing(material: Material) -> Timing:
    """Split every closed round's wall clock.

    Sites work side by side, so their seconds are added up and divided by the number of sites that
    worked at the same time: all that answered in a network, at most ``workers`` in a simulation.
    ``other`` is what remains: waiting for the slowest site, building networks,
    checkpoints.
    """
    workers = None
    if material.facts.get("simulation") is True:
        machine = material.facts.get("machine")
        workers = number(machine.get("workers")) if isinstance(machine, dict) else None
    history = material.own.history
    answers = [a for place in history.rounds.values() for a in place.answers]
    trained = [a for place in history.rounds.values() for a in place.trained.values()]
    each = max(len(trained), 1)
    return Timing(
        rounds={place.number: _split(place, workers) for place in history.closed},
        totals={place.number: place.seconds.get("total", 0.0) for place in history.closed},
        bytes_up=sum(a.bytes_up for a in answers),
        bytes_down=sum(a.bytes_down for a in answers),
        answers=len(trained),
        up_each=sum(a.bytes_up for a in trained) / each if trained else None,
        down_each=sum(a.bytes_down for a in trained) / each if trained else None,
        at_once=None if workers is None else max(1, int(workers)),
    )


def _split(place: Round, workers: float | None) -> dict[str, float]:
    answered = len(place.trained) or len(place.validated) or 1
    side_by_side = min(answered, workers) if workers and workers >= 1 else answered
    parts = {
        "data": sum(number(a.facts.seconds.data) or 0.0 for a in place.answers) / side_by_side,
        "compute": sum(number(a.facts.seconds.compute) or 0.0 for a in place.answers) / side_by_side,
        "transport": sum(a.transport for a in place.answers) / side_by_side,
        "aggregation": place.seconds.get("fold", 0.0) + place.seconds.get("step", 0.0),
    }
    return {**parts, "other": max(0.0, place.seconds.get("total", 0.0) - sum(parts.values()))}
