"""``wardround site join``, ``serve``, ``status`` and ``rekey`` as people type them."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_kit import Coordinator, coordinating, joined
from typer.testing import CliRunner

from tiny import write_site
from wardround.core.errors import InputError
from wardround.faces.cli.site import site_app
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.invitations import read_invitation
from wardround.runtimes.https.wire import PIECE

# A shell may have told its background jobs to ignore Ctrl-C: these here do not.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from wardround.core.errors import WardRoundError
from wardround.faces.cli.site import site_app
try:
    site_app()
except WardRoundError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "WARDROUND_SITE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinating(tmp_path) as found:
        yield found


def typed(*words: str, stdin: str | None = None) -> str:
    result = CliRunner().invoke(site_app, list(words), input=stdin, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def serving(home: Home) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "serve", "--dir", str(home.root)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)


def line_with(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    assert process.stderr is not None
    for line in process.stderr:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == event:
            return found
    raise AssertionError(f"{event} was never logged")


def test_join_shows_what_it_found_and_reads_the_invitation_from_a_pipe(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    write_site(tmp_path / "data", cases=5)
    text = coordinator.invitation()
    said = typed("join", "-", "--data", "data", "--threads", "3", stdin=text + "\n")
    assert "5 cases, 5 with a mask" in said
    assert "joined    Trial as A" in said
    assert text not in said
    assert read_invitation(text).token not in said
    home = Home.find(None)
    assert home.root == tmp_path / "wardround-site"
    assert home.settings().threads == 3
    assert home.settings().largest_piece == PIECE


def test_status_says_who_and_whether_it_is_served(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    said = typed("status", "--dir", str(home.root))
    assert "Trial" in said
    assert "no: `wardround site serve` does" in said
    lock = home.lock()
    found = json.loads(typed("status", "--dir", str(home.root), "--json"))
    os.close(lock)
    assert found["served"].startswith("yes")
    assert found["site"] == "A"


def test_rekey_as_a_command(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    key = home.key_file.read_bytes()
    assert "A has a new key" in typed("rekey", "--dir", str(home.root))
    assert home.key_file.read_bytes() != key
    text = coordinator.invitation("A", rekey=True)
    assert "A has a new key" in typed("rekey", text, "--dir", str(home.root))


def test_the_folder_is_found_or_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="name it with --dir"):
        typed("status")
    monkeypatch.setenv("WARDROUND_SITE", str(tmp_path / "elsewhere"))
    with pytest.raises(InputError, match="from WARDROUND_SITE"):
        typed("status")


def test_site_json_is_checked_with_every_fault(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    found = json.loads(home.settings_file.read_text())
    home.settings_file.write_text(json.dumps({**found, "threads": 0, "url": "http://plain.example", "colour": 1}))
    with pytest.raises(InputError) as caught:
        typed("status", "--dir", str(home.root))
    assert {fault.field for fault in caught.value.faults} == {"threads", "url", "colour"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_ends_at_once_and_only_one_serves(
    coordinator: Coordinator, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    home = joined(coordinator, tmp_path)
    coordinator.submit()
    process = serving(home)
    try:
        assert line_with(process, "serving")["site"] == "A"
        line_with(process, "standing_told")
        second = serving(home)
        _, said = second.communicate(timeout=60)
        assert second.returncode == 3
        assert "being served by another process" in said
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode == code
    finally:
        process.kill()
        process.wait()
    assert stat.S_IMODE(home.log.stat().st_mode) == 0o600
    assert json.loads(home.log.read_text().splitlines()[0])["event"] == "serving"


@pytest.mark.parametrize("command", ["join", "serve", "rekey", "status"])
def test_help_has_examples(command: str) -> None:
    assert "Example" in typed(command, "--help")
