"""Whole runs with real sites as objects, made anew as after a restart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tiny import make_plan, plan_dict
from wardround.coordinator.checkpoint import load
from wardround.coordinator.rounds import Run, one_round, run_rounds
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.rundir import EventLog, RunDir
from wardround.core.weights import read_tensors
from wardround.planning.plan import Plan
from wardround.site.hospital import Source
from wardround.site.worker import Setting, Site

SGD = {"name": "sgd", "rate": 0.05, "momentum": 0.0, "weight_decay": 0.0}


def small_plan(norm: str = "instance", training: dict[str, Any] | None = None, **changes: Any) -> Plan:
    training = {**plan_dict()["training"], "steps": 2, "optimiser": dict(SGD), **(training or {})}
    network = {"name": "unet", "features": [4, 8], "norm": norm}
    return make_plan(training=training, network=network, **changes)


def make_site(plan: Plan, name: str, place: Path, data: Path, store: Path) -> Site:
    return Site(plan, Setting(name, (Source(data / name),), place / "sites" / name, store))


def begin(
    plan: Plan, place: Path, data: Path, store: Path, names: Sequence[str] = ("A", "B"), testers: Sequence[str] = ()
) -> Run:
    root = RunDir(place)
    if not place.exists():
        root.make()
        (place / "plan.json").write_text(plan.canonical(), encoding="utf-8")
    sites = {name: make_site(plan, name, place, data, store) for name in {*names, *testers}}

    def ask(task: Task, tensors: Path | None, asked: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        return (sites[name].answer(task, tensors) for name in asked)

    return Run(plan, root, ask, tuple(names), tuple(testers or names), EventLog(root.events))


def whole_run(plan: Plan, place: Path, data: Path, store: Path, names: Sequence[str] = ("A", "B"), **more: Any) -> Run:
    run = begin(plan, place, data, store, names, **more)
    run_rounds(run)
    return run


def one_more(run: Run) -> Any:
    point = load(run.dir)
    assert point is not None
    return one_round(run, point)


def answer_of(place: Path, site: str, number: int, verb: str = "train") -> Path:
    return place / "sites" / site / "answers" / f"{number:06d}-{verb}-0"


def kept(place: Path, site: str, number: int, verb: str = "train") -> dict[str, Any]:
    path = answer_of(place, site, number, verb) / "kept.safetensors"
    return read_tensors(path) if path.is_file() else {}
