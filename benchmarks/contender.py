"""What `make bench-engines` asks of an engine: the same FedAvg of three sites that train nothing.

Every contender moves the same tensors: the server sends the model to each site, each site sends it back changed, the
server takes the mean, ``rounds`` times. ``pause`` is how long a site takes for it.
"""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

SITES = ("A", "B", "C")
SIDE = 512


@dataclass(frozen=True)
class Work:
    """One run."""

    numbers: int  # fp32 numbers in the model
    rounds: int
    pause: float = 0.0  # seconds that a site takes for its "training"


def model(numbers: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors with so many numbers in all: large ones and one small one."""
    random, large = np.random.default_rng(seed), numbers // (SIDE * SIDE)
    shapes = {f"layer{i:03d}.weight": (SIDE, SIDE) for i in range(large)}
    shapes["head.weight"] = (1, max(1, numbers - large * SIDE * SIDE))
    return {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


class Contender(ABC):
    """An engine with one server and three sites on this machine, each its own processes, over its own security."""

    name: str
    persistent = True  # whether the server's state survives it, where an engine leaves that open
    approved: float | None = None  # when the last site said yes to the newest run, where somebody has to

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def prepare(self) -> None:
        """Keys, certificates, folders: what is done once, before anything is started."""

    @abstractmethod
    def start(self) -> None:
        """Start server and sites; return when all three can be given work."""

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Begin a run, and return as soon as it has been taken (or before)."""

    @abstractmethod
    def began(self) -> float | None:
        """When (`time.time`) the newest run's first round began."""

    @abstractmethod
    def ends(self) -> list[float]:
        """When each round of the newest run ended, so far; a round that was done twice counts once."""

    @abstractmethod
    def over(self) -> str | None:
        """``ended`` where the newest run ended as it should, in a few words how where not, None while it goes on."""

    @abstractmethod
    def server(self) -> list[int]:
        """Processes of the server, those included that it started for the run."""

    @abstractmethod
    def site(self, name: str) -> list[int]:
        """Processes of a site."""

    @abstractmethod
    def start_server(self) -> None:
        """Start it again after a kill, as its service would; return at once."""

    @abstractmethod
    def start_site(self, name: str) -> None:
        """Start it again after a kill, as its service would; return at once."""

    @abstractmethod
    def close(self) -> None:
        """End all processes."""

    def kill(self, pids: list[int]) -> None:
        """Kill -9."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(root: int) -> Iterator[int]:
    """A process and all that it started."""
    yield root
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{root}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                yield from descendants(child)


def resident(pids: list[int]) -> float:
    """Memory of processes together, MB; what they share is counted once (proportional set size)."""
    total = 0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total / 1024
