"""A federation of real processes on this machine, started with the commands that people type."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tiny import write_sites
from wardround.core.rundir import read_events
from wardround.core.weights import file_digest

PATIENCE = 120.0  # seconds for anything to happen; a failing test ends with it


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(happened: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait for something; returns what it is."""
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.01)
    return found


class Process:
    """A command that runs on, with its standard error in a file."""

    def __init__(self, root: Path, name: str, args: list[str], env: Mapping[str, str]) -> None:
        self.log = root / f"{name}.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "wardround", *args],
                env=env,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[int]:
        """Processes that it started."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
        return found

    def kill(self) -> None:
        """As a power cut would: nothing can be done about it."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """As systemd would."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def end(self) -> None:
        if self.alive():
            self.kill()


class Network:
    """Coordinator and sites. ``door``: another port at which the sites reach the coordinator (of a bad line, say)."""

    def __init__(self, root: Path, names: tuple[str, ...] = ("A", "B"), door: int | None = None) -> None:
        self.root, self.names = root, names
        root.mkdir(parents=True, exist_ok=True)
        self.sites_file = write_sites(root, names)
        self.port = free_port()
        self.url = f"https://127.0.0.1:{door or self.port}"
        self.dir = root / "coordinator"
        plain = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        self.env = {**plain, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        self.server: Process | None = None
        self.sites: dict[str, Process] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (*self.sites.values(), *([self.server] if self.server else [])):
            process.end()

    # -- commands

    def env_of(self, site: str | None) -> dict[str, str]:
        """Each site has its own store of prepared images, as on a machine of its own."""
        return self.env if site is None else {**self.env, "WARDROUND_STORE": str(self.root / f"store_{site}")}

    def run(self, *args: object, site: str | None = None, code: int = 0) -> str:
        """A command that ends; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "wardround", *map(str, args)],
            env=self.env_of(site),
            cwd=self.root,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
            check=False,
        )
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout if code == 0 else done.stdout + done.stderr

    def found(self) -> None:
        """Begin the federation and serve it."""
        self.run("coordinator", "init", self.dir, "--url", self.url, "--name", "Test")
        self.serve()

    def serve(self) -> None:
        """Start the coordinator's server, or start it again."""
        args = ["coordinator", "serve", str(self.dir), "--listen", f"127.0.0.1:{self.port}"]
        self.server = Process(self.root, "server", args, self.env)
        until(self._listening, "the coordinator listens")

    def _listening(self) -> bool:
        assert self.server is not None
        assert self.server.alive(), self.server.log.read_text()[-3000:]
        try:
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        except OSError:
            return False
        return True

    def folder(self, site: str) -> Path:
        """A site's folder."""
        return self.root / f"hospital_{site}"

    def join(self, site: str, *more: object) -> None:
        """Invite a site, and let it join."""
        invitation = self.run("coordinator", "invite", self.dir, site).strip()
        data = self.root / f"site_{site}"
        options = ["--data", data, "--dir", self.folder(site), "--threads", 1, "--device", "cpu", *more]
        self.run("site", "join", invitation, *options, site=site)

    def start(self, site: str, **env: str) -> None:
        """Start a site's agent, or start it again."""
        args = ["site", "serve", "--dir", str(self.folder(site))]
        self.sites[site] = Process(self.root, f"agent_{site}", args, {**self.env_of(site), **env})

    def all_join(self) -> None:
        """Found the federation; every site joins and serves."""
        self.found()
        for name in self.names:
            self.join(name)
            self.start(name)

    def submit(self, plan: Path) -> str:
        """Submit a plan; its digest."""
        self.run("coordinator", "submit", self.dir, plan)
        return str(until(lambda: self.digest(plan), "the run is there"))

    def digest(self, plan: Path) -> str | None:
        """Of a submitted plan."""
        from wardround.planning.plan import load_plan

        return load_plan(plan).digest()

    def offered(self, site: str, digest: str) -> bool:
        """Whether a plan lies at a site."""
        return (self.folder(site) / "requests" / f"{digest}.json").is_file()

    def approve(self, site: str, digest: str) -> None:
        """Somebody reads, and approves."""
        until(lambda: self.offered(site, digest), f"the plan reaches {site}")
        self.run("site", "approve", digest, "--name", "Dr Test", "--dir", self.folder(site), site=site)

    # -- what became of it

    def place(self, digest: str) -> Path:
        """The run directory."""
        return self.dir / "runs" / digest[:12]

    def events(self, digest: str, name: str | None = None) -> list[dict[str, Any]]:
        """The run's log."""
        return [e for e in read_events(self.place(digest) / "events.jsonl") if name in (None, e["event"])]

    def ended(self, digest: str) -> bool:
        """Whether the run has ended well."""
        for process in (self.server, *self.sites.values()):
            if process is not None and not process.alive():
                raise AssertionError(f"{process.log.name} ended:\n{process.log.read_text()[-3000:]}")
        return bool(self.events(digest, "run_ended")) and (self.place(digest) / "report.html").is_file()

    def wait(self, digest: str, seconds: float = PATIENCE) -> None:
        """Until the run has ended."""
        try:
            until(lambda: self.ended(digest), "the run ends", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the newest events: {self.events(digest)[-3:]}") from None

    def models(self, digest: str) -> tuple[str, str]:
        """Digests of the last and the best weights' files: equal runs write equal files."""
        return files(self.place(digest))

    def audit(self, site: str | None = None) -> list[dict[str, Any]]:
        """An audit log: a site's, or the coordinator's."""
        path = (self.dir if site is None else self.folder(site)) / "audit.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def local(self, plan: Path, out: Path) -> tuple[str, str]:
        """The same plan in simulation."""
        self.run("run", plan, "--sites", self.sites_file, "--out", out, site="simulation")
        return files(out)

    def faults(self) -> Iterator[str]:
        """Tracebacks in anybody's log."""
        for log in self.root.glob("*.log"):
            text = log.read_text()
            if "Traceback" in text:
                yield f"{log.name}: {text[text.index('Traceback') - 500 :][:3000]}"


def files(place: Path) -> tuple[str, str]:
    """Digests of a run directory's models."""
    return file_digest(place / "last.safetensors"), file_digest(place / "model.safetensors")


def write_plain_plan(path: Path, plan: dict[str, Any]) -> Path:
    """A plan as YAML."""
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path
