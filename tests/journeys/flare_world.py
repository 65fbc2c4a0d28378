"""A provisioned NVFlare federation on this machine, with mutual TLS: a server and sites, started by their scripts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from network_world import free_port, until

from tiny import write_site
from wardround.core.rundir import RunDir, read_events
from wardround.runtimes.https.home import Home

ADMIN = "admin@example.org"
SERVER_MODULE, JOB_AT_SERVER = "app.server.server_train", "app.server.runner_process"
CLIENT_MODULE, JOB_AT_SITE = "app.client.client_train", "app.client.worker_process"


class FlareWorld:
    """As a context manager; at its end nothing of it runs any more."""

    def __init__(
        self, root: Path, names: tuple[str, ...] = ("A", "B", "C"), data: dict[str, Path] | None = None
    ) -> None:
        self.root, self.names = root.resolve(), names
        self.root.mkdir(parents=True, exist_ok=True)
        self.dir = self.root / "coordinator"
        self.data = data or {name: write_site(root / f"data_{name}", 6, seed=i + 1) for i, name in enumerate(names)}
        plain = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        path = f"{Path(sys.executable).parent}:{plain['PATH']}"
        self.env = {**plain, "PATH": path, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.jobs: dict[str, Path] = {}  # folders, by digest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.daemons.values():
            process.kill()
            process.wait()
        end = time.monotonic() + 20
        while (left := list(self.processes())) and time.monotonic() < end:
            for pid, _ in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    # -- setting up

    def found(self) -> None:
        """Provision; prepare each kit with the commands that its owner types."""
        self.run(
            "nvflare", "provision", "--name", "trial", "--server", "localhost", "--port", free_port(),
            "--sites", ",".join(self.names), "--admin", ADMIN, "--out", self.root / "kits",
        )  # fmt: skip
        self.kits = self.root / "kits" / "trial" / "prod_00"
        self.run("nvflare", "server", self.kits / "localhost", "--dir", self.dir, "--name", "Trial")
        for name in self.names:
            self.run(
                "nvflare", "site", self.kits / name, "--data", self.data[name], "--dir", self.home(name).root,
                "--threads", 1, "--device", "cpu", site=name,
            )  # fmt: skip

    def start(self, name: str) -> None:
        """Start a kit's own script, which starts its process again whenever it ends."""
        with (self.root / f"{name}.log").open("ab") as log:
            script = str(self.kits / name / "startup" / "sub_start.sh")
            self.daemons[name] = subprocess.Popen(
                ["bash", script], env=self.env_of(name), cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_all(self) -> None:
        for name in ("localhost", *self.names):
            self.start(name)

    def write_job(self, plan: Path) -> str:
        """Make a job; returns the plan's digest."""
        folder = self.root / f"job-{plan.stem}"
        said = self.run("nvflare", "job", plan, "--sites", ",".join(self.names), "--out", folder)
        digest = next(line.split()[1] for line in said.splitlines() if line.startswith("digest"))
        self.jobs[digest] = folder
        return digest

    def keep(self, digest: str) -> None:
        """Submit its job and look after it, in a process of its own."""
        with (self.root / "keep.log").open("ab") as log:
            command = [
                "nvflare",
                "keep",
                str(self.jobs[digest]),
                "--admin",
                str(self.kits / ADMIN),
                "--dir",
                str(self.dir),
            ]
            self.daemons["keep"] = subprocess.Popen(
                [sys.executable, "-m", "wardround", *command],
                env=self.env, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def approve(self, digest: str, *names: str) -> None:
        """As people at the sites would, once the plan has come."""
        for name in names:
            request = self.home(name).requests / f"{digest}.json"
            until(request.is_file, f"the plan comes to {name}", 180)
            until(self.home(name).settings_file.is_file, f"{name} is enrolled")
            self.run("site", "approve", digest, "--name", "Dr. A. Meyer", "--dir", self.home(name).root, site=name)

    # -- commands

    def env_of(self, site: str | None) -> dict[str, str]:
        return self.env if site is None else {**self.env, "WARDROUND_STORE": str(self.root / f"store_{site}")}

    def run(self, *args: object, site: str | None = None, code: int = 0) -> str:
        """A command that ends; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "wardround", *map(str, args)],
            env=self.env_of(site), cwd=self.root, capture_output=True, text=True, check=False,
            stdin=subprocess.DEVNULL, timeout=300,
        )  # fmt: skip
        assert done.returncode == code, f"{args}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout if code == 0 else done.stdout + done.stderr

    # -- looking

    def home(self, name: str) -> Home:
        return Home(self.root / f"home_{name}")

    def place(self, digest: str) -> RunDir:
        return RunDir(self.dir / "runs" / digest[:12])

    def events(self, digest: str, name: str | None = None) -> list[dict[str, Any]]:
        return [event for event in read_events(self.place(digest).events) if name in (None, event["event"])]

    def rounds(self, digest: str) -> int:
        """Rounds that ended so far."""
        return len(self.events(digest, "round_ended"))

    def jobs_submitted(self) -> list[str]:
        """What `keep` says of each job that it submitted."""
        return [line for line in (self.root / "keep.log").read_text().splitlines() if " submitted job " in line]

    def state(self, digest: str) -> str:
        runs = json.loads(self.run("coordinator", "status", self.dir, "--json"))["runs"]
        return next((str(run["state"]) for run in runs if run["plan"] == digest), "unknown")

    def processes(self, module: str = "", kit: str = "") -> Iterator[tuple[int, str]]:
        """Processes of this federation: those whose command names its folder."""
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                place = str(self.root / "kits")
                inside = f"{place}/trial/prod_00/{kit}" if kit else place
                if inside in command and module in command and int(folder.name) != os.getpid():
                    yield int(folder.name), command

    def kill(self, module: str, kit: str) -> tuple[int, float]:
        """``kill -9`` the process that runs a module in a kit; returns which, and when."""
        pids = [pid for pid, _ in self.processes(module, kit)]
        assert len(pids) == 1, pids
        os.kill(pids[0], signal.SIGKILL)
        return pids[0], time.time()
