"""The doctor's look at the site's own machine: key, agent, disk, memory, processor, dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from doctor_kit import by_name, healthy, make_plain, site_home
from site_fakes import FakeCoordinator

from tiny import write_case
from wardround.runtimes.https import doctor_machine
from wardround.runtimes.https.doctor import examine
from wardround.runtimes.https.home import Home


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(monkeypatch)


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with healthy() as server:
        yield server


@pytest.fixture
def home(fake: FakeCoordinator, tmp_path: Path) -> Home:
    return site_home(fake, tmp_path)


def test_a_key_that_others_can_read_or_that_ends_is_told(home: Home) -> None:
    settings = home.settings()
    assert doctor_machine.check_key(home, settings).state == "ok"
    assert "ends in 10 days" in doctor_machine.check_key(home, settings, settings.expires - 10 * 86_400).seen
    assert doctor_machine.check_key(home, settings, settings.expires + 86_400).state == "fail"
    assert doctor_machine.check_key(home, settings.model_copy(update={"expires": 0})).state == "ok"
    home.key_file.chmod(0o644)
    loose = doctor_machine.check_key(home, settings)
    assert (loose.state, "chmod 600" in loose.remedy) == ("warn", True)
    home.key_file.write_text("x")
    assert doctor_machine.check_key(home, settings).state == "fail"
    home.key_file.unlink()
    assert doctor_machine.check_key(home, settings).state == "fail"
    assert by_name(list(examine(home, quick=True)))["coordinator"].state == "skipped"


def test_whether_the_site_is_served_shows_by_its_lock(home: Home) -> None:
    assert doctor_machine.check_agent(home).state == "warn"
    lock = home.lock()
    assert doctor_machine.check_agent(home).state == "ok"
    os.close(lock)


def test_a_policy_that_nobody_can_read_or_that_refuses_all_is_told_with_what_to_change(home: Home) -> None:
    assert doctor_machine.check_policy(home).state == "ok"
    home.policy.write_text("wardround: 1\nquiet_hours: ['25:00-06:00']\nmost_rounds: -1\n")
    wrong = doctor_machine.check_policy(home)
    assert (wrong.state, "wardround site policy" in wrong.remedy) == ("fail", True)
    assert "line 2: quiet_hours" in wrong.seen
    assert "line 3: most_rounds" in wrong.seen
    home.policy.unlink()
    gone = doctor_machine.check_policy(home)
    assert (gone.state, "--write" in gone.remedy) == ("fail", True)


@pytest.mark.parametrize(
    ("line", "state"),
    [
        ("tasks: [describe]", "warn"),
        ("tasks: [train]", "ok"),
        ("most_rounds: 0", "warn"),
        ("weights_without_secure_aggregation: false", "warn"),
        ("most_bytes_a_round: 0", "warn"),
        ("quiet_hours: ['00:00-24:00']", "warn"),
        ("quiet_hours: ['00:00-23:59']", "ok"),
        ("open_hours: ['Mon 07:00-08:00']", "ok"),
    ],
)
def test_a_policy_that_refuses_all_training_is_told_by_its_rule(home: Home, line: str, state: str) -> None:
    home.policy.write_text(f"wardround: 1\n{line}\n")
    found = doctor_machine.check_policy(home, datetime(2025, 3, 5, 12, 0))
    assert found.state == state
    assert state == "ok" or line.partition(":")[0] in found.remedy
    assert "policy" in by_name(list(examine(home, quick=True)))


def test_memory_is_what_the_machine_and_the_container_leave(tmp_path: Path) -> None:
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    assert doctor_machine.check_memory(tmp_path).state == "skipped"
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   16000000 kB\n")
    (group / "memory.max").write_text("max\n")
    assert doctor_machine.check_memory(tmp_path).state == "ok"
    (group / "memory.max").write_text("4000000000\n")
    (group / "memory.current").write_text("500000000\n")
    assert doctor_machine.free_memory(tmp_path) == 3_500_000_000
    assert doctor_machine.check_memory(tmp_path).state == "warn"
    (group / "memory.current").write_text("3900000000\n")
    assert doctor_machine.check_memory(tmp_path).state == "fail"


def test_too_little_disk_is_told_with_what_lies_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 5 * 10**9

    monkeypatch.setattr(doctor_machine.shutil, "disk_usage", lambda _place: Usage)
    found = doctor_machine.check_disk(home, home.settings())
    assert [finding.state for finding in found] == ["warn", "warn"]
    Usage.free = 10**8
    assert doctor_machine.check_disk(home, home.settings())[0].state == "fail"


def test_a_missing_torch_and_a_missing_gpu_are_failures_where_they_matter(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = home.settings().model_copy(update={"threads": 1024})
    monkeypatch.setattr(doctor_machine, "TORCH", "raise ImportError('no torch here')")
    threads, torch = doctor_machine.check_processor(settings)
    assert (threads.state, torch.state) == ("warn", "fail")
    assert "no torch here" in torch.seen
    monkeypatch.setattr(doctor_machine, "TORCH", 'print(\'{"torch": "9", "gpus": []}\')')
    assert doctor_machine.check_processor(settings)[1].state == "ok"
    assert doctor_machine.check_processor(settings.model_copy(update={"device": "cuda"}))[1].state == "fail"
    assert doctor_machine.check_processor(settings, "/no/such/python")[1].state == "fail"


def test_the_dataset_is_read_as_check_reads_it(home: Home, tmp_path: Path) -> None:
    settings = home.settings()
    assert "4 cases listed" in doctor_machine.check_data(settings, quick=True).seen
    mask = tmp_path / "data" / "masks" / "case_00.nii.gz"
    mask.write_bytes(mask.read_bytes()[:100])
    found = doctor_machine.check_data(settings, quick=False)
    assert (found.state, found.seen.startswith("3 of 4 cases")) == ("warn", True)
    few = tmp_path / "few"
    write_case(few, "a", 1)
    assert doctor_machine.check_data(settings.model_copy(update={"data": str(few)}), quick=False).state == "fail"
