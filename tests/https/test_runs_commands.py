"""``wardround coordinator``: on the coordinator's machine, from elsewhere, and as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs_kit import World
from site_kit import QUICK, Coordinator, coordinating, free_port
from typer.testing import CliRunner, Result

from tiny import make_plan, write_plan
from wardround.core.audit import read_entries
from wardround.core.errors import InputError, WardRoundError
from wardround.core.rundir import RunDir
from wardround.faces.cli.coordinator import coordinator_app
from wardround.faces.cli.runs import check_own
from wardround.faces.report.page import write_report
from wardround.runtimes.https.desk import _user, join_as_person, open_desk
from wardround.runtimes.https.invitations import read_invitation
from wardround.runtimes.https.office import open_office
from wardround.runtimes.https.people_wire import AskStatus, Status
from wardround.runtimes.https.store import Store

SERVE = "wardround coordinator serve"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(coordinator_app, [str(argument) for argument in arguments])


def said(*arguments: object) -> str:
    result = call(*arguments)
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.stdout


def fault(*arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, WardRoundError), result.output
    return str(result.exception)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    said("init", tmp_path / "fed", "--url", "https://ward.example.org", "--name", "MS lesions")
    return tmp_path / "fed"


@pytest.mark.parametrize(
    "command",
    ["init", "invite", "join", "serve", "submit", "status", "abort", "resume", "revoke", "backup", "restore", "log"],
)
def test_every_command_has_an_example(command: str) -> None:
    assert f"wardround coordinator {command}" in said(command, "--help").replace("\n", " ")


def test_a_federation_is_begun_in_a_folder_of_its_own(folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "is not empty" in fault("init", folder, "--url", "https://ward.example.org")
    assert "--url" in fault("init", folder.parent / "other", "--url", "http://ward.example.org")
    assert "nobody has joined" in said("status", folder)


def test_an_invitation_is_the_only_thing_on_standard_output(folder: Path) -> None:
    result = call("invite", folder, "berlin", "--days", 2)
    assert read_invitation(result.stdout).name == "berlin"
    assert len(result.stdout.splitlines()) == 1
    assert "wardround site join INVITATION" in result.stderr
    person = call("invite", folder, "anna", "--role", "researcher")
    assert "wardround coordinator join INVITATION" in person.stderr
    (entry, _) = [entry for entry in read_entries(folder / "audit.jsonl") if entry["event"] == "invited"]
    assert (entry["name"], entry["by"]) == ("berlin", _user())
    assert call("invite", folder, "paris", "--days", 0.04).exit_code == 2
    assert "cannot be a name" in fault("invite", folder, "../x")
    assert "no site porto to give another key" in fault("invite", folder, "porto", "--rekey")


def test_a_folder_of_somebody_else_is_refused_with_what_to_do(tmp_path: Path, folder: Path) -> None:
    assert "wardround coordinator init" in fault("status", tmp_path)
    (tmp_path / "site.json").write_text("{}")
    assert "wardround site" in fault("status", tmp_path)


def test_a_plan_from_submission_to_abort(tmp_path: Path) -> None:
    world = World(tmp_path)
    folder, plan = world.office.folder, write_plan(tmp_path / "plan.yaml")
    words = said("submit", folder, plan, "--sites", "C,A")
    digest = make_plan().digest()
    assert digest in words
    for expected in (
        "waits for approval at C, A",
        "2 of 2 have approved",
        "What leaves a site",
        "the trained weights (",
    ):
        assert expected in words
    assert "another seed" in fault("submit", folder, plan)
    status = json.loads(said("status", folder, "--json"))
    assert [(run["plan"], run["state"]) for run in status["runs"]] == [(digest, "waiting")]
    assert "0 of 2 sites have approved, 2 are needed" in said("status", folder, digest[:6])
    assert "no run" in fault("abort", folder, "0" * 12, "--reason", "x")
    assert "give 6 or more digits" in fault("abort", folder, "xyz", "--reason", "x")
    assert "is aborted" in said("abort", folder, digest[:8], "--reason", "wrong labels")
    assert "wrong labels" in said("status", folder)
    assert "did not fail" in fault("resume", folder, digest[:8])


def test_faults_of_a_plan_are_told_with_the_file_and_its_lines(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("wardround: 1\nnetwork: {name: nonet}\nseed: -1\n")
    told = fault("submit", folder, tmp_path / "plan.yaml")
    assert "plan.yaml is not valid" in told
    assert "line 2: network.name" in told
    assert "line 3: seed" in told
    assert "names no site" in fault("submit", folder, write_plan(tmp_path / "good.yaml"), "--sites", ",")


def test_what_a_stranger_wrote_is_no_command_to_the_terminal(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit(approved="A")
    world.stand("B", "refused", "[bold]\x1b[2Jno[/bold]")
    shown = said("status", world.office.folder)
    assert "[bold]?[2Jno[/bold]" in shown
    assert "\x1b" not in shown


def test_backup_and_restore(folder: Path, tmp_path: Path) -> None:
    assert "readable only by you" in said("backup", folder, tmp_path / "b.tar")
    assert "MS lesions" in said("restore", tmp_path / "b.tar", tmp_path / "again")
    assert "never overwrites" in fault("backup", folder, tmp_path / "b.tar")
    assert "nobody has joined" in said("status", tmp_path / "again")


def test_a_revoked_site_is_named_with_its_models(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit()
    world.conduct()
    told = said("revoke", world.office.folder, "B", "--reason", "laptop stolen")
    assert f"the model of run {world.digest[:12]} contains its contributions" in told
    shown = said("status", world.office.folder)
    assert "contributions of B, revoked since" in shown
    assert "revoked: laptop stolen" in shown


def test_commands_on_run_directories_of_a_network(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.submit()
    page = write_report(world.place)
    assert "No round has ended yet" in page.read_text()
    world.conduct()
    page = write_report(world.place)
    assert "Complete: the limit of 2 rounds was reached" in page.read_text()
    assert "network" in page.read_text()
    with pytest.raises(InputError, match=f"wardround coordinator resume {world.office.folder}"):
        check_own(world.place)
    (world.office.folder / "federation.json").rename(tmp_path / "away")
    with pytest.raises(InputError, match="only its coordinator"):
        check_own(world.place)
    check_own(RunDir(tmp_path))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    with coordinating(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_people_work_from_elsewhere_by_their_roles(coordinator: Coordinator, tmp_path: Path) -> None:
    for name, role in (("vera", "viewer"), ("anna", "researcher"), ("otto", "owner")):
        line = coordinator.invitation(name, role=role)
        assert f"as {role} {name}" in said("join", line, "--dir", tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700
        assert (tmp_path / name / "key.pem").stat().st_mode & 0o777 == 0o600
    plan = write_plan(tmp_path / "plan.yaml", seed=4)
    assert "may not submit" in fault("submit", tmp_path / "vera", plan)
    assert "there is no site to ask" in fault("submit", tmp_path / "anna", plan)
    assert "may not invite" in fault("invite", tmp_path / "anna", "berlin")
    assert read_invitation(said("invite", tmp_path / "otto", "berlin")).name == "berlin"
    members = json.loads(said("status", tmp_path / "vera", "--json"))["members"]
    assert [(one["name"], one["role"]) for one in members] == [
        ("anna", "researcher"),
        ("otto", "owner"),
        ("vera", "viewer"),
    ]
    assert "is revoked" in said("revoke", tmp_path / "otto", "vera", "--reason", "left")
    assert "--rekey" in fault("status", tmp_path / "vera")
    again = coordinator.invitation("vera", role="viewer", rekey=True)
    said("join", again, "--dir", tmp_path / "vera")
    assert "anna" in said("status", tmp_path / "vera")
    assert "belongs to vera already" in fault(
        "join", coordinator.invitation("w", role="viewer"), "--dir", tmp_path / "vera"
    )
    assert "invitation" in fault("join", again, "--dir", tmp_path / "nobody")
    assert not (tmp_path / "nobody").exists()
    assert "for a site" in fault("join", coordinator.invitation("C"), "--dir", tmp_path / "c")


def test_joining_goes_on_after_a_kill(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, folder = coordinator.invitation("kim", role="viewer"), tmp_path / "kim"
    join = Store.join

    def answered_but_lost(*args: object, **options: object) -> object:
        join(*args, **options)  # type: ignore[arg-type]
        raise RuntimeError("killed before the answer was sent")

    monkeypatch.setattr(Store, "join", answered_but_lost)
    with pytest.raises(WardRoundError):
        join_as_person(line, folder, QUICK)
    monkeypatch.undo()
    assert join_as_person(line, folder, QUICK).name == "kim"
    assert open_desk(folder, QUICK).ask(AskStatus(), Status).federation == "Trial"


def test_people_show_their_certificate_where_one_is_asked_for(tmp_path: Path) -> None:
    with coordinating(tmp_path, certificates="required") as strict:
        folder = tmp_path / "kim"
        join_as_person(strict.invitation("kim", role="viewer"), folder, QUICK)
        assert open_desk(folder, QUICK).ask(AskStatus(), Status).federation == "Trial"
        (folder / "certificate.pem").unlink()
        with pytest.raises(WardRoundError, match="client certificate"):
            open_desk(folder, QUICK).ask(AskStatus(), Status)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_ends_with_0_on_a_signal(tmp_path: Path, number: int) -> None:
    port = free_port()
    said("init", tmp_path / "fed", "--url", f"https://127.0.0.1:{port}")
    command = [sys.executable, "-m", "wardround", "coordinator", "serve", str(tmp_path / "fed")]
    process = subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}"], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    assert process.stderr is not None
    folder = tmp_path / "fed"
    line = json.loads(process.stderr.readline())
    assert (line["event"], line["port"]) == ("serving", port)
    assert json.loads(said("status", folder, "--json"))["served"] is True
    assert "nobody serves" not in said("status", folder)
    second = subprocess.run(
        [*command, "--listen", f"127.0.0.1:{free_port()}"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert second.returncode == 3
    assert "is being served by another process" in second.stderr
    begin = time.monotonic()
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(30) == 0, rest
    assert time.monotonic() - begin < 30
    assert json.loads(rest.splitlines()[-1])["event"] == "stopped"
    process.stderr.close()
    assert f"Start it with\n  {SERVE} {folder}\n" in said("status", folder)


def test_a_look_does_not_keep_a_server_from_starting(folder: Path) -> None:
    office = open_office(folder)
    assert not office.served()
    with office.lock():
        assert office.served()
        assert "nobody serves" not in said("status", folder)
    assert not office.served(), "the lock file that a server left behind is no sign of one"
    assert f"{SERVE} {folder}" in said("status", folder)
    office.close()


def test_an_address_is_checked(folder: Path) -> None:
    assert "HOST:PORT" in fault("serve", folder, "--listen", "8443x")
    assert "go together" in fault("serve", folder, "--certificate", "x.pem")
