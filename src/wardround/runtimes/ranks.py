"""Worker processes that train beside another one, each on its share of every batch (`wardround.site.group`)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wardround.runtimes.frames import receive, send
from wardround.site.group import Group

LEAVING = 10.0  # seconds for the others to end, once one has failed


class Lost(BaseException):
    """One of them was killed: this process ends too, and whoever started it begins the task again."""


class Helpers:
    """The other processes of one worker process. They are kept between tasks, and end when it ends."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    @contextmanager
    def beside(self, message: dict[str, Any], size: int) -> Iterator[Group]:
        """Let ``size - 1`` others do the task of ``message`` with this one.

        Raises:
            Lost: one of them was killed while they worked.
        """
        with tempfile.TemporaryDirectory(prefix="wardround-group-") as folder:
            meet = str(Path(folder) / "meet")
            try:
                for rank, process in enumerate(self._started(size - 1, message["setting"]["threads"]), 1):
                    assert process.stdin is not None  # noqa: S101 - a pipe, see below
                    send(process.stdin, {**message, "group": {"rank": rank, "size": size, "meet": meet}})
                yield Group(0, size, meet)
            except Exception as error:
                if self._end(LEAVING):
                    raise Lost("a process that trained with this one was killed") from error
                raise
            for process in self._all[: size - 1]:
                assert process.stdout is not None  # noqa: S101 - a pipe, see below
                next(iter(receive(process.stdout)), None)  # it has finished; where it has not, the next task tells

    def _started(self, count: int, threads: int) -> list[subprocess.Popen[bytes]]:
        if any(process.poll() is not None for process in self._all):
            self.close()
        while len(self._all) < count:
            self._all.append(
                subprocess.Popen(
                    [sys.executable, "-m", "wardround.runtimes.worker_process"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
                )
            )
        return self._all[:count]

    def close(self) -> None:
        """End them at once."""
        self._end(0)

    def _end(self, patience: float) -> bool:
        """End them all, at the latest after ``patience`` seconds; whether one had been killed by somebody else."""
        killed = False
        for process in self._all:
            with suppress(subprocess.TimeoutExpired):
                killed = process.wait(patience) < 0 or killed
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
        self._all = []
        return killed
