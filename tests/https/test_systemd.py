"""The user unit: what it runs, what it may hold, and what a person is told where systemd refuses."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import InputError
from wardround.runtimes.https.systemd import (
    ENVIRONMENT_FILE,
    Service,
    Step,
    environment_text,
    install,
    remove,
    run_command,
    unit_path,
    unit_text,
)


class Machine:
    """Systemd as far as it is talked to; ``fails`` names words of commands that end badly."""

    def __init__(self, *fails: str) -> None:
        self.fails, self.asked = fails, list[str]()

    def __call__(self, command: Sequence[str]) -> tuple[int, str]:
        line = " ".join(command)
        self.asked.append(line)
        return (1, "Failed to connect to bus") if any(word in line for word in self.fails) else (0, "")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    (tmp_path / "site").mkdir()
    return Service(Path(sys.executable), tmp_path / "site")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    proxy = {"HTTPS_PROXY": 'http://ward:se$cr"et\\@proxy.invalid:3128', "UNRELATED": "x"}
    return {"XDG_CONFIG_HOME": str(tmp_path / "config"), "USER": "ward", **proxy}


def test_installing_writes_starts_and_lingers(service: Service, environment: dict[str, str]) -> None:
    machine = Machine()
    steps = install(service, environment, machine)
    assert all(step.done for step in steps)
    assert machine.asked == [
        "systemctl --user daemon-reload",
        "systemctl --user enable wardround-site.service",
        "systemctl --user restart wardround-site.service",
        "loginctl enable-linger",
    ]
    path = unit_path("wardround-site", environment)
    text = path.read_text()
    assert f"ExecStart={sys.executable} -m wardround site serve --dir {service.folder}\n" in text
    for line in ("Restart=always", "NoNewPrivileges=yes", "UMask=0077", "LimitCORE=0", "WantedBy=default.target"):
        assert line in text.splitlines()
    assert install(service, environment, Machine())  # again: the same


def test_a_proxy_with_its_password_is_passed_on_privately(service: Service, environment: dict[str, str]) -> None:
    install(service, environment, Machine())
    file = service.folder / ENVIRONMENT_FILE
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shell = subprocess.run(  # the same quoting as a shell's
        ["sh", "-c", f'. "{file}"; printf %s "$HTTPS_PROXY"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout == environment["HTTPS_PROXY"]
    assert "secr" not in unit_path("wardround-site", environment).read_text()
    assert "UNRELATED" not in file.read_text()
    with pytest.raises(InputError, match="control character"):
        environment_text({"HTTPS_PROXY": "http://x\nNO_PROXY=*"})


def test_what_systemd_refuses_is_told_with_its_remedy(service: Service, environment: dict[str, str]) -> None:
    failed = [step for step in install(service, environment, Machine("--user")) if not step.done]
    assert "Failed to connect to bus" in failed[0].what
    assert "ssh" in failed[0].remedy
    failed = [step for step in install(service, environment, Machine("linger")) if not step.done]
    assert [step.remedy.rpartition("ask IT to run ")[2] for step in failed] == [
        "`loginctl enable-linger ward` as root, once"
    ]


def test_removing_leaves_the_site_folder(service: Service, environment: dict[str, str]) -> None:
    assert remove(service, environment, Machine())[0].done  # nothing there
    install(service, environment, Machine())
    machine = Machine()
    assert all(step.done for step in remove(service, environment, machine))
    assert machine.asked[0] == "systemctl --user disable --now wardround-site.service"
    assert not unit_path("wardround-site", environment).exists()
    assert list(service.folder.iterdir()) == []
    install(service, environment, Machine())
    steps = remove(service, environment, Machine("disable"))
    assert [step.done for step in steps] == [False, True]


def test_another_sites_unit_is_not_overwritten(service: Service, environment: dict[str, str], tmp_path: Path) -> None:
    install(service, environment, Machine())
    (tmp_path / "site2").mkdir()
    second = Service(service.python, tmp_path / "site2")
    with pytest.raises(InputError, match="another --name"):
        install(second, environment, Machine())
    assert install(Service(second.python, second.folder, "second"), environment, Machine())
    for name in ("", "../x", "a b", "-x"):
        with pytest.raises(InputError, match="no name for a service"):
            unit_path(name, environment)


def test_a_missing_program_is_an_answer() -> None:
    assert run_command(["wardround-no-such-program"]) == (127, "wardround-no-such-program is not installed")
    assert run_command(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, "err")
    assert Step(True, "x").remedy == ""


@given(st.text(min_size=1, max_size=40))
def test_any_folder_gives_one_line_or_a_refusal(name: str) -> None:
    plain = unit_text(Service(Path("/usr/bin/python3"), Path("/x")))
    try:
        text = unit_text(Service(Path("/usr/bin/python3"), Path("/x") / name))
    except InputError:
        assert any(ord(letter) < 32 or ord(letter) == 127 for letter in name)
        return
    assert text.count("\n") == plain.count("\n")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("name", ["site", "a ward %h $HOME \"q\" 'r' \\"])
def test_systemd_accepts_the_unit(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / ENVIRONMENT_FILE).write_text("")
    unit = tmp_path / "wardround-site.service"
    unit.write_text(unit_text(Service(Path(sys.executable), folder)))
    ended = subprocess.run(
        ["systemd-analyze", "verify", "--user", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    if "Failed to initialize manager" in ended.stderr:
        pytest.skip(f"systemd-analyze cannot work here: {ended.stderr}")
    assert (ended.returncode, ended.stderr.strip()) == (0, "")
