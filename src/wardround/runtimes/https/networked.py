"""The run directories of a network: ordinary ones, in the coordinator's folder, without any site's folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wardround import __version__
from wardround.coordinator.state import State
from wardround.core.errors import RunError, StorageError
from wardround.core.rundir import RunDir, read_events
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.core.weights import write_bytes
from wardround.planning.plan import Plan
from wardround.runtimes.assemble import machine_facts

ARM = "federated"
APART = ("own", "personal", "finetune")  # of an outcome: by site, told to each its own alone
SHORT = 12  # digits of a digest that name a run


def run_dir(folder: Path, digest: str) -> RunDir:
    """Where a coordinator keeps a run."""
    return RunDir(folder / "runs" / digest[:SHORT])


def make_run_dir(folder: Path, plan: Plan, roster: Sequence[str], text: str | None = None) -> RunDir:
    """The run directory of a submitted plan, made whole or not at all where there is none.

    Args:
        folder: of the coordinator.
        plan: what is run.
        roster: the sites, in fold order.
        text: the plan as it was written, kept as ``plan.yaml``.

    Raises:
        StorageError: it cannot be written.
    """
    place = run_dir(folder, plan.digest())
    try:
        if not (place.root / "run.json").is_file():
            _make(place, plan, roster)
    except OSError as error:
        raise StorageError(f"cannot make {place.root}: {error.strerror or error}") from error
    if text is not None and not (place.root / "plan.yaml").is_file():
        write_bytes(place.root / "plan.yaml", text.encode())
    return place


def _make(place: RunDir, plan: Plan, roster: Sequence[str]) -> None:
    place.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    growing = RunDir(Path(tempfile.mkdtemp(prefix=f"{place.root.name}-", suffix=".part", dir=place.root.parent)))
    try:
        growing.make()
        (growing.root / "plan.json").write_text(plan.canonical(), encoding="utf-8")
        growing.write_json("sites.json", {"sites": {site: {} for site in roster}, "baselines": []})
        growing.write_json("run.json", _facts(plan, roster))
        growing.root.replace(place.root)
    except OSError:
        shutil.rmtree(growing.root, ignore_errors=True)
        if not (place.root / "run.json").is_file():  # else another process was first
            raise


def _facts(plan: Plan, roster: Sequence[str]) -> dict[str, Any]:
    return {
        "arm": ARM,
        "name": ARM,
        "plan": plan.digest(),
        "seed": plan.seed,
        "sites": list(roster),
        "simulation": False,
        "software": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "baselines": [],
    }


def reached(place: RunDir) -> State | None:
    """Where a run stands, by its newest checkpoint; None before the first, or where it cannot be read."""
    try:
        name = (place.root / "latest").read_text(encoding="utf-8").strip()
        return State.model_validate_json((place.root / "rounds" / name / "state.json").read_bytes()) if name else None
    except (OSError, ValidationError):
        return None


def has_ended(place: RunDir) -> bool:
    """Whether the last that a run's log tells of its going is that it ended."""
    last = [e["event"] for e in read_events(place.events) if e["event"] in ("run_started", "run_resumed", "run_ended")]
    return last[-1:] == ["run_ended"]


def outcome_for(outcome: Mapping[str, Any], site: str) -> dict[str, Any]:
    """What one site is told: `outcome_of` with no other site's scores in it."""
    apart = {
        part: {name: value for name, value in (outcome[part] or {}).items() if name == site}
        for part in APART
        if part in outcome
    }
    return {**outcome, **apart}


def outcome_of(place: RunDir, roster: Sequence[str]) -> dict[str, Any]:
    """What the sites are told of a run that ended.

    ``own`` holds test scores by site, of which each site is given its own, and so do ``personal`` (of the
    sites' own whole models) and ``finetune`` where a plan has those; the rest is for all that took part:
    ``rounds``, ``best_round``, ``reason`` (stabilised or limit), ``sites`` (how many contributed), ``asked``
    (how many there are) and ``mean_dice`` (of the models that the sites use, over the test cases of all
    sites; None without any).

    Raises:
        RunError: the directory lacks the scores or the checkpoint.
    """
    state = reached(place)
    if state is None:
        raise RunError(f"{place.root} has no checkpoint that can be read")
    written = place.read_json("scores.json")
    shared, own = (_scores(written.get(part)) for part in ("sites", "personal"))
    personal = {part: written[part] for part in ("personal", "finetune") if part in written}
    stops = [event for event in read_events(place.events) if event["event"] == "run_stopped"]
    return {
        "rounds": state.round,
        "best_round": state.best_round,
        "reason": stops[-1]["reason"] if stops else "limit",
        "sites": len(state.accepted),
        "asked": len(roster),
        "mean_dice": merge_all({**shared, **own}.values(), Scores()).mean_dice,
        "own": {site: value.model_dump(mode="json") for site, value in shared.items()},
        **personal,
    }


def _scores(value: Mapping[str, Any] | None) -> dict[str, Scores]:
    return {site: Scores.model_validate(scores) for site, scores in (value or {}).items()}
