"""Sites on a Ray cluster: actors take turns at playing the hospitals, as worker processes do on one machine.

The only file that imports ray. An actor (`Player`) holds one worker process, the same as locally and with the same
number of threads (equal bits), and its share of a node's processors and GPUs. A model reaches
each node once, through the object store; answers and a site's own state lie in the run directory, which every node
sees (docs/decisions/0011-ray.md). Only JSON text and the bytes of tensor files are given to Ray.

An actor or a node may die at any moment: the actor is replaced, and the task is put again, to whoever is free. It is
idempotent, so a site that had answered gives the stored answer.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np
import ray
from ray.exceptions import RayError

from wardround import __version__
from wardround.core.errors import InputError, RunError, WardRoundError
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.runtimes.local import DIED, Progress, SettingJson, message_of, result_of
from wardround.runtimes.player import Player

STRIKES = 4  # under one task: then the site is missing in this round
# Strikes: two workers may die, as locally; that an actor or a node goes may be no fault of the task.
WORKER = 2
ACTOR = 1
PATIENCE = 10.0  # seconds for a cluster's head to be there
STARTS = 5  # failures in a row to start an actor
Result = Answer | SiteFailed


@dataclass(order=True)
class _Job:
    """A task for one site. The longest comes first; of one that nobody has timed, nothing is known: it may be long."""

    order: tuple[float, int]
    message: str = field(compare=False)
    model: Any = field(compare=False)  # in the object store
    task: Task = field(compare=False)
    site: str = field(compare=False)
    future: Future[Result] = field(compare=False, default_factory=Future)
    strikes: int = field(compare=False, default=0)


class RayPool:
    """Actors shared by a run and its baselines; see `wardround.runtimes.engines.Engine`."""

    def __init__(self, machine: Mapping[str, Any], log: Path, progress: Progress | None = None) -> None:
        """Raises InputError, RunError: see `wardround.runtimes.engines.open_engine`."""
        self._machine, self._log = machine, log.resolve()
        self._progress = progress or (lambda *_: None)
        self._state = threading.Condition()
        self._jobs: list[_Job] = []
        self._took: dict[tuple[str, str], float] = {}  # seconds, by site and verb
        self._number = itertools.count()
        self._actors: set[Any] = set()
        self._software: dict[str, str] | None = None
        self._ready, self._closed = 0, False
        self._error: WardRoundError | None = None
        _connect(machine["on"])
        try:
            self.workers = min(machine["workers"], _room(machine["cpus"], machine["gpus"]))
        except BaseException:
            ray.shutdown()
            raise
        self._mark = self._log.with_name(f".ray-{uuid4().hex}")
        self._mark.touch(mode=0o600)
        self._threads = [threading.Thread(target=self._serve, name=f"player-{i}") for i in range(self.workers)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def transport(self, plan_file: Path, settings: Mapping[str, SettingJson]) -> RayTransport:
        """To the sites of one run directory."""
        return RayTransport(self, plan_file.resolve(), settings)

    def put(self, tensors: Path | None) -> Any:
        """A model in the object store. A numpy array is read where it lies on each node, without a copy an actor."""
        with self._state:  # after `close` Ray would start a cluster of its own
            return None if tensors is None or self._closed else ray.put(np.fromfile(tensors, np.uint8))

    def submit(self, message: dict[str, Any], model: Any, task: Task, site: str) -> Future[Result]:
        """Put a task to a site; ``model`` is in the object store."""
        with self._state:
            expected = self._took.get((site, task.verb), math.inf)
            job = _Job((-expected, next(self._number)), json.dumps(message), model, task, site)
            if self._closed:
                self._give_up(job)
            else:
                heapq.heappush(self._jobs, job)
                self._state.notify()
        return job.future

    def close(self) -> None:
        """End all actors at once; what they were doing is done again on resume."""
        self._stop(None)
        for thread in self._threads:
            thread.join()
        self._mark.unlink(missing_ok=True)
        with self._state:
            ray.shutdown()

    # -- one thread for each actor

    def _serve(self) -> None:
        try:
            self._serve_on()
        except Exception as error:  # noqa: BLE001 - nobody else would hear of it, and the run would wait for ever
            self._stop(RunError(f"the Ray cluster cannot be used any more: {type(error).__name__}: {error}"))

    def _serve_on(self) -> None:
        actor, failures = None, 0
        while not self._closed:
            try:
                actor = actor or self._start()
                failures = 0
            except RayError as error:  # its node went, or it cannot start there at all
                failures += 1
                if failures == STARTS:
                    self._stop(RunError(f"no site can be started on the Ray cluster: {error}"))
                continue
            except WardRoundError as error:
                self._stop(error)
                return
            job = self._next()
            if job is not None and not self._play(actor, job):
                self._drop(actor)
                actor = None

    def _start(self) -> Any:
        """An actor that has its place on a node, which may take until somebody else's work ends there."""
        options = {"num_cpus": self._machine["cpus"], "num_gpus": self._machine["gpus"], "max_restarts": 0}
        with self._state:
            if self._closed:
                raise RunError("closing")
            actor = ray.remote(**options)(Player).remote(self._machine["threads"], str(self._log))
            self._actors.add(actor)
        try:
            self._check(json.loads(ray.get(actor.look.remote(str(self._mark)))))
        except BaseException:
            self._drop(actor, ready=False)
            raise
        self._count(1)
        return actor

    def _check(self, seen: dict[str, Any]) -> None:
        node = seen["node"]
        if not seen["sees"]:
            raise RunError(
                f"node {node} does not see {self._log.parent}: the run directory and the images have to be at the same "
                "path on every node of the cluster (a shared file system); mend that, or take the node out"
            )
        if seen["wardround"] != __version__:
            raise RunError(f"node {node} has wardround {seen['wardround']}, here is {__version__}: install the same")
        with self._state:
            known = self._software = self._software or seen["software"]
        wrong = [f"{n} {has} (elsewhere {known[n]})" for n, has in seen["software"].items() if has != known[n]]
        if wrong:
            raise RunError(f"node {node} has {', '.join(wrong)}: the result would depend on where a site runs")

    def _next(self) -> _Job | None:
        with self._state:
            while not self._jobs and not self._closed:
                self._state.wait()
            return heapq.heappop(self._jobs) if self._jobs and not self._closed else None

    def _play(self, actor: Any, job: _Job) -> bool:
        """Let ``actor`` answer; False where it is of no more use."""
        try:
            return self._played(actor, job)
        except Exception as error:
            job.future.set_exception(error)
            raise

    def _played(self, actor: Any, job: _Job) -> bool:
        begin, strikes = time.perf_counter(), 0  # none where the actor was gone before it began
        with suppress(RayError):  # the actor, or its node, is gone
            for reference in actor.answer.options(num_returns="streaming").remote(job.message, job.model):
                frame = json.loads(ray.get(reference))
                if "begun" in frame:
                    strikes = ACTOR
                elif "progress" in frame:
                    self._progress(*frame["progress"])
                else:
                    elapsed = time.perf_counter() - begin
                    self._took[job.site, job.task.verb] = elapsed
                    job.future.set_result(result_of(frame, elapsed))
                    return True
            strikes = WORKER
        with self._state:
            job.strikes += strikes
            if self._closed or job.strikes >= STRIKES:
                self._give_up(job)
            else:
                heapq.heappush(self._jobs, job)
                self._state.notify()
        return False

    def _give_up(self, job: _Job) -> None:
        if self._error is not None:
            job.future.set_exception(self._error)
        else:
            job.future.set_result(SiteFailed(task=job.task.id, site=job.site, kind="error", reason=DIED))

    def _drop(self, actor: Any, ready: bool = True) -> None:
        with self._state:
            self._actors.discard(actor)
        with suppress(RayError):
            ray.kill(actor)
        if ready:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._state:
            self._ready += change
        self._progress("Ray cluster", "sites at once", self._ready, self.workers)

    def _stop(self, error: WardRoundError | None) -> None:
        with self._state:
            if not self._closed:
                self._closed, self._error = True, error
            for job in self._jobs:
                self._give_up(job)
            self._jobs.clear()
            actors = list(self._actors)
            self._state.notify_all()
        for actor in actors:
            with suppress(RayError):
                ray.kill(actor)


class RayTransport:
    """`Transport` to the sites of one run directory."""

    def __init__(self, pool: RayPool, plan_file: Path, settings: Mapping[str, SettingJson]) -> None:
        self._pool, self._plan_file, self._settings = pool, plan_file, settings

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Result]:
        """See `wardround.core.contracts.Transport`."""
        message = message_of(self._plan_file, task, None)
        model = self._pool.put(tensors)
        futures = [self._pool.submit({**message, "setting": self._settings[s]}, model, task, s) for s in sites]
        for future in as_completed(futures):
            yield future.result()


def _connect(on: str) -> None:
    address = on.removeprefix("ray://") if on != "ray" else "auto"
    try:
        if address != "auto":  # Ray itself would try for ever
            host, _, port = address.rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, OverflowError, RuntimeError, ValueError, RayError) as error:
        raise RunError(
            f"the Ray cluster cannot be reached: {error}\nThis machine has to be one of its nodes (`ray start`), and "
            "--on ray://HOST:PORT names the address that `ray start --head` printed"
        ) from error


def _room(cpus: float, gpus: float) -> int:
    """How many sites fit on the nodes that are there. Raises InputError where none does."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = 0
    for node in nodes:
        wanted = [(node.get("CPU", 0.0), cpus), (node.get("GPU", 0.0), gpus)]
        room += min(int(has / share + 1e-6) for has, share in wanted if share)
    if not room:
        has = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
        raise InputError(
            f"the sites file gives each site {cpus:g} CPUs and {gpus:g} GPUs; the cluster's nodes have {has}"
        )
    return room
