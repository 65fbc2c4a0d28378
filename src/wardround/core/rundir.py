"""The run directory: everything that anyone wants to look at later lies here.

::

    plan.json                 canonical plan; plan.yaml is the text as it was given
    sites.json                which folders play the sites, workers, baselines asked for
    run.json                  sites, seed, arm (federated, pooled, local), software, machine
    events.jsonl              append-only log, one JSON object a line; the report reads this
    rounds/0007/              state.json, model.safetensors (what is sent), shared.safetensors: one checkpoint
                              (sent.safetensors where the plan's transfer sends an encoded model instead)
    latest                    name of the newest whole checkpoint
    best.safetensors, last.safetensors, model.safetensors (= best)
    private.safetensors       where the plan keeps tensors at the sites: their first values; the models above but
                              the final one lack them
    scores.json               test scores per site of the final model; of the sites' own models under "personal"
    tensorboard/              scalars
    sites/<name>/             simulation only, mode 0700: what a hospital would keep to itself; where each ends with
                              a model of its own, plan.json and model.safetensors, as `evaluate` takes them
    test/                     the final model as it was sent to be tested
    baselines/<arm>/          run directories of the baselines
    adapted/<dataset>/        what `wardround adapt` made of the final model for a hospital that did not train
    report.html
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround.core.errors import RunError, StorageError
from wardround.core.weights import write_bytes


@dataclass(frozen=True)
class RunDir:
    """Paths and small atomic files of one run."""

    root: Path

    @property
    def events(self) -> Path:
        """The append-only log."""
        return self.root / "events.jsonl"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.root / "report.html"

    @property
    def model(self) -> Path:
        """The final model: the best on the sites' validation cases."""
        return self.root / "model.safetensors"

    @property
    def private(self) -> Path:
        """First values of tensors that stay at the sites."""
        return self.root / "private.safetensors"

    @property
    def home(self) -> Path:
        """The folder to resume: of a baseline, the run that it belongs to."""
        return self.root.parent.parent if self.root.parent.name == "baselines" else self.root

    def round(self, number: int) -> Path:
        """The checkpoint folder after ``number`` rounds."""
        return self.root / "rounds" / f"{number:04d}"

    def site(self, name: str) -> Path:
        """A simulated site's private folder."""
        return self.root / "sites" / name

    def baseline(self, arm: str) -> RunDir:
        """A baseline's own run directory, for example ``pooled`` or ``local-A``."""
        return RunDir(self.root / "baselines" / arm)

    def baselines(self) -> list[RunDir]:
        """All baselines that were begun, by name."""
        folder = self.root / "baselines"
        return [RunDir(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []

    def make_free(self) -> None:
        """Make sure that the folder exists, is empty and can be written.

        Raises:
            StorageError: it is not so.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            if any(self.root.iterdir()):
                raise StorageError(
                    f"{self.root} is not empty: choose another --out, or go on with `wardround resume {self.root}`"
                )
            probe = self.root / ".probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StorageError(f"cannot use {self.root} as the run directory: {error.strerror}") from error

    def make(self) -> None:
        """Begin a run directory. Raises StorageError as `make_free`."""
        self.make_free()
        write_bytes(self.root / "latest", b"")

    def write_json(self, name: str, value: Any) -> None:
        """Write a readable JSON file atomically."""
        write_bytes(
            self.root / name, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
        )

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. Raises RunError where this is no run directory."""
        try:
            return json.loads((self.root / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.root} is not a whole run directory: {name} cannot be read ({error})") from error

    def lock(self) -> int:
        """Hold the run for this process. Raises RunError where another process is running it."""
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise RunError(f"{self.root} is being run by another process") from error
        return handle


class EventLog:
    """Appends events and hands them to a listener (the live progress)."""

    def __init__(self, path: Path, listener: Callable[[str, dict[str, Any]], None] | None = None) -> None:
        self._path, self._listener = path, listener
        _drop_torn_line(path)

    def write(self, event: str, **facts: Any) -> None:
        """Append one event; it is on the disk when this returns."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        data = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
        if self._listener is not None:
            self._listener(event, facts)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """All whole lines of an event log; a torn last line (power cut) is passed over."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def _drop_torn_line(path: Path) -> None:
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole != len(data):
        with path.open("rb+") as file:
            file.truncate(whole)
