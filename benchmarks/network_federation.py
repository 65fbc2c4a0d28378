"""A coordinator started with the commands a researcher types, and sites that train nothing (`network_sites`)."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from network_baseline import client_processes

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until_open(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until somebody listens there. Raises AssertionError where the server ends instead."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    while True:
        assert server.poll() is None, "the server ended"
        try:
            socket.create_connection((host, int(port)), 5).close()
            return
        except OSError:
            time.sleep(0.1)


def plan_text(rounds: int, seed: int, transfer: str | None, sites: int) -> str:
    """A plan whose rounds only train: validation comes after the last of them."""
    plan: dict[str, Any] = {
        "wardround": 1,
        "study": {"title": "Nothing is trained here"},
        "task": {"dimensions": 3, "modalities": ["T1"], "labels": {"ball": 1}},
        "network": {"name": "unet", "features": [4, 8]},
        "training": {"steps": 1, "patch": [8, 8, 8], "precision": "fp32"},
        "rounds": {"limit": rounds, "patience": 1000, "quorum": sites},
        "evaluation": {"every": 100_000},
        "seed": seed,
    }
    if transfer is not None:
        plan["transfer"] = {"up": transfer, "down": transfer}
    return yaml.safe_dump(plan, sort_keys=False)


class Federation:
    """As a context manager: init, invite, serve, and the sites' processes."""

    def __init__(self, disk: Path, memory: Path, sites: int, numbers: int) -> None:
        self._disk, self._memory, self._sites, self._numbers = disk, memory, sites, numbers
        self.dir = disk / "coordinator"
        self.marks = memory / "seconds.jsonl"

    def __enter__(self) -> Self:
        self._clients: list[subprocess.Popen[bytes]] = []
        try:
            self._begin()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        url = f"https://127.0.0.1:{free_port()}"
        wardround("coordinator", "init", self.dir, "--url", url)
        names = [f"site{number:02d}" for number in range(self._sites)]
        invitations = [wardround("coordinator", "invite", self.dir, name).split()[-1] for name in names]
        with (self._disk / "server.log").open("wb") as log:
            command = [sys.executable, "-m", "wardround", "coordinator", "serve", str(self.dir)]
            self.server = subprocess.Popen(command, stdout=log, stderr=log)
        until_open(url, self.server)
        processes = client_processes(self._sites)
        for number in range(processes):
            file = self._memory / f"invitations{number}"
            file.write_text("\n".join(invitations[number::processes]))
            script = str(Path(__file__).with_name("network_sites.py"))
            command = [sys.executable, script, str(self._memory), str(file), "--numbers", str(self._numbers)]
            self._clients.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for client in self._clients:
            assert client.stdout is not None
            assert client.stdout.readline() == b"joined\n", "a site could not join"

    def run(self, rounds: int, seed: int, transfer: str | None = None) -> list[dict[str, float]]:
        """Submit a plan and wait for its end; the seconds of each round but the first, by cause."""
        file = self._disk / f"plan{seed}.yaml"
        file.write_text(plan_text(rounds, seed, transfer, self._sites))
        wardround("coordinator", "submit", self.dir, file)
        found: list[dict[str, Any]] = []
        while not found or found[-1]["event"] != "run_ended":
            assert self.server.poll() is None, (self._disk / "server.log").read_text()[-2000:]
            time.sleep(0.2)
            found = self._events(seed)
            stopped = [event for event in found if event["event"] == "run_stopped" and event["reason"] == "failed"]
            assert not stopped, found[-3:]
        return [event["seconds"] for event in found if event["event"] == "round_ended"][1:]

    def _events(self, seed: int) -> list[dict[str, Any]]:
        for folder in (self.dir / "runs").glob("*"):
            if json.loads((folder / "plan.json").read_text())["seed"] == seed and (folder / "events.jsonl").is_file():
                lines = (folder / "events.jsonl").read_text().splitlines(keepends=True)
                return [json.loads(line) for line in lines if line.endswith("\n")]
        return []

    def peak(self) -> float:
        """Largest resident memory of the coordinator so far, MB."""
        status = Path(f"/proc/{self.server.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self._clients, *([self.server] if hasattr(self, "server") else [])):
            process.kill()
            process.communicate()


def wardround(*args: object) -> str:
    """Run a command; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, args)],
        env={**os.environ, "COLUMNS": "4000"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
