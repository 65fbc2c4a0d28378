"""From a run directory to the values that the report, the summary table and the console show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from wardround.core.errors import RunError
from wardround.core.rundir import RunDir, read_events
from wardround.core.scores import Scores
from wardround.faces.report.history import History, read_history

ARM_NAMES = {"federated": "Federated", "pooled": "Pooled", "local": "Local-only"}


@dataclass(frozen=True)
class Arm:
    """One way of training: its test scores by site, and the work behind them."""

    name: str
    scores: Mapping[str, Scores]
    history: History


@dataclass(frozen=True)
class Material:
    """Everything a run directory says. ``notes`` tells what could not be read."""

    run: RunDir
    facts: Mapping[str, Any]
    plan: Mapping[str, Any]
    own: Arm
    pooled: Arm | None = None
    local: Mapping[str, Arm] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sites(self) -> list[str]:
        """All sites that anything is known of; the run's own order first."""
        known = [*map(str, _list(self.facts.get("sites"))), *self.own.history.summaries, *self.own.scores]
        return list(dict.fromkeys(known))

    @property
    def title(self) -> str:
        """The study's title."""
        return str(at(self.plan, "study.title") or "Untitled study")

    @property
    def label(self) -> str:
        """What this run's own model is called in tables."""
        return ARM_NAMES.get(self.own.name, "This model")

    def local_scores(self) -> dict[str, Scores]:
        """Each site's own model on that site's test cases."""
        found = {site: arm.scores.get(site) for site, arm in self.local.items()}
        return {site: scores for site, scores in found.items() if scores is not None}


def at(plan: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """A value deep in a plan's JSON by its dotted path; ``default`` where it is absent or null."""
    value: Any = plan
    for key in path.split("."):
        if not isinstance(value, Mapping) or value.get(key) is None:
            return default
        value = value[key]
    return value


def collect(run: RunDir) -> Material:
    """Read a run directory.

    Raises:
        RunError: ``run.json`` or ``plan.json`` is missing or broken: this is no run directory.
    """
    notes: list[str] = []
    facts, plan = _object(run, "run.json"), _object(run, "plan.json")
    own = _arm(run, str(facts.get("arm") or "federated"), notes)
    pooled: Arm | None = None
    local: dict[str, Arm] = {}
    for baseline in run.baselines():
        name = baseline.root.name
        if name == "pooled":
            pooled = _arm(baseline, "pooled", notes)
        elif name.startswith("local-"):
            local[name.removeprefix("local-")] = _arm(baseline, "local", notes)
    if own.history.unreadable:
        notes.append(f"{own.history.unreadable} lines of events.jsonl could not be understood and are left out.")
    return Material(run, facts, plan, own, pooled, local, tuple(notes))


def _object(run: RunDir, name: str) -> Mapping[str, Any]:
    value = run.read_json(name)
    if not isinstance(value, dict):
        raise RunError(f"{run.root} is not a whole run directory: {name} is not a JSON object")
    return value


def _arm(run: RunDir, name: str, notes: list[str]) -> Arm:
    return Arm(name, _scores(run, notes), read_history(_events(run, notes)))


def _events(run: RunDir, notes: list[str]) -> Iterator[Mapping[str, Any]]:
    try:
        yield from read_events(run.events)
    except (OSError, ValueError) as error:
        notes.append(f"The event log of {run.root.name} cannot be read to its end ({type(error).__name__}).")


def _scores(run: RunDir, notes: list[str]) -> dict[str, Scores]:
    if not (run.root / "scores.json").is_file():
        return {}
    try:
        sites = run.read_json("scores.json")["sites"]
        return {str(site): Scores.model_validate(scores) for site, scores in sites.items() if scores is not None}
    except (RunError, KeyError, TypeError, AttributeError, ValidationError) as error:
        notes.append(f"The test scores of {run.root.name} cannot be read ({type(error).__name__}).")
        return {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def synthetic_sites(material: Material) -> list[str] | None:
    """The sites with made-up data; an empty list where only the run says so; None where nothing does."""
    found = [site for site in material.sites if (s := material.own.history.summaries.get(site)) and s.synthetic]
    return found if found or material.facts.get("synthetic") is True else None
