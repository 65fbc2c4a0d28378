"""A real coordinator on loopback and site folders of tiny hospitals, for tests of the site's half."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tiny import make_plan, write_site
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
from wardround.core.scores import Scores
from wardround.core.weights import Part, file_digest, pack, write_tensors
from wardround.planning.plan import Plan
from wardround.runtimes.https import joining
from wardround.runtimes.https.agent import Agent, Parts
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.office import Office, found_office
from wardround.runtimes.https.patience import Hold, Patience
from wardround.runtimes.https.server import Server, Serving

PLAN = make_plan(rounds={"limit": 3, "quorum": 1})
QUICK = Patience(tries=3, pause=lambda _seconds: None)
TENSORS = ("init", "train")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Coordinator:
    office: Office
    server: Server

    @property
    def store(self) -> Any:
        return self.office.store

    def invitation(self, name: str = "A", **options: Any) -> str:
        return self.office.invite(name, **options).text()

    def submit(self, sites: tuple[str, ...] = ("A",), plan: Plan = PLAN) -> str:
        self.store.add_run(plan, sites, "owner")
        return plan.digest()

    def ask(self, verb: Any, model: Path | None = None, number: int = 0, sites: tuple[str, ...] = ("A",)) -> Task:
        digest = PLAN.digest()
        self.store.set_run(digest, "running")
        task = Task(plan=digest, round=number, verb=verb, tensors=None if model is None else file_digest(model))
        self.store.open_task(task, model, sites)
        return task


@contextmanager
def coordinating(folder: Path, **options: Any) -> Iterator[Coordinator]:
    port = free_port()
    office = found_office(folder / "coordinator", f"https://127.0.0.1:{port}", "Trial")
    server = Server(office, Serving(host="127.0.0.1", port=port, **options))
    started = threading.Event()
    thread = threading.Thread(target=server.run, args=(lambda _port: started.set(),), daemon=True)
    thread.start()
    assert started.wait(20)
    try:
        yield Coordinator(office, server)
    finally:
        while AGENTS:
            AGENTS.pop().close()
        server.stop()
        thread.join(20)
        office.close()


def joined(coordinator: Coordinator, folder: Path, name: str = "A", **options: Any) -> Home:
    data = folder / f"data-{name}"
    if not data.exists():
        write_site(data, cases=6)
    options = {"threads": 1, "device": "cpu", **options}
    return joining.join(coordinator.invitation(name), data, folder / f"site-{name}", options, QUICK)


def model_file(folder: Path, seed: int = 0, size: int = 300_000) -> Path:
    path = folder / f"model-{seed}.safetensors"
    numbers = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    arrays, metadata = pack({"weights": Part({"w": numbers}, 1.0), "shared": Part({}, 1.0)})
    write_tensors(path, arrays, {**metadata, "wardround": '{"plan":"' + PLAN.digest() + '"}'})
    return path


@dataclass
class FakePool:
    """In the place of `WorkerPool`: answers at once, unless ``hold`` says to wait for `finish` or `close`."""

    progress: Callable[[str, str, int, int], None] = lambda *_: None
    hold: bool = False
    fails: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    closed: int = 0
    _waiting: tuple[Future[Any], dict[str, Any], Task] | None = None

    def __call__(self, threads: int, log: Path, progress: Callable[[str, str, int, int], None]) -> FakePool:
        self.progress = progress
        return self

    def submit(self, message: dict[str, Any], task: Task, site: str) -> Future[Any]:
        future: Future[Any] = Future()
        self.asked.append(message)
        self._waiting = future, message, task
        if not self.hold:
            self.finish()
        self.begun.set()
        return future

    def finish(self) -> None:
        assert self._waiting is not None
        (future, message, task), self._waiting = self._waiting, None
        name = message["setting"]["name"]
        if self.fails:
            future.set_result(SiteFailed(task=task.id, site=name, kind="error", reason="it does not work"))
        else:
            future.set_result(answer_of(message, task, name))

    def close(self) -> None:
        self.closed += 1
        if self._waiting is not None:
            (future, _, task), self._waiting = self._waiting, None
            future.set_result(SiteFailed(task=task.id, site="A", kind="error", reason="its process ended"))


def answer_of(message: dict[str, Any], task: Task, site: str) -> Answer:
    """What a site would say: made of the task alone, stored where a site stores it."""
    facts: dict[str, Facts] = {
        "describe": SiteSummary(dataset="0" * 64),
        "init": InitFacts(parameters=4),
        "train": TrainFacts(cases=4, updates=3, samples=6, loss=0.5, rate=0.01),
        "validate": ScoreFacts(scores=Scores()),
        "test": ScoreFacts(scores=Scores()),
    }
    if message["tensors"] is not None:
        assert file_digest(Path(message["tensors"])) == task.tensors
    if task.verb not in TENSORS:
        return Answer(Reply(task=task.id, site=site, facts=facts[task.verb]))
    folder = Path(message["setting"]["folder"]) / "answers" / f"{task.round:06d}-{task.verb}-0"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tensors.safetensors"
    seed = int(hashlib.sha256(task.id.encode()).hexdigest()[:8], 16)
    write_tensors(path, {"w": np.random.default_rng(seed).normal(size=300_000).astype(np.float32)})
    reply = Reply(task=task.id, site=site, facts=facts[task.verb], tensors=file_digest(path), size=path.stat().st_size)
    return Answer(reply, path)


AGENTS: list[Agent] = []


def agent_of(home: Home, pool: FakePool | None = None, **parts: Any) -> Agent:
    patience = Patience(pause=lambda _seconds: None)
    AGENTS.append(Agent(home, Parts(make=pool or FakePool(), patience=patience, hold=Hold(0.0), **parts)))
    return AGENTS[-1]


def approve(home: Home, standing: Any = "approved") -> None:
    """As a person would, in another process."""
    home.consents().decide(PLAN.digest(), standing, "Dr. A. Meyer", "for a reason")
