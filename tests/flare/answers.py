"""A worker for tests: answers at once, from the task and the site's name alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from wardround.core.messages import (
    Answer,
    Facts,
    InitFacts,
    Reply,
    ScoreFacts,
    SiteFailed,
    SiteSummary,
    Task,
    TrainFacts,
)
from wardround.core.parcels import unpack_decoded
from wardround.core.scores import Scores
from wardround.core.weights import Part, file_digest, pack, write_tensors

STEPS = {"A": 1.0, "B": 2.0, "C": 6.0}
SIZE = 5000  # numbers of the model


class Pool:
    """In the place of `WorkerPool`."""

    def __init__(self, fails: Callable[[Task], bool] = lambda _task: False) -> None:
        self._fails = fails

    def __call__(self, threads: int, log: Path, progress: Any) -> Pool:
        return self

    def submit(self, message: dict[str, Any], task: Task, site: str) -> Future[Answer | SiteFailed]:
        done: Future[Answer | SiteFailed] = Future()
        if self._fails(task):
            done.set_result(SiteFailed(task=task.id, site=site, kind="error", reason="it does not work"))
        else:
            done.set_result(_answer(message, task, site))
        return done

    def close(self) -> None:
        """Nothing to end."""


def _answer(message: dict[str, Any], task: Task, site: str) -> Answer:
    facts: dict[str, Facts] = {
        "describe": SiteSummary(dataset="0" * 64),
        "init": InitFacts(parameters=SIZE),
        "train": TrainFacts(cases=4, updates=3, samples=6, loss=0.5, rate=0.01),
        "validate": ScoreFacts(scores=Scores()),
        "test": ScoreFacts(scores=Scores()),
    }
    if task.verb not in ("init", "train"):
        return Answer(Reply(task=task.id, site=site, facts=facts[task.verb]))
    weights = np.zeros(SIZE, np.float32)
    if task.verb == "train":
        weights = unpack_decoded(Path(message["tensors"]))["weights"].arrays["w"] + np.float32(STEPS[site])
    path = Path(message["setting"]["folder"]) / f"{task.verb}-{task.round}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, *pack({"weights": Part({"w": weights}, 1.0)}))
    reply = Reply(task=task.id, site=site, facts=facts[task.verb], tensors=file_digest(path), size=path.stat().st_size)
    return Answer(reply, path)
