"""What runs on a cluster's node: one worker process, held by an actor of whatever engine brought it there.

It imports no engine. JSON text goes in and out, and a model as the bytes of its tensor file.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.runtimes.frames import receive, send
from wardround.runtimes.local import start_worker

TOLD = 0.5  # seconds between two signs of progress of a site, at least
SOFTWARE = ("torch", "monai", "numpy")  # equal on all nodes: bits depend on them


class Player:
    """Plays any site, one task at a time, in a worker process that ends with this one."""

    def __init__(self, threads: int, log: str) -> None:
        self._threads, self._log = threads, Path(log)
        self._worker: subprocess.Popen[bytes] | None = None

    def look(self, mark: str) -> str:
        """What this node is like, as JSON; ``mark`` is a file of the run directory."""
        seen = {"node": os.uname().nodename, "sees": Path(mark).is_file(), "wardround": __version__}
        return json.dumps({**seen, "software": {name: _version(name) for name in SOFTWARE}})

    def answer(self, message: str, model: Any) -> Iterator[str]:
        """The worker's frames, as JSON; the last one is the result, and without it the worker died."""
        yield json.dumps({"begun": True})
        try:
            worker = self._running()
            assert worker.stdin is not None and worker.stdout is not None  # noqa: S101, PT018 - pipes
            with _as_file(model) as path:
                send(worker.stdin, {**json.loads(message), "tensors": path})
                told = 0.0
                for frame in receive(worker.stdout):
                    if "progress" not in frame:
                        yield json.dumps(frame)
                        return
                    if time.monotonic() - told >= TOLD:
                        told = time.monotonic()
                        yield json.dumps(frame)
        except OSError:
            pass  # the pipe broke: the worker died
        self._worker = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._worker is None or self._worker.poll() is not None:
            self._worker = start_worker(self._threads, self._log)
        return self._worker


@contextmanager
def _as_file(model: Any) -> Iterator[str | None]:
    """A model from the object store as a file that the worker can open, in memory: nothing stays behind on a kill."""
    if model is None:
        yield None
        return
    handle = os.memfd_create("model")
    try:
        with open(handle, "wb", closefd=False) as file:
            file.write(memoryview(model))
        yield f"/proc/{os.getpid()}/fd/{handle}"
    finally:
        os.close(handle)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
