"""All sites on this machine: a few worker processes take turns at playing the hospitals.

The process that runs the rounds never imports torch. Where a worker dies (killed, out of memory), a new one does
its task once more; a site under whose task two have died is missing in this round.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from wardround.core.messages import Answer, Reply, SiteFailed, Task
from wardround.runtimes.frames import receive, send

Progress = Callable[[str, str, int, int], None]
SettingJson = dict[str, Any]
TRIES = 2  # workers for one task, as in a network
DIED = "the site's process ended before it answered (killed, or out of memory)"


class WorkerPool:
    """Worker processes shared by a run and its baselines."""

    def __init__(self, workers: int, threads: int, log: Path, progress: Progress | None = None) -> None:
        self.workers = workers
        self._threads, self._log = threads, log
        self._progress = progress or (lambda *_: None)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._here = threading.local()
        self._all: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers at once; what they were doing is done again on resume."""
        with self._lock:
            self._closed = True
            for process in self._all:
                process.kill()
        # Not cancelled: who waits for a cancelled future is never told. What is still queued fails at once instead.
        self._pool.shutdown(wait=True)
        for process in self._all:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()

    def transport(self, plan_file: Path, settings: Mapping[str, SettingJson]) -> LocalTransport:
        """To the sites of one run directory."""
        return LocalTransport(self, plan_file, settings)

    def submit(self, message: dict[str, Any], task: Task, site: str, tries: int = 1) -> Any:
        """A future of Answer or SiteFailed; ``tries`` workers may die under it."""
        return self._pool.submit(self._one, message, task, site, tries)

    def _one(self, message: dict[str, Any], task: Task, site: str, tries: int) -> Answer | SiteFailed:
        for _ in range(tries):
            if (result := self._try(message)) is not None:
                return result
        return SiteFailed(task=task.id, site=site, kind="error", reason=DIED)

    def _try(self, message: dict[str, Any]) -> Answer | SiteFailed | None:
        """What this thread's worker answers; None where it died."""
        begin = time.perf_counter()
        try:
            process = self._process()
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - pipes, see below
            send(process.stdin, message)
            for frame in receive(process.stdout):
                if "progress" in frame:
                    self._progress(*frame["progress"])
                else:
                    return result_of(frame, time.perf_counter() - begin)
        except OSError:
            pass  # the pipe broke: the worker died
        self._here.process = None
        return None

    def _process(self) -> subprocess.Popen[bytes]:
        """This thread's worker, started anew where it died."""
        process: subprocess.Popen[bytes] | None = getattr(self._here, "process", None)
        if process is None or process.poll() is not None:
            with self._lock:
                if self._closed:
                    raise OSError("closing")
                process = start_worker(self._threads, self._log)
                self._all.append(process)
            self._here.process = process
        return process


def start_worker(threads: int, log: Path) -> subprocess.Popen[bytes]:
    """A worker process with ``threads`` processor threads, which speaks `frames`; its errors go to ``log``."""
    count = str(threads)
    env = {**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "wardround.runtimes.worker_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=env,
            start_new_session=True,
        )


class LocalTransport:
    """`Transport` to the sites of one run directory."""

    def __init__(self, pool: WorkerPool, plan_file: Path, settings: Mapping[str, SettingJson]) -> None:
        self._pool, self._plan_file, self._settings = pool, plan_file, settings

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        """See `wardround.core.contracts.Transport`."""
        message = message_of(self._plan_file, task, tensors)
        futures = [self._pool.submit({**message, "setting": self._settings[site]}, task, site, TRIES) for site in sites]
        for future in as_completed(futures):
            yield future.result()


def message_of(plan_file: Path, task: Task, tensors: Path | None) -> dict[str, Any]:
    """A task as a worker process reads it; the site's ``setting`` is still to be added."""
    return {
        "plan": str(plan_file),
        "plan_digest": task.plan,
        "task": task.model_dump(mode="json"),
        "tensors": None if tensors is None else str(tensors),
    }


def result_of(frame: dict[str, Any], elapsed: float) -> Answer | SiteFailed:
    """What a worker process answered, ``elapsed`` seconds after it was asked."""
    if "failed" in frame:
        return SiteFailed.model_validate(frame["failed"])
    reply = Reply.model_validate(frame["reply"])
    seconds = getattr(reply.facts, "seconds", None)
    busy = seconds.total if seconds is not None else elapsed
    tensors = None if frame["tensors"] is None else Path(frame["tensors"])
    return Answer(reply, tensors, transport=max(0.0, elapsed - busy))
