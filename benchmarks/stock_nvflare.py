"""Stock NVFlare 2.9 as a contender: `nvflare provision`, the kits' own start scripts, mutual TLS, its own FedAvg.

The driver's Python must have NVFlare; server and sites are started with the same one. What is not as NVFlare ships
it, and why:

* Waits between questions are 0.1 s. By default a site waits 2 s after each task before it asks for the next one
  (``task_request_interval``), or 0.5 s where there was none yet; FedAvg looks every 0.5 s.
  The Client API's own 0.5 s between looks for the script's result cannot be set.
* Jobs and snapshots are stored in the server's kit, not in ``/tmp/nvflare``: a restarted server finds them.
* The server gives a silent site up after 60 s, not 600 s, as Ward Round's kits say too.
* A job needs two of the three sites: the loss of one does not abort it.

FedAvg itself loads and saves the model (its ``save_filename``): NVFlare's persistor for numpy knows one array only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from contender import SITES, Contender, Work, model

ADMIN, SERVER, PROJECT, ORG = "admin@example.org", "localhost", "stock", "hospital"
SCRIPT = Path(__file__).with_name("stock_nvflare_site.py")
POLL = 0.1  # seconds
HEARTBEAT = 60  # seconds of silence
PATIENCE = 120.0  # seconds to wait for a start
# A record of FedAvg's in the log; it may go on over lines that begin with no time.
SAID = re.compile(
    r"^(?P<time>\d[-\d]{9} [:\d]{8},\d{3}) - FedAvg - .*?\brun=(?P<run>[-\w]+)[^\]]*\] - "
    r"(?P<words>.*(?:\n(?!\d{4}-).*)*)",
    re.MULTILINE,
)
STARTED, AGGREGATED = re.compile(r"Round (\d+) started"), re.compile(r"Aggregated (\d+)/\d+ results")
SAVED = "Model saved to "


class StockFlare(Contender):
    """One job after the other in one federation; times come from the server's log."""

    name = "NVFlare, stock"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.resolve())
        self.kits = self.folder / PROJECT / "prod_00"
        self.job = ""
        self.work = Work(0, 0)
        self.runs = 0
        self.restarted = False  # the server, since the newest job was submitted
        self.started: list[subprocess.Popen[bytes]] = []
        plain = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        # The scripts call `python3`; `bin` is not resolved, for a virtual environment's is a link.
        self.env = {**plain, "PATH": f"{Path(sys.executable).parent}:{plain['PATH']}"}

    def prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        project = self.folder / "project.yml"
        project.write_text(json.dumps(_project(_free_port()), indent=2))  # JSON is YAML
        command = [str(Path(sys.executable).with_name("nvflare")), "provision", "-p", str(project)]
        done = subprocess.run(
            [*command, "-w", str(self.folder)],
            env=self.env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (self.kits / SERVER).is_dir():
            raise RuntimeError(f"nvflare provision: {done.stdout}\n{done.stderr}")
        local = self.kits / SERVER / "local"
        resources = json.loads((local / "resources.json.default").read_text())
        resources["servers"][0]["heart_beat_timeout"] = HEARTBEAT
        resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] = str(self.kits / SERVER / "snapshots")
        for component in resources["components"]:
            if component["id"] == "job_manager":
                component["args"]["uri_root"] = str(self._jobs)
        (local / "resources.json").write_text(json.dumps(resources, indent=2))

    def start(self) -> None:
        self.start_server()
        for name in SITES:
            self.start_site(name)
        until(self._all_here, "all sites have registered")

    def submit(self, work: Work) -> None:
        self.runs += 1
        self.work, self.job, self.restarted = work, "", False
        folder, store = self.folder / f"job{self.runs}", self.folder / f"model{self.runs}.fobs"
        _write_model(store, work.numbers)
        _write_job(folder, store, work)
        with _Session(self.kits) as session:
            self.job = session.submit_job(str(folder))

    def began(self) -> float | None:
        return self._log()[0]

    def ends(self) -> list[float]:
        return [end for end, _ in self._log()[1].values()]

    def over(self) -> str | None:
        """From the job's status in the server's store, which can be read while the server is down, too.

        A server that was killed leaves ``RUNNING`` there for ever: NVFlare 2.9 has code that would change it or begin
        the job again (``JobRunner.update_unfinished_jobs``, ``restore_running_job``), and calls it nowhere.
        """
        try:
            status = str(json.loads((self._jobs / self.job / "meta").read_bytes())["status"])
        except (OSError, ValueError, KeyError):
            return None  # not yet written, or being written
        rounds = self._log()[1]
        if not status.startswith("FINISHED"):
            stale = status == "RUNNING" and self.restarted and len(rounds) < self.work.rounds
            if stale and self.server() and not _of(self.kits / SERVER, self.job):
                return f"lost after {len(rounds)} rounds: nothing runs it, though its status is RUNNING"
            return None
        short = sum(sites < len(SITES) for _, sites in rounds.values())
        if not status.endswith(":COMPLETED") or len(rounds) < self.work.rounds:
            return f"{status.lower()} after {len(rounds)} rounds"
        return f"ended, {short} rounds without all sites" if short else "ended"

    def server(self) -> list[int]:
        return _of(self.kits / SERVER)

    def site(self, name: str) -> list[int]:
        return _of(self.kits / name)

    def start_server(self) -> None:
        self.restarted = True
        self._start(SERVER)

    def start_site(self, name: str) -> None:
        self._start(name)

    def close(self) -> None:
        """End all processes. Those of jobs are in sessions of their own, so that there is no one group to kill."""
        for process in self.started:
            if process.poll() is None:  # else its number may be another's by now
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.started.clear()

        def gone() -> bool:
            left = [pid for name in (SERVER, *SITES) for pid in _of(self.kits / name)]
            self.kill(left)
            return not left

        until(gone, "all processes have ended")

    # -- inside

    @property
    def _jobs(self) -> Path:
        return self.kits / SERVER / "jobs"

    def _start(self, name: str) -> None:
        """By the kit's own script; ``--once``: without its loop that starts the process again, for the driver does."""
        for process in self.started:
            process.poll()  # so that what was killed is no zombie
        script = str(self.kits / name / "startup" / "sub_start.sh")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started.append(
                subprocess.Popen(
                    ["bash", script, "--once"], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def _all_here(self) -> bool:
        from nvflare.fuel.flare_api.api_spec import NoConnection

        with suppress(NoConnection), _Session(self.kits) as session:
            return {client.name for client in session.get_connected_client_list()} >= set(SITES)
        return False

    def _log(self) -> tuple[float | None, dict[int, tuple[float, int]]]:
        """Of the newest run: when it began; for each round that ended, when it did, and how many sites took part."""
        began, ended, now, sites = None, dict[int, tuple[float, int]](), 0, 0
        path = self.folder / f"{SERVER}.log"
        text = path.read_text(errors="replace") if self.job and path.is_file() else ""
        for said in SAID.finditer(text):
            if said["run"] != self.job:
                continue
            when, words = datetime.strptime(said["time"], "%Y-%m-%d %H:%M:%S,%f").timestamp(), said["words"]
            if found := STARTED.search(words):
                began, now, sites = began or when, int(found[1]), 0
            elif found := AGGREGATED.search(words):
                sites = int(found[1])
            elif SAVED in words:
                ended.setdefault(now, (when, sites))
        return began, ended


class _Session:
    """The administrator's, over mutual TLS."""

    def __init__(self, kits: Path) -> None:
        self.kits = kits

    def __enter__(self) -> Any:
        from nvflare.fuel.flare_api.flare_api import new_secure_session

        with redirect_stdout(sys.stderr):  # it prints that it connects
            self.session = new_secure_session(ADMIN, str(self.kits / ADMIN), timeout=60.0)
        return self.session

    def __exit__(self, *_: object) -> None:
        self.session.close()


def until(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(0.2)


def _of(kit: Path, job: str = "") -> list[int]:
    """Processes whose command names a kit's folder: also those of jobs whose parent is dead. With a job: its only."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if int(folder.name) != os.getpid() and _names(words, kit, job):
                found.append(int(folder.name))
    return found


def _names(words: list[str], kit: Path, job: str) -> bool:
    return any(f"{word}/".startswith(f"{kit}/") for word in words) and any(job in word for word in words)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _project(port: int) -> dict[str, Any]:
    """As `nvflare provision --generate` writes it, for these participants."""
    lighter = "nvflare.lighter.impl"
    return {
        "api_version": 3,
        "name": PROJECT,
        "description": "stock",
        "participants": [
            {"name": SERVER, "type": "server", "org": ORG, "fed_learn_port": port},
            *({"name": site, "type": "client", "org": ORG} for site in SITES),
            {"name": ADMIN, "type": "admin", "org": ORG, "role": "project_admin"},
        ],
        "builders": [
            {"path": f"{lighter}.workspace.WorkspaceBuilder", "args": {"template_file": "master_template.yml"}},
            {"path": f"{lighter}.static_file.StaticFileBuilder", "args": {"config_folder": "config", "scheme": "grpc"}},
            {"path": f"{lighter}.cert.CertBuilder", "args": {}},
            {"path": f"{lighter}.signature.SignatureBuilder", "args": {}},
        ],
    }


def _write_model(path: Path, numbers: int) -> None:
    """As FedAvg itself saves one."""
    from nvflare.app_common.abstract.fl_model import FLModel
    from nvflare.app_common.decomposers import common_decomposers
    from nvflare.fuel.utils import fobs

    common_decomposers.register()
    fobs.dumpf(FLModel(params=model(numbers)), str(path))


def _write_job(folder: Path, store: Path, work: Work) -> None:
    fedavg = {
        "num_clients": len(SITES), "num_rounds": work.rounds, "persistor_id": "", "save_filename": str(store),
        "task_check_period": POLL,
    }  # fmt: skip
    script = {
        "execution_mode": "in_process", "task_script_path": SCRIPT.name, "task_script_args": str(work.pause),
        "params_exchange_format": "numpy",
    }  # fmt: skip
    common = "nvflare.app_common"
    executor = {"path": f"{common}.executors.client_api_executor.ClientAPIExecutor", "args": script}
    files = {
        "meta.json": {
            "name": folder.name,
            "resource_spec": {},
            "min_clients": 2,
            "deploy_map": {"app_server": ["server"], "app_site": list(SITES)},
        },
        "app_server/config/config_fed_server.json": {
            "format_version": 2,
            "server": {"task_request_interval": POLL},
            "components": [],
            "workflows": [{"id": "controller", "path": f"{common}.workflows.fedavg.FedAvg", "args": fedavg}],
        },
        "app_site/config/config_fed_client.json": {
            "format_version": 2,
            "default_task_fetch_interval": POLL,
            "components": [],
            "executors": [{"tasks": ["*"], "executor": executor}],
        },
    }
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value, indent=2))
    custom = folder / "app_site" / "custom"
    custom.mkdir()
    shutil.copyfile(SCRIPT, custom / SCRIPT.name)
