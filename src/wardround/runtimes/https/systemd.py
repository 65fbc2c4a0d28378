"""A systemd user unit for `wardround site serve`: it starts with the machine and comes back whatever ends it.

User units need no administrator. Two things are beyond them: to run while nobody is logged in, the user
must linger (`loginctl enable-linger`, which most machines allow people for themselves), and options that
need mount or user namespaces are left out, because many hospitals' kernels forbid those to users and the
unit would then not start at all.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.core.errors import Fault, InputError, StorageError
from wardround.site.private_files import write_private

NAME = "wardround-site"
ENVIRONMENT_FILE = "service.env"
# What `serve` heeds: the proxy, and where the store and the site's own certificate authorities are.
PASSED_ON = (
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSL_CERT_FILE",
    "WARDROUND_STORE",
    "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}")
_BARE = re.compile(r"[A-Za-z0-9_./:@+,=-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

Runner = Callable[[Sequence[str]], tuple[int, str]]


@dataclass(frozen=True)
class Service:
    """Which site is served, by which installation."""

    python: Path  # the interpreter of this installation, absolute, not resolved: a link in it tells the environment
    folder: Path  # the site folder, absolute
    name: str = NAME


@dataclass(frozen=True)
class Step:
    """One thing that was done or tried, and what a person must do where it did not work."""

    done: bool
    what: str
    remedy: str = ""


def unit_text(service: Service) -> str:
    """The unit file.

    Raises:
        InputError: a path holds a line break or another control character.
    """
    return f"""\
# Written by `wardround site service --install`; remove it with `wardround site service --remove`.
[Unit]
Description=Ward Round: takes part in a federation, sends no image
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={_quoted(str(service.python))} -m wardround site serve --dir {_quoted(str(service.folder))}
EnvironmentFile=-{_path(service.folder / ENVIRONMENT_FILE)}
Restart=always
RestartSec=15
TimeoutStopSec=60
KillMode=mixed
UMask=0077
LimitCORE=0
OOMPolicy=continue
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=default.target
"""


def environment_text(environment: Mapping[str, str]) -> str:
    """What of the environment the service gets, as an EnvironmentFile: it may hold a proxy's password.

    Raises:
        InputError: a value holds a line break or another control character.
    """
    faults = [
        Fault(name, "holds a control character") for name in PASSED_ON if _CONTROL.search(environment.get(name, ""))
    ]
    if faults:
        raise InputError("the environment cannot be passed on to the service", faults)
    return "".join(
        f'{name}="{_escaped(environment[name], "$`")}"\n' for name in PASSED_ON if environment.get(name)
    )  # fmt: skip


def unit_path(name: str, environment: Mapping[str, str]) -> Path:
    """Where systemd looks for a user's own units.

    Raises:
        InputError: not a name for a unit.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"'{name}' is no name for a service: letters, digits, - and _")
    config = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME") or Path.home()) / ".config")
    return Path(config) / "systemd" / "user" / f"{name}.service"


def install(service: Service, environment: Mapping[str, str], run: Runner) -> list[Step]:
    """Write the unit, start it, and let it run while nobody is logged in. Running it again is harmless.

    Raises:
        InputError: a unit of this name serves another site.
        StorageError: a file cannot be written.
    """
    path, text = unit_path(service.name, environment), unit_text(service)
    if path.exists() and f"--dir {_quoted(str(service.folder))}\n" not in _read(path):
        raise InputError(
            f"{path} serves another site: choose another --name, or remove it with "
            f"`wardround site service --remove --name {service.name}`"
        )
    write_private(service.folder / ENVIRONMENT_FILE, environment_text(environment).encode())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {path.parent}: {error.strerror or error}") from error
    write_private(path, text.encode())
    return [Step(True, f"wrote {path}"), *_start(service, run), _linger(environment, run)]


def remove(service: Service, environment: Mapping[str, str], run: Runner) -> list[Step]:
    """Stop the service and remove its unit; the site folder stays as it is."""
    path = unit_path(service.name, environment)
    if not path.exists():
        return [Step(True, f"there is no {path}")]
    code, said = run(["systemctl", "--user", "disable", "--now", path.name])
    stopped = Step(
        code == 0,
        f"stopped {path.name}" if code == 0 else f"could not stop {path.name}: {said}",
        "" if code == 0 else "end `wardround site serve` by hand",
    )
    try:
        path.unlink()
        (service.folder / ENVIRONMENT_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error
    run(["systemctl", "--user", "daemon-reload"])
    return [stopped, Step(True, f"removed {path}")]


def run_command(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and what was said; 127 where there is no such program."""
    try:
        ended = subprocess.run(  # noqa: S603 - our own words, no shell
            command, capture_output=True, text=True, timeout=60, check=False
        )
    except FileNotFoundError:
        return 127, f"{command[0]} is not installed"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]} gave no answer within a minute"
    return ended.returncode, (ended.stderr or ended.stdout).strip()


def _start(service: Service, run: Runner) -> list[Step]:
    unit = f"{service.name}.service"
    for words in (["daemon-reload"], ["enable", unit], ["restart", unit]):
        command = ["systemctl", "--user", *words]
        code, said = run(command)
        if code != 0:
            return [
                Step(
                    False,
                    f"`{' '.join(command)}` failed: {said or f'exit code {code}'}",
                    "log in as this user directly (ssh or at the screen, not with su or sudo), then install again. A "
                    "machine without systemd: let IT's own supervisor run the ExecStart line, or keep "
                    "`wardround site serve` open in tmux",
                )
            ]
    return [Step(True, f"{unit} is running and will start with the machine; what it says: journalctl --user -u {unit}")]


def _linger(environment: Mapping[str, str], run: Runner) -> Step:
    user = environment.get("USER") or environment.get("LOGNAME") or "USER"
    code, said = run(["loginctl", "enable-linger"])
    if code == 0:
        return Step(True, "it runs while nobody is logged in (lingering is on)")
    return Step(
        False,
        f"lingering could not be switched on: {said or f'exit code {code}'}",
        f"without it the service ends when you log out: ask IT to run `loginctl enable-linger {user}` as root, once",
    )


def _quoted(text: str) -> str:
    """One word of a command line in a unit."""
    _plain(text)
    safe = text.replace("%", "%%").replace("$", "$$")
    return safe if _BARE.fullmatch(text) else f'"{_escaped(safe, "")}"'


def _path(path: Path) -> str:
    """A path where a unit expects one alone: there are no quotes, but specifiers are replaced."""
    _plain(str(path))
    return str(path).replace("%", "%%")


def _escaped(text: str, more: str) -> str:
    return "".join(f"\\{letter}" if letter in '"\\' + more else letter for letter in text)


def _plain(text: str) -> None:
    if _CONTROL.search(text):
        raise InputError("a service cannot have a line break or another control character in its paths")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
