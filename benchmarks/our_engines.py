"""Ward Round among the contenders of `make bench-engines`: over HTTPS, on Ray, on NVFlare, all with sites that idle.

Everything but the training is what a user has: the processes and commands of the journeys in ``tests``.
"""

from __future__ import annotations

import os
import sys
import time
from abc import abstractmethod
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "conformance"), str(ROOT / "tests" / "journeys")]

from contender import SITES, Contender, Work, descendants  # noqa: E402
from engine_contract import processes  # noqa: E402
from engines import Ray  # noqa: E402
from flare_world import CLIENT_MODULE, JOB_AT_SERVER, JOB_AT_SITE, SERVER_MODULE, FlareWorld  # noqa: E402
from network_world import Network, until  # noqa: E402

from tiny import write_plan, write_sites  # noqa: E402
from wardround.core.rundir import read_events  # noqa: E402

IDLE = ROOT / "benchmarks" / "idle"
LONG = 600.0  # seconds for anything to happen


class Ours(Contender):
    """What our engines have in common: a plan, and a run directory that tells what became of it."""

    place: Path
    began_runs = 0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        others = [part for part in os.environ.get("PYTHONPATH", "").split(":") if part and part != str(IDLE)]
        os.environ["PYTHONPATH"] = ":".join([str(IDLE), *others])

    def plan(self, work: Work) -> Path:
        """Rounds that only train; `idle/sitecustomize` reads the title."""
        self.began_runs += 1
        return write_plan(
            self.folder / f"plan{self.began_runs}.yaml",
            study={"title": f"{work.numbers} numbers, {work.pause} s"},
            rounds={"limit": work.rounds, "quorum": 2, "patience": 1000, "stall": 30},
            evaluation={"folds": 3, "every": 100_000},
            seed=self.began_runs,
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        """Of the newest run's log."""
        with suppress(FileNotFoundError):
            return [event for event in read_events(self.place / "events.jsonl") if event["event"] == name]
        return []

    def began(self) -> float | None:
        return next((when(event) for event in self.events("round_started")), None)

    def ends(self) -> list[float]:
        return [when(event) for event in self.events("round_ended")]

    def over(self) -> str | None:
        if self.events("run_ended"):
            return "ended"
        return "failed" if self.failed() else None

    @abstractmethod
    def failed(self) -> bool:
        """Whether the newest run has stopped for good."""


def when(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


class OursHttps(Ours):
    """`coordinator serve` and three `site serve`."""

    name = "Ward Round, HTTPS"

    def prepare(self) -> None:
        self.net = Network(self.folder, SITES)
        self.net.found()
        for name in SITES:
            self.net.join(name)
        assert self.net.server is not None
        self.net.server.stop()

    def start(self) -> None:
        self.net.serve()
        for name in SITES:
            self.net.start(name)
        logs = [self.net.folder(name) / "log.jsonl" for name in SITES]
        until(lambda: all(log.is_file() and '"serving"' in log.read_text() for log in logs), "all sites serve")

    def submit(self, work: Work) -> None:
        digest = self.net.submit(self.plan(work))
        self.place = self.net.place(digest)
        for name in SITES:
            self.net.approve(name, digest)
        self.approved = time.time()

    def failed(self) -> bool:
        return bool(self.events("quorum_lost"))

    def server(self) -> list[int]:
        return [] if self.net.server is None else list(descendants(self.net.server.pid))

    def site(self, name: str) -> list[int]:
        return list(descendants(self.net.sites[name].pid))

    def start_server(self) -> None:
        assert self.net.server is not None
        self.net.server.end()
        self.net.serve()

    def start_site(self, name: str) -> None:
        self.net.sites[name].end()
        self.net.start(name)

    def close(self) -> None:
        self.net.__exit__(None, None, None)


class OursRay(Ours):
    """`wardround run --on ray` beside a cluster of two nodes, as many sites at a time as there are nodes."""

    name = "Ward Round, Ray"

    def prepare(self) -> None:
        self.sites = write_sites(self.folder, SITES)

    def start(self) -> None:
        self.ray = Ray(self.folder, 2, self.sites)

    def submit(self, work: Work) -> None:
        plan = self.plan(work)
        self.place = self.ray.start(plan)

    def failed(self) -> bool:
        return self._driver().poll() not in (None, 0)

    def _driver(self) -> Any:
        return self.ray._running[self.place]

    def server(self) -> list[int]:
        """The driver. What Ray itself runs on a node is not counted."""
        return list(descendants(self._driver().pid))

    def site(self, name: str) -> list[int]:
        """Whoever plays sites on a node: sites have no processes of their own."""
        node = self.ray.nodes[SITES.index(name) % 2]
        return [pid for pid, command in processes(node.pid) if "worker_process" in command or "Player" in command]

    def start_server(self) -> None:
        self._driver().wait()
        self.ray.resume(self.place)

    def start_site(self, name: str) -> None:
        """The pool does."""

    def close(self) -> None:
        if hasattr(self, "ray"):
            self.ray.close()


class OursFlare(Ours):
    """`wardround nvflare ...`, with kits that start their processes again by themselves."""

    name = "Ward Round, NVFlare"

    def prepare(self) -> None:
        self.flare = FlareWorld(self.folder, SITES)
        self.flare.found()

    def start(self) -> None:
        self.flare.start_all()
        logs = [self.flare.kits / name / "log.txt" for name in SITES]
        until(
            lambda: all(log.is_file() and "Successfully registered" in log.read_text() for log in logs),
            "all sites are registered",
            LONG,
        )

    def submit(self, work: Work) -> None:
        self.digest = self.flare.write_job(self.plan(work))
        self.place = self.flare.place(self.digest).root
        self.flare.keep(self.digest)
        self.flare.approve(self.digest, *SITES)
        self.approved = time.time()

    def failed(self) -> bool:
        return self.flare.daemons["keep"].poll() not in (None, 0)

    def server(self) -> list[int]:
        found = [pid for pid, _ in self.flare.processes(SERVER_MODULE, "localhost")]
        return found + [pid for pid, _ in self.flare.processes(JOB_AT_SERVER, "localhost")]

    def site(self, name: str) -> list[int]:
        roots = [pid for module in (CLIENT_MODULE, JOB_AT_SITE) for pid, _ in self.flare.processes(module, name)]
        return list(dict.fromkeys(pid for root in roots for pid in descendants(root)))

    def start_server(self) -> None:
        """The kit's script does."""

    def start_site(self, name: str) -> None:
        """The kit's script does."""

    def close(self) -> None:
        self.flare.__exit__(None, None, None)
