"""The only wiring: a plan and a sites file become a run directory, and a run directory a running run."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.coordinator import checkpoint
from wardround.coordinator.rounds import Run, run_rounds
from wardround.coordinator.state import State
from wardround.core.errors import Fault, InputError
from wardround.core.rundir import EventLog, RunDir, read_events
from wardround.data.store import default_root
from wardround.planning.plan import Plan
from wardround.planning.sites import SitesFile
from wardround.planning.transfer import Transfer
from wardround.runtimes.engines import Engine, machine_of, open_engine
from wardround.runtimes.local import Progress
from wardround.runtimes.scalars import Scalars
from wardround.strategies.fedavg import FedAvg

Listener = Callable[[str, dict[str, Any]], None]
POOLED = "pooled"


@dataclass(frozen=True)
class Arm:
    """One model of a study: federated, pooled, or one site alone."""

    name: str
    kind: str
    sites: tuple[str, ...]  # who trains
    testers: tuple[str, ...]  # who tests


def arms(sites: Sequence[str], baselines: Sequence[str], left_out: str | None = None) -> list[Arm]:
    """The federated arm and the baselines asked for: ``pooled``, ``local`` (each site) or ``local:SITE``.

    Every model is tested at every site: also at a site ``left_out`` of the federation, and one site's own
    model at the others.
    """
    every = tuple(sites)
    chosen = [Arm("federated", "federated", tuple(site for site in every if site != left_out), every)]
    if POOLED in baselines:
        chosen.append(Arm(POOLED, POOLED, (POOLED,), every))
    alone = every if "local" in baselines else tuple(s for s in every if f"local:{s}" in baselines)
    chosen.extend(Arm(f"local-{site}", "local", (site,), every) for site in alone)
    return chosen


def create(
    run: RunDir,
    plan: Plan,
    sites: SitesFile,
    folders: Mapping[str, Path],
    baselines: Sequence[str],
    text: str,
    left_out: str | None = None,
) -> None:
    """Make the run directory. A site ``left_out`` does not train; the final model is tested there too.

    Raises:
        InputError: the plan asks for more sites than there are.
        StorageError: the folder cannot be used.
    """
    if (plan.rounds.quorum or 1) > len(sites.sites):
        raise InputError(
            "the plan does not fit the sites file",
            [Fault("rounds.quorum", f"asks for {plan.rounds.quorum} sites, the sites file names {len(sites.sites)}")],
        )
    run.make()
    entries = {
        site.name: {
            "folder": str(folders[site.name]),
            "spec": None if site.dataset is None else site.dataset.model_dump(mode="json"),
            "largest_batch": site.largest_batch,
        }
        for site in sites.sites
    }
    machine = machine_of(sites)
    config = {"sites": entries, "machine": machine, "baselines": list(baselines), "left_out": left_out}
    run.write_json("sites.json", config)
    (run.root / "plan.yaml").write_text(text, encoding="utf-8")
    (run.root / "sites").mkdir(mode=0o700)
    _begin_arm(run, plan, arms(list(entries), baselines, left_out)[0], machine, list(baselines))


def carry_out(run: RunDir, progress: Progress | None = None, listener: Listener | None = None) -> State:
    """Run or resume everything that a run directory asks for: the federation, then its baselines.

    Raises:
        RunError, StorageError: see `run_rounds`; the directory stays resumable.
    """
    lock = run.lock()
    try:
        plan = load_run_plan(run)
        listener = _both(Scalars(run.root / "tensorboard").listen, listener)
        config = run.read_json("sites.json")
        machine = config["machine"]
        federated = arms(list(config["sites"]), [], config.get("left_out"))[0]
        with open_engine(machine, run.root / "sites" / "workers.log", progress) as pool:
            _note_workers(run, pool.workers)
            state = _carry_out_arm(run, plan, federated, config, pool, listener, None)
            # A site that never answered (no usable case, say) has no local baseline and no share in the pooled one.
            able = [site for site in config["sites"] if site in _seen(run)]
            config = {**config, "sites": {site: config["sites"][site] for site in able}}
            _baselines(run, plan, arms(able, config["baselines"])[1:], config, pool, listener, state.round)
        return state
    finally:
        os.close(lock)


def _note_workers(run: RunDir, workers: int) -> None:
    """How many sites work at the same time is known when a cluster was seen; the report tells it."""
    facts = run.read_json("run.json")
    if facts["machine"].get("workers") != workers:
        run.write_json("run.json", {**facts, "machine": {**facts["machine"], "workers": workers}})


def _both(first: Listener, second: Listener | None) -> Listener:
    def listen(arm: str, event: dict[str, Any]) -> None:
        first(arm, event)
        if second is not None:
            second(arm, event)

    return listen


def ordinary(plan: Plan) -> Plan:
    """The plan of a baseline: ordinary training of one model. FedAvg of one site is just that; others may pull.

    Nothing would travel, so nothing is rounded.
    """
    changes = {"strategy": FedAvg(), "transfer": Transfer(), "private": None, "finetune": None}
    return plan.model_copy(update=changes)


def load_run_plan(run: RunDir) -> Plan:
    """The plan of a run directory. Raises RunError where it is no run directory."""
    return Plan.model_validate(run.read_json("plan.json"))


def _done(run: RunDir) -> bool:
    """True where the arm in this directory ended and every site was tested."""
    ended = any(event["event"] == "run_ended" for event in read_events(run.events))
    return ended and not run.read_json("scores.json")["missing"]


def _seen(run: RunDir) -> set[str]:
    return {event["site"] for event in read_events(run.events) if event["event"] in ("site_described", "site_replied")}


def _baselines(
    run: RunDir,
    plan: Plan,
    chosen: Sequence[Arm],
    config: dict[str, Any],
    pool: Engine,
    listener: Listener,
    rounds: int,
) -> None:
    """All baselines side by side; each is finished before the first failure is raised."""
    if not chosen:
        return
    with ThreadPoolExecutor(len(chosen)) as side_by_side:
        jobs = [side_by_side.submit(_baseline, run, plan, arm, config, pool, listener, rounds) for arm in chosen]
        try:
            wait(jobs)
        except BaseException:
            pool.close()  # Ctrl-C: the others must not keep this waiting
            raise
    for job in jobs:
        job.result()


def _baseline(
    run: RunDir,
    plan: Plan,
    arm: Arm,
    config: dict[str, Any],
    pool: Engine,
    listener: Listener,
    rounds: int,
) -> None:
    place, plan = run.baseline(arm.name), ordinary(plan)
    if not (place.root / "run.json").is_file():
        shutil.rmtree(place.root, ignore_errors=True)
        place.make()
        (place.root / "sites").mkdir(mode=0o700)
        _begin_arm(place, plan, arm, config["machine"], [])
    _carry_out_arm(place, plan, arm, config, pool, listener, rounds)


def _carry_out_arm(
    place: RunDir,
    plan: Plan,
    arm: Arm,
    config: dict[str, Any],
    pool: Engine,
    listener: Listener,
    fixed: int | None,
) -> State:
    point = checkpoint.load(place)
    if point is not None and _done(place):
        return point.state
    log = EventLog(place.events, lambda event, facts: listener(arm.name, {"event": event, **facts}))
    begun = place.events.is_file() and place.events.stat().st_size > 0
    if begun:
        log.write("run_resumed")
    else:
        log.write("run_started", plan=plan.digest(), sites=list(arm.sites), seed=plan.seed)
    settings = {name: _setting(name, place, config) for name in {*arm.sites, *arm.testers}}
    transport = pool.transport(place.root / "plan.json", settings)
    return run_rounds(Run(plan, place, transport.ask, arm.sites, arm.testers, log, fixed))


def _setting(name: str, place: RunDir, config: dict[str, Any]) -> dict[str, Any]:
    entries = config["sites"]
    sources = list(entries.values()) if name == POOLED else [entries[name]]
    limits = [entry["largest_batch"] for entry in sources if entry.get("largest_batch") is not None]
    return {
        "name": name,
        "largest_batch": min(limits, default=None),
        "sources": sources,
        "folder": str(place.site(name).resolve()),
        "store_root": str(default_root()),
        "threads": config["machine"]["threads"],
        "device": config["machine"]["device"],
        "processes": config["machine"].get("processes", 1),
    }


def _begin_arm(place: RunDir, plan: Plan, arm: Arm, machine: dict[str, Any], baselines: list[str]) -> None:
    (place.root / "plan.json").write_text(plan.canonical(), encoding="utf-8")
    place.write_json(
        "run.json",
        {
            "arm": arm.kind,
            "name": arm.name,
            "plan": plan.digest(),
            "seed": plan.seed,
            "sites": list(arm.sites),
            "simulation": True,
            "software": __version__,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {**machine_facts(), **machine},
            "baselines": baselines,
        },
    )


def machine_facts() -> dict[str, Any]:
    """What a report says of the machine that ran the rounds, and of its software."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        **{name: _version(name) for name in ("torch", "monai", "numpy")},
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
