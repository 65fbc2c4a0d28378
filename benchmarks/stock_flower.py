"""Stock Flower as a contender: a SuperLink, three SuperNodes and its FedAvg, as Flower's documentation sets them up.

``BENCH_FLOWER_PYTHON`` names the Python of an environment with ``flwr`` (tried with 1.41). TLS under an authority of
its own, SuperNodes that prove themselves with keys, state of the SuperLink in its database. Nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from contender import SITES, Contender, Work, descendants
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "https"))

from proxies import MadeUpAuthority  # noqa: E402

HOST = "127.0.0.1"
START_LIMIT = 120.0  # seconds for server and sites to be there
ASK_LIMIT = 60.0  # seconds for one command of Flower's
ASK_EVERY = 5.0  # seconds between questions for a run's state; each starts a Python, so not more often
QUIET = 15.0  # seconds without news of a run (beyond its pause) after which its state is asked for

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "bench"
version = "1.0.0"
description = "FedAvg of sites that train nothing"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "stock_flower_app:server"
clientapp = "stock_flower_app:client"

[tool.flwr.app.config]
numbers = 0
rounds = 0
pause = 0.0
timeout = 0.0
events = ""
"""


class Flower(Contender):
    """Flower as installed; what its own processes keep is under ``folder``, a folder for each of them."""

    name = "Flower, stock"
    round_timeout = 3600.0  # seconds that FedAvg waits for replies; Flower's own default
    # The SuperLink's state in its SQLite database (--database); False: in its memory, which is Flower's default. With
    # models of 100 MB a busy disk ends runs of the former by "database is locked" (Flower waits 5 s for it).
    persistent = True

    def __init__(self, folder: Path, python: str | None = None) -> None:
        super().__init__(folder.resolve())
        interpreter = Path(
            python or os.environ["BENCH_FLOWER_PYTHON"]
        )  # not resolved: it may be a link out of its venv
        self._bin = interpreter.absolute().parent
        self._tls = self.folder / "tls"
        self._app = self.folder / "app"
        self._ports: dict[str, int] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._run: str | None = None
        self._runs = 0
        self._work = Work(0, 0)
        self._asked = 0.0
        self._outcome: str | None = None

    # What is done once

    def prepare(self) -> None:
        for folder in (self._tls, self._app, self.folder / "logs", *map(self._home, ("server", "client", *SITES))):
            folder.mkdir(parents=True, exist_ok=True)
        authority = MadeUpAuthority("Benchmark CA")
        (self._tls / "ca.pem").write_text(authority.pem)
        (self._tls / "server.pem").write_bytes(authority.issue(HOST))
        for name in SITES:  # as `ssh-keygen -t ecdsa -b 384` of Flower's how-to does
            key = ec.generate_private_key(ec.SECP384R1())
            secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            (self._tls / name).write_bytes(secret)
            (self._tls / name).chmod(0o600)
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
            (self._tls / f"{name}.pub").write_bytes(public)
        self._ports = dict(zip(("server", *SITES), _free_ports(1 + len(SITES)), strict=True))
        (self._app / "pyproject.toml").write_text(PROJECT)
        for file in ("stock_flower_app.py", "contender.py"):
            shutil.copyfile(HERE / file, self._app / file)
        connection = f'address = "{self._address}"\nroot-certificates = "{self._tls / "ca.pem"}"\n'
        (self._home("client") / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\n{connection}'
        )

    @property
    def _address(self) -> str:
        return f"{HOST}:{self._ports['server']}"

    def _home(self, who: str) -> Path:
        return self.folder / "homes" / who

    def _environment(self, who: str) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith(("FLWR_", "PYTHON"))},
            "PATH": f"{self._bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}",  # Flower starts its parts by name
            "FLWR_HOME": str(self._home(who)),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            # How often a new task is looked for: 1 s by default, at server and site alike. The other waits of a round
            # (3 s between questions of a SuperNode for work, 3 s between a ServerApp's for replies, 0.5 s between a
            # SuperNode's for its app's reply) are fixed in Flower's code.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        }

    # Processes

    def start(self) -> None:
        self.start_server()
        _until(self._listening, START_LIMIT, f"the SuperLink does not answer (see {self.folder / 'logs'})")
        known = self.folder / "registered"
        if not known.exists():  # once; the SuperLink keeps them in its database
            for name in SITES:
                self._flwr("supernode", "register", str(self._tls / f"{name}.pub"))
            if self.persistent:
                known.touch()
        for name in SITES:
            self.start_site(name)
        _until(self._all_online, START_LIMIT, f"no three SuperNodes online (see {self.folder / 'logs'})", every=1.0)

    def start_server(self) -> None:
        server_pem = str(self._tls / "server.pem")
        command = ["flower-superlink", "--host", HOST, "--port", str(self._ports["server"])]
        command += ["--ssl-ca-certfile", str(self._tls / "ca.pem")]
        command += ["--ssl-certfile", server_pem, "--ssl-keyfile", server_pem]
        command += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        if self.persistent:
            command += ["--database", str(self._home("server") / "superlink.db")]
        self._launch("server", command)

    def start_site(self, name: str) -> None:
        command = ["flower-supernode", "--superlink", self._address, "--root-certificates", str(self._tls / "ca.pem")]
        command += ["--auth-supernode-private-key", str(self._tls / name)]
        command += ["--host", HOST, "--port", str(self._ports[name])]  # where its own ClientApp finds it
        # A SuperNode that comes back ends at once as long as the SuperLink still believes the old one to be online (up
        # to a minute): its service (Restart=always, RestartSec=2) would start it again and again.
        self._launch(name, ["sh", "-c", 'while :; do "$@"; sleep 2; done', "service", *command])

    def _launch(self, who: str, command: list[str]) -> None:
        if who in self._running:
            self._running[who].poll()  # reaps what was killed
        with (self.folder / "logs" / f"{who}.log").open("ab") as log:
            self._running[who] = subprocess.Popen(
                command,
                cwd=self._home(who),
                env=self._environment(who),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def server(self) -> list[int]:
        return self._processes("server")

    def site(self, name: str) -> list[int]:
        return self._processes(name)

    def _processes(self, who: str) -> list[int]:
        """Its main process and what that started, also where the main process is gone and they are on their own."""
        found = dict.fromkeys(_of_port(self._ports[who])) if who in self._ports else {}
        main = self._running.get(who)
        if main is not None and main.poll() is None:
            found = {**dict.fromkeys(descendants(main.pid)), **found}
        return list(found)

    def close(self) -> None:
        # The SuperLink's SuperExec is in a session of its own, so that the group alone would not do.
        for _ in range(50):
            left = [pid for who in self._running for pid in self._processes(who)]
            for main in self._running.values():
                if main.poll() is None:
                    with suppress(ProcessLookupError):
                        os.killpg(main.pid, signal.SIGKILL)
            self.kill(left)
            if not left:
                break
            time.sleep(0.1)
        for main in self._running.values():
            main.wait()
        self._running = {}

    # Runs

    def submit(self, work: Work) -> None:
        self._runs += 1
        self._work, self._outcome, self._asked = work, None, time.monotonic()
        settings = self._home("client") / f"run-{self._runs}.toml"
        settings.write_text(
            f"numbers = {work.numbers}\nrounds = {work.rounds}\npause = {float(work.pause)}\n"
            f"timeout = {float(self.round_timeout)}\n"
            f"events = {json.dumps(str(self._events))}\n"
        )
        self._run = str(self._flwr("run", str(self._app), "--run-config", str(settings))["run-id"])

    @property
    def _events(self) -> Path:
        return self.folder / f"rounds-{self._runs}.txt"

    def _noted(self, what: str) -> dict[int, float]:
        """When (`time.time`) rounds began or ended, by round."""
        lines = self._events.read_text().splitlines(keepends=True) if self._events.exists() else []
        words = [line.split() for line in lines if line.endswith("\n")]
        return {int(number): float(when) for kind, number, when in reversed(words) if kind == what}

    def began(self) -> float | None:
        return self._noted("begin").get(1)

    def ends(self) -> list[float]:
        return sorted(self._noted("end").values())

    def over(self) -> str | None:
        """Asks Flower, but no more than is needed: where all rounds have ended, and where there is no news for long."""
        if self._outcome is None and self._worth_asking():
            self._asked = time.monotonic()
            # Nothing is known where the SuperLink does not answer.
            with suppress(subprocess.SubprocessError, RuntimeError):
                self._outcome = self._state()
        return self._outcome

    def _worth_asking(self) -> bool:
        since = time.monotonic() - self._asked
        if len(self.ends()) == self._work.rounds:
            return since > 1.0
        news = self._events.stat().st_mtime if self._events.exists() else 0.0
        return since > ASK_EVERY and time.time() - news > self._work.pause + QUIET

    def _state(self) -> str | None:
        """How the newest run stands, of `flwr list`."""
        run = self.described()
        status = str(run["status"])
        if not status.startswith("finished"):
            return None
        return "ended" if status == "finished:completed" else f"{status} {run['status-details']}".strip()

    def described(self) -> dict[str, Any]:
        """What `flwr list` says of the newest run: state, bytes through the SuperLink, seconds of its apps."""
        found: dict[str, Any] = self._flwr("list", "--run-id", str(self._run))["runs"][0]
        return found

    # Flower's own command

    def _flwr(self, *words: str) -> dict[str, Any]:
        """Run ``flwr``; what it says as JSON."""
        done = subprocess.run(
            [str(self._bin / "flwr"), *words, "--format", "json"],
            cwd=self._home("client"),
            env=self._environment("client"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_LIMIT,
            check=False,
        )
        answer: dict[str, Any] = {}
        with suppress(ValueError):
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        if done.returncode or not answer.get("success"):
            raise RuntimeError(f"flwr {' '.join(words)}: {(done.stdout + done.stderr).strip()[-2000:]}")
        return answer

    def _listening(self) -> bool:
        context = ssl.create_default_context(cafile=str(self._tls / "ca.pem"))
        address = (HOST, self._ports["server"])
        with suppress(OSError), context.wrap_socket(socket.create_connection(address, 5), server_hostname=HOST):
            return True
        self._alive()
        return False

    def _all_online(self) -> bool:
        self._alive()
        nodes = self._flwr("supernode", "list")["nodes"]
        return [node["status"] for node in nodes] == ["online"] * len(SITES)

    def _alive(self) -> None:
        for who, main in self._running.items():
            if main.poll() is not None:
                text = (self.folder / "logs" / f"{who}.log").read_text(errors="replace")
                raise RuntimeError(f"Flower's {who} ended: {text[-2000:]}")


def _free_ports(count: int) -> list[int]:
    """Ports that nobody uses now."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _of_port(port: int) -> list[int]:
    """Processes of Flower's that serve this port, or were started to work for what serves it."""
    serves, works = f"\0--port\0{port}\0".encode(), f"\0--runtime-api-address\0{HOST}:{port}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if works in command or (serves in command and b"flower-super" in command):
                found.append(int(folder.name))
    return found


def _until(true: Callable[[], bool], limit: float, otherwise: str, every: float = 0.1) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: it was not within ``limit`` seconds.
    """
    deadline = time.monotonic() + limit
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {limit:g} s")
        time.sleep(every)
