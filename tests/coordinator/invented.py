"""Invented sites: no training, no processes, all decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wardround.coordinator.rounds import Run
from wardround.core.messages import Answer, InitFacts, Reply, ScoreFacts, SiteFailed, SiteSummary, Task, TrainFacts
from wardround.core.rundir import EventLog, RunDir
from wardround.core.scores import LabelScores, Scores
from wardround.core.stats import Moments
from wardround.core.weights import Part, file_digest, pack, unpack, write_tensors
from wardround.planning.plan import Plan


@dataclass
class Hospitals:
    """Each site adds its own step to the weights; Dice follows a given curve.

    ``spoil`` changes what a site sends: a function of the weights before and after.
    """

    folder: Path
    steps: dict[str, float]
    curve: list[float]
    failing: dict[tuple[str, int], str] = field(default_factory=dict)
    asked: list[tuple[str, int, str]] = field(default_factory=list)
    spoil: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = field(default_factory=dict)

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        for site in reversed(sites):
            self.asked.append((task.verb, task.round, site))
            if (site, task.round) in self.failing and task.verb == "train":
                yield SiteFailed(task=task.id, site=site, kind="error", reason=self.failing[site, task.round])
            else:
                yield self._answer(task, tensors, site)

    def _answer(self, task: Task, tensors: Path | None, site: str) -> Answer:
        if task.verb == "describe":
            return Answer(Reply(task=task.id, site=site, facts=SiteSummary(dataset="0" * 64)))
        if task.verb in ("validate", "test"):
            dice = LabelScores(dice=Moments.of([self.curve[task.round - 1]]))
            return Answer(Reply(task=task.id, site=site, facts=ScoreFacts(scores=Scores(cases=1, labels={"b": dice}))))
        before = np.zeros(2, np.float32) if tensors is None else unpack(tensors)["weights"].arrays["w"]
        after = before + np.float32(self.steps[site])
        if task.verb == "train" and site in self.spoil:
            after = self.spoil[site](before, after)
        arrays, metadata = pack({"weights": Part({"w": after}, 1.0)})
        path = self.folder / f"{site}-{task.round}-{task.verb}"
        write_tensors(path, arrays, metadata)
        facts = InitFacts(parameters=2)
        if task.verb == "train":
            facts = TrainFacts(cases=1, updates=3, samples=6, loss=1.0, rate=0.1)
        digest = file_digest(path)
        return Answer(Reply(task=task.id, site=site, facts=facts, tensors=digest, size=path.stat().st_size), path)


def start(tmp_path: Path, plan: Plan, hospitals: Hospitals, fixed: int | None = None) -> Run:
    place = RunDir(tmp_path / "run")
    if not place.root.exists():
        place.make()
    sites = tuple(hospitals.steps)
    return Run(plan, place, hospitals.ask, sites, sites, EventLog(place.events), fixed)
