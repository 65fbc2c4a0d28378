"""Kill -9 at chosen moments of a round: the federation, the moments as they can be seen from outside, one cell.

Site B reaches the coordinator over a slow line, so that its transfers last. The moments are those of
round 1 (the second one: sites and coordinator have a past by then).
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from network_world import Network, until

from tiny import plan_dict, write_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "https"))
from throttle import Line, Link

ROUND = 1
BUSY = 10  # hundredths of a second of processor time: a small part of a task's training
VICTIMS = ("coordinator", "site", "worker")
PHASES = ("download", "training", "upload", "aggregation", "checkpoint")
TIMES = ("before", "during", "after")
Seen = Callable[[], bool]


@dataclass
class Cell:
    """One kill."""

    victim: str
    phase: str
    time: str
    equal: bool = False
    seconds: float = 0.0  # from the kill to the end of the run
    note: str = ""

    @property
    def moment(self) -> str:
        return f"{self.time} {self.phase}"


@dataclass
class Stage:
    """A federation that is ready to run a plan, and can be put back to that state."""

    net: Network
    line: Link
    plan: Path
    digest: str = ""
    reference: tuple[str, str] = ("", "")
    _idle: int | None = None

    @classmethod
    def build(cls, root: Path, rate: float = 1.5e6, **changes: object) -> Stage:
        """Two sites have joined and approved; nobody runs."""
        line = Link(Line(rate=rate, delay=0.005))
        line.__enter__()
        stage = cls(Slow(root, line), line, root / "plan.yaml")
        training = {**plan_dict()["training"], "steps": 40}
        options = {
            "rounds": {"limit": 3, "quorum": 2, "stall": 300},
            "network": {"name": "unet", "features": [16, 32, 64]},
        }
        write_plan(stage.plan, **{"training": training, **options, **changes})
        stage.net.all_join()
        stage.digest = stage.net.submit(stage.plan)
        for name in stage.net.names:
            until(lambda name=name: stage.net.offered(name, stage.digest), f"the plan reaches {name}")
        stage.stop()
        for name in stage.net.names:
            stage.net.approve(name, stage.digest)
        stage._move("", ".ready")
        return stage

    def close(self) -> None:
        self.stop()
        self.line.__exit__(None, None, None)

    def stop(self) -> None:
        """Kill everybody."""
        for process in (*self.net.sites.values(), *([self.net.server] if self.net.server else [])):
            process.end()
        self.net.sites.clear()

    def begin(self) -> None:
        """As it was before the run, and everybody is started."""
        self.stop()
        for path in self._folders():
            shutil.rmtree(path, ignore_errors=True)
        for log in self.net.root.glob("*.log"):
            log.rename(log.with_suffix(f".{len(list(self.net.root.iterdir()))}.old.log"))
        self._move(".ready", "")
        self.net.serve()
        for name in self.net.names:
            self.net.start(name)

    def _folders(self) -> list[Path]:
        return [self.net.dir, *(self.net.folder(name) for name in self.net.names)]

    def _move(self, before: str, after: str) -> None:
        for path in self._folders():
            shutil.copytree(f"{path}{before}", f"{path}{after}", copy_function=shutil.copy2)

    # -- what can be seen

    def moment(self, phase: str, when: str) -> Seen:
        """Whether a moment of round `ROUND` has come, at site B or at the coordinator."""
        return getattr(self, f"_{when}_{phase}")

    @property
    def _task(self) -> str:
        return f"{self.digest}:{ROUND}:train:0"

    def _site_log(self, words: str) -> bool:
        return words in (self.net.root / "agent_B.log").read_text()

    @property
    def _inbox(self) -> Path:
        return self.net.folder("B") / "runs" / self.digest / "inbox"

    @property
    def _answer(self) -> Path:
        return self.net.folder("B") / "runs" / self.digest / "answers" / f"{ROUND:06d}-train-0"

    @property
    def _model(self) -> tuple[str, int]:
        """Digest and size of the model that round `ROUND` begins with: it travels when it is validated."""
        rows = self._ask("select tensors, size from tasks where id = ?", self._task.replace("train", "validate"))
        return (str(rows[0][0]), int(rows[0][1])) if rows else ("", 0)

    def _ask(self, query: str, *values: str, file: str = "state.sqlite") -> list[tuple]:
        with suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{self.net.dir / file}?mode=ro", uri=True, timeout=1)
            try:
                return connection.execute(query, values).fetchall()
            finally:
                connection.close()
        return []

    def _share(self, path: Path, size: int) -> float:
        with suppress(FileNotFoundError):
            return path.stat().st_size / max(1, size)
        return 0.0

    def _before_download(self) -> bool:
        return self._site_log(f"{self.digest[:12]}:{ROUND}:validate:0")

    def _during_download(self) -> bool:
        sha256, size = self._model
        return 0.2 < self._share(self._inbox / f"{sha256}.safetensors.part", size) < 0.9

    def _after_download(self) -> bool:
        return (self._inbox / f"{self._model[0]}.safetensors").is_file()

    def _before_training(self) -> bool:
        return self._site_log(f"{self.digest[:12]}:{ROUND}:train:0")

    def _during_training(self) -> bool:
        """The worker is busy: it has used processor time since it got the task."""
        if not self._before_training():
            self._idle = None
            return False
        if self._idle is None:
            self._idle = self._cpu()
        return self._cpu() - self._idle >= BUSY and not self._after_training()

    def _cpu(self) -> int:
        """Hundredths of a second that B's worker has used."""
        total = 0
        for pid in self.net.sites["B"].children():
            with suppress(OSError, IndexError):
                total += sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15]))
        return total

    def _after_training(self) -> bool:
        return (self._answer / "reply.json").is_file()

    _before_upload = _after_training

    def _during_upload(self) -> bool:
        for path in (self.net.dir / "blobs" / "partial").glob("*.B"):
            with suppress(FileNotFoundError):
                size = (self._answer / "tensors.safetensors").stat().st_size
                return 0.2 < self._share(path, size) < 0.9
        return False

    def _after_upload(self) -> bool:
        """B's tensors are whole at the coordinator; its reply is on its way."""
        if not self._after_training():
            return False
        with suppress(OSError, ValueError):
            import json

            sha256 = json.loads((self._answer / "reply.json").read_text())["tensors"]
            return (self.net.dir / "blobs" / "given" / f"{sha256}.B").is_file()
        return False

    def _before_aggregation(self) -> bool:
        rows = self._ask("select site from asked where task = ? and kind is not null", self._task)
        return len(rows) == len(self.net.names)

    def _during_aggregation(self) -> bool:
        """The coordinator has both contributions open: for milliseconds, so this looks without a pause."""
        if not self._after_upload():
            return False
        end = time.monotonic() + 5
        while time.monotonic() < end:
            if self._open_contributions() >= len(self.net.names):
                return True
        return False

    def _open_contributions(self) -> int:
        server = self.net.server
        found = 0
        with suppress(OSError):
            for link in Path(f"/proc/{server.pid if server else 0}/fd").iterdir():
                with suppress(OSError):
                    found += "/blobs/given/" in os.readlink(link)  # noqa: PTH115 - a third of the time
        return found

    def _after_aggregation(self) -> bool:
        events = self.net.events(self.digest, "site_replied")
        return any(event["verb"] == "train" and event["round"] == ROUND for event in events)

    _before_checkpoint = _after_aggregation

    def _during_checkpoint(self) -> bool:
        return (self.net.place(self.digest) / "rounds" / f"{ROUND + 1:04d}.part" / "model.safetensors").is_file()

    def _after_checkpoint(self) -> bool:
        return (self.net.place(self.digest) / "latest").read_text().strip() == f"{ROUND + 1:04d}"

    # -- the kill

    def kill(self, cell: Cell) -> None:
        """Wait for the moment, and strike; what was killed is started again (the worker by its agent)."""
        server, agent = self.net.server, self.net.sites["B"]
        assert server is not None
        until(self.moment(cell.phase, cell.time), f"{cell.moment} comes")
        if cell.victim == "coordinator":
            server.kill()
            self.net.serve()
        elif cell.victim == "site":
            agent.kill()
            self.net.start("B")
        else:
            workers = agent.children()
            cell.note = "" if workers else "no worker at that moment"
            for pid in workers:
                os.kill(pid, signal.SIGKILL)

    def play(self, cell: Cell) -> Cell:
        """One cell, from the start of the run to its end."""
        self.begin()
        self.kill(cell)
        begin = time.monotonic()
        self.net.wait(self.digest)
        cell.seconds = time.monotonic() - begin
        cell.equal = self.net.models(self.digest) == self.reference
        return cell

    def undisturbed(self) -> float:
        """Run without a kill, for the reference; returns its seconds."""
        self.begin()
        begin = time.monotonic()
        self.net.wait(self.digest)
        self.reference = self.net.models(self.digest)
        return time.monotonic() - begin


class Slow(Network):
    """B reaches the coordinator by the slow line, which is a proxy."""

    def __init__(self, root: Path, line: Link) -> None:
        super().__init__(root)
        self._line = line

    def env_of(self, site: str | None) -> dict[str, str]:
        way = {"HTTPS_PROXY": f"http://127.0.0.1:{self._line.port}"} if site == "B" else {}
        return {**super().env_of(site), **way}
