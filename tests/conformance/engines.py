"""The engines that the conformance tests run over.

A new engine is one more class here with the few methods of `World`, and one more line in `ENGINES`. Everybody plays the
same three small hospitals, A, B and C, with one thread each, with the commands that people type.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from engine_contract import LONG, SITES, World, processes, working
from network_world import Network, free_port, until

from tiny import write_sites
from wardround.planning.plan import load_plan


class Commands(World):
    """`wardround run` and `wardround resume`: everything that runs the rounds in the foreground."""

    options: tuple[str, ...] = ()

    def __init__(self, root: Path, workers: int = 2, sites: Path | None = None) -> None:
        super().__init__(root)
        self.sites = sites or write_sites(root, SITES)
        document = yaml.safe_load(self.sites.read_text())
        self.sites.write_text(yaml.safe_dump({**document, "workers": workers}))
        self.env = {**os.environ, "WARDROUND_STORE": str(root / "store"), "COLUMNS": "300"}
        self._running: dict[Path, subprocess.Popen[str]] = {}

    def close(self) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.communicate()

    def _begin(self, place: Path, *args: object) -> None:
        log = place.with_suffix(".log").open("w+")
        with log:
            self._running[place] = subprocess.Popen(
                [sys.executable, "-m", "wardround", *map(str, args)],
                env=self.env,
                cwd=self.root,
                stdout=log,
                stderr=log,
                text=True,
                preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no lock is held across the fork
            )

    def _end(self, place: Path, code: int) -> str:
        found = self._running[place].wait(LONG)
        said = place.with_suffix(".log").read_text()
        assert found == code, said[-3000:]
        assert "Traceback" not in said, said[-3000:]
        return said

    def start(self, plan: Path) -> Path:
        place = self.root / f"run-{plan.stem}"
        self._begin(place, "run", plan, "--sites", self.sites, "--out", place, *self.options)
        return place

    def wait(self, place: Path) -> None:
        self._end(place, 0)
        assert (place / "report.html").is_file()

    def lose(self, place: Path) -> None:
        assert f"wardround resume {place}" in self._end(place, 4)

    def abort(self, place: Path) -> None:
        self._running[place].send_signal(signal.SIGINT)
        assert f"wardround resume {place}" in self._end(place, 130)

    def resume(self, place: Path) -> None:
        self._begin(place, "resume", place)

    def workers(self, site: str) -> list[int]:
        return [pid for process in self._running.values() if process.poll() is None for pid in working(process.pid)]


def _heed_ctrl_c() -> None:
    """Tests that were started in the background of a shell ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Local(Commands):
    """Worker processes of this machine."""

    name = "local"


class Ray(Commands):
    """A Ray cluster of two nodes, both on this machine, with room for one site each."""

    name = "ray"
    extra = "ray"

    def __init__(self, root: Path, workers: int = 2, sites: Path | None = None, cpus: int = 1) -> None:
        if find_spec("ray") is None:
            pytest.skip("needs ray: pip install 'wardround[ray]'")
        super().__init__(root, workers, sites)
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self._cpus = cpus  # of a node
        head = ("--head", "--port", self.address.rpartition(":")[2], "--include-dashboard=false")
        try:
            self.add_node(*head)
            self.add_node("--address", self.address)
        except BaseException:
            self.close()
            raise
        self.options = ("--on", f"ray://{self.address}")

    def add_node(self, *options: str) -> None:
        """``ray start``, until it says that it runs."""
        log = self.root / f"node-{len(self.nodes)}.log"
        program = "import sys; from ray.scripts.scripts import main; sys.exit(main())"
        size = (
            "--num-cpus",
            str(self._cpus),
            "--object-store-memory",
            str(100 << 20),
            "--disable-usage-stats",
            "--block",
        )
        command = [sys.executable, "-c", program, "start", *options, *size]
        env = {**self.env, "RAY_worker_niceness": "0"}  # else sites come after everything else on a busy machine
        with log.open("wb") as file:
            self.nodes.append(subprocess.Popen(command, env=env, stdout=file, stderr=file))

        def runs() -> bool:
            assert self.nodes[-1].poll() is None, log.read_text()[-3000:]
            return "Ray runtime started" in log.read_text()

        until(runs, "the node starts", LONG)

    def close(self) -> None:
        super().close()
        for node in reversed(self.nodes):
            node.terminate()
            node.wait()

    def kill_node(self) -> None:
        """Kill -9 the newest node's raylet, as if the machine were gone; `add_node` brings another one."""
        raylets = [pid for pid, command in processes(self.nodes[-1].pid) if "/raylet/raylet " in command]
        assert raylets
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)
        self.nodes.pop().wait()

    def workers(self, site: str) -> list[int]:
        return [pid for node in self.nodes for pid in working(node.pid)]


class Https(World):
    """Coordinator and sites, each a process of its own, over HTTPS."""

    name = "https"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.net = Network(root, SITES)
        try:
            self.net.all_join()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.net.__exit__(None, None, None)

    def start(self, plan: Path) -> Path:
        digest = self.net.submit(plan)
        for site in SITES:
            self.net.approve(site, digest)
        place = self.net.place(digest)
        until((place / "plan.json").is_file, "the run directory is there")
        return place

    def _digest(self, place: Path) -> str:
        return load_plan(place / "plan.json").digest()

    def wait(self, place: Path) -> None:
        self.net.wait(self._digest(place), LONG)

    def lose(self, place: Path) -> None:
        self.until_event(place, "quorum_lost")
        until(lambda: self._state(place) == "failed", "the run has failed", LONG)

    def _state(self, place: Path) -> str:
        runs = json.loads(self.net.run("coordinator", "status", self.net.dir, "--json"))["runs"]
        return str(next(run["state"] for run in runs if run["plan"] == self._digest(place)))

    def abort(self, place: Path) -> None:
        assert self.net.server is not None
        assert self.net.server.stop() == 0

    def resume(self, place: Path) -> None:
        assert self.net.server is not None
        if not self.net.server.alive():
            self.net.serve()
            return
        digest = self._digest(place)
        for site in SITES:  # a dataset that was mended is another one
            self.net.approve(site, digest)
        self.net.run("coordinator", "resume", self.net.dir, digest[:12])

    def workers(self, site: str) -> list[int]:
        return working(self.net.sites[site].pid)


ENGINES: tuple[type[World], ...] = (Local, Https, Ray)
