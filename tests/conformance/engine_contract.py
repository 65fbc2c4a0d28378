"""What the conformance tests ask of an engine, and how runs are compared."""

from __future__ import annotations

import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, NamedTuple, Self

from tiny import plan_dict, write_plan
from wardround.core.rundir import read_events
from wardround.core.weights import read_tensors, weights_digest

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))
from network_world import until

SITES = ("A", "B", "C")
LONG = 900.0  # seconds for a run to end on a busy machine; a failing test ends with it
# Told by a network alone, beside what every run tells: who has approved, what is open, who is waited for.
OF_A_NETWORK = ("task_opened", "site_standing", "waiting_for", "quorum_lost")
# Differ from run to run, whatever the engine; so does a dataset's digest, into which a secret of the site goes.
OF_THE_MOMENT = ("time", "seconds", "seconds_transport", "dataset")


class World(ABC):
    """One engine and its three hospitals. A test breaks nothing that it does not mend."""

    name: ClassVar[str]
    extra: ClassVar[str] = ""  # of the installation, without which its tests are skipped

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End all processes."""

    def data(self, site: str) -> Path:
        """A site's dataset folder; a test may break what is in it before `start`, and mend it before `resume`."""
        return self.root / f"site_{site}"

    @abstractmethod
    def start(self, plan: Path) -> Path:
        """Begin a run and return its run directory at once. No plan is started twice."""

    @abstractmethod
    def wait(self, place: Path) -> None:
        """Until the run has ended well, its report written."""

    @abstractmethod
    def lose(self, place: Path) -> None:
        """Until the run has stopped because too few sites answered, and says how to go on."""

    @abstractmethod
    def abort(self, place: Path) -> None:
        """Stop what runs the rounds, as a person does who means to go on later: Ctrl-C, or the server's end."""

    @abstractmethod
    def resume(self, place: Path) -> None:
        """Go on after `abort` or `lose`, and return at once."""

    @abstractmethod
    def workers(self, site: str) -> list[int]:
        """Processes that compute for a site now, or could: to be killed."""

    # -- what all have in common

    def kill_site(self, site: str) -> int:
        """Kill -9 what computes for a site; how many processes that were."""
        found = self.workers(site)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def until_event(self, place: Path, event: str, **facts: Any) -> None:
        """Wait for a line of the event log."""

        def there() -> bool:
            return any(e["event"] == event and facts.items() <= e.items() for e in read_events(place / "events.jsonl"))

        until(there, f"{event} {facts} in {place}", LONG)


class References(NamedTuple):
    """Run directories."""

    whole: Path
    without_c: Path  # C has no image that can be read


def plan_file(root: Path, name: str, quorum: int = 3) -> Path:
    """The plan of all tests; the name makes it another one, and changes nothing that is computed."""
    training = {**plan_dict()["training"], "steps": 20}
    rounds = {"limit": 3, "quorum": quorum, "stall": 600}
    return write_plan(root / f"{name}.yaml", study={"title": name}, training=training, rounds=rounds)


@contextmanager
def spoiled(data: Path) -> Iterator[None]:
    """A dataset of which no image can be read, until the end."""
    sound = {path: path.read_bytes() for path in (data / "images").iterdir()}
    for path in sound:
        path.write_bytes(b"")
    yield
    for path, content in sound.items():
        path.write_bytes(content)


def log_of(place: Path) -> list[dict[str, Any]]:
    """A run's event log up to times and the plan's own digest."""
    return [
        {**_timeless(event), **({"plan": ""} if "plan" in event else {})}
        for event in read_events(place / "events.jsonl")
        if event["event"] not in OF_A_NETWORK
    ]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in OF_THE_MOMENT}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


def weights_of(place: Path) -> dict[str, str]:
    """Digests of all weights that a run ends with."""
    names = ("model.safetensors", "best.safetensors", "last.safetensors")
    return {name: weights_digest(read_tensors(place / name)) for name in names}


def processes(root: int) -> Iterator[tuple[int, str]]:
    """All that descend from a process, each with its command line."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield child, Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
                yield from processes(child)


def working(root: int) -> list[int]:
    """The worker processes among them."""
    return [pid for pid, command in processes(root) if "wardround.runtimes.worker_process" in command]
