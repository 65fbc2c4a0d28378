"""What the conformance tests ask of an engine, and the engines themselves.

A new engine is one more class here with these few methods, and one more line in `ENGINES`. Everybody plays the same
three small hospitals, A, B and C, with one thread each, with the commands that people type.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import pytest
import yaml

from tiny import write_sites
from wardround.core.rundir import read_events
from wardround.core.weights import read_tensors, weights_digest
from wardround.planning.plan import load_plan

sys.path.insert(0, str(Path(__file__).parents[1] / "journeys"))
from network_world import Network, free_port, until

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

    def __init__(self, root: Path, workers: int = 2, sites: Path | None = None) -> None:
        if find_spec("ray") is None:
            pytest.skip("needs ray: pip install 'wardround[ray]'")
        super().__init__(root, workers, sites)
        self.address = f"127.0.0.1:{free_port()}"
        self.nodes: list[subprocess.Popen[bytes]] = []
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
        size = ("--num-cpus", "1", "--object-store-memory", str(100 << 20), "--disable-usage-stats", "--block")
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
        self.net.all_join()

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
