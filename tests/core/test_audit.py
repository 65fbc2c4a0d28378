"""The audit log: chained, repaired visibly, and no change of it goes unseen."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.audit import MOST_FACTS, NOTHING, AuditLog, Mark, SignedHead, read_entries, verify
from wardround.core.audit_entries import LINE, make_entry, parse_entry
from wardround.core.errors import StorageError

ENTRIES = 7


def head_of(mark: Mark, time: int = 1) -> SignedHead:
    return SignedHead(length=mark.length, hash=mark.hash, time=time, signature="0" * 128)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Mark]]:
    log = AuditLog(tmp_path_factory.mktemp("log") / "audit.jsonl")
    marks = [log.append("payload_left", bytes=number * 1000, what=f"Gewichte {number}") for number in range(ENTRIES)]
    return log.path.read_bytes(), marks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("changed") / "audit.jsonl"


def checked(place: Path, data: bytes, signed: Mark) -> bool:
    place.write_bytes(data)
    return verify(place, [head_of(signed)]).clean


def test_entries_are_chained_and_verify(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    assert log.head() == Mark(0, NOTHING)
    assert log.hash_at(0) == NOTHING
    marks = [log.append("asked", plan="ab", size=number) for number in range(5)]
    assert log.head() == marks[-1] == AuditLog(log.path).head()
    assert [mark.length for mark in marks] == [1, 2, 3, 4, 5]
    entries = list(read_entries(log.path))
    assert [entry["previous"] for entry in entries] == [NOTHING, *(mark.hash for mark in marks[:-1])]
    assert [entry["size"] for entry in entries] == [0, 1, 2, 3, 4]
    assert list(read_entries(log.path, tail=2)) == entries[-2:]
    findings = verify(log.path, [head_of(marks[2])])
    assert findings.clean
    assert (findings.head, findings.unsigned) == (marks[-1], 2)
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_does_not_exist_has_no_entries(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert verify(path).clean
    assert list(read_entries(path)) == []
    assert AuditLog(path).hash_at(3) is None
    faults = verify(path, [head_of(Mark(3, "a" * 64))]).faults
    assert len(faults) == 1
    assert "cut off" in faults[0]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(written: tuple[bytes, list[Mark]], place: Path, data: st.DataObject) -> None:
    log, marks = written
    at = data.draw(st.integers(0, len(log) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != log[at]))
    assert not checked(place, log[:at] + bytes([byte]) + log[at + 1 :], marks[-1])


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_removed_or_added_bytes_are_found(
    written: tuple[bytes, list[Mark]], place: Path, data: st.DataObject
) -> None:
    log, marks = written
    begin = data.draw(st.integers(0, len(log)))
    end = data.draw(st.integers(begin, len(log)))
    more = data.draw(st.binary(max_size=20))
    changed = log[:begin] + more + log[end:]
    assert checked(place, changed, marks[-1]) == (changed == log)


@settings(max_examples=60, deadline=None)
@given(order=st.lists(st.integers(0, ENTRIES - 1), max_size=ENTRIES + 2))
def test_any_other_choice_or_order_of_lines_is_found(
    written: tuple[bytes, list[Mark]], place: Path, order: list[int]
) -> None:
    log, marks = written
    lines = log.splitlines(keepends=True)
    same = order == list(range(ENTRIES))
    assert checked(place, b"".join(lines[number] for number in order), marks[-1]) == same


@pytest.mark.parametrize("signed", range(1, ENTRIES + 1))
def test_truncation_is_found_up_to_the_signed_head(written: tuple[bytes, list[Mark]], place: Path, signed: int) -> None:
    log, marks = written
    lines = log.splitlines(keepends=True)
    for kept in range(ENTRIES + 1):
        assert checked(place, b"".join(lines[:kept]), marks[signed - 1]) == (kept >= signed)


def test_a_log_written_anew_is_found_by_the_signed_head(tmp_path: Path) -> None:
    honest, forged = AuditLog(tmp_path / "a.jsonl"), AuditLog(tmp_path / "b.jsonl")
    for number in range(4):
        mark = honest.append("left", bytes=number)
        forged.append("left", bytes=0)
    assert verify(forged.path).clean, "alone, a log that was written anew looks sound"
    findings = verify(forged.path, [head_of(mark)])
    assert findings.signed is None
    assert "written anew" in findings.faults[0]


def test_a_wrong_signature_is_a_finding_and_vouches_for_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    mark = log.append("left")
    findings = verify(log.path, [head_of(mark)], lambda _head: False)
    assert findings.signed is None
    assert findings.unsigned == 1
    assert findings.faults == ("the signature of the head at entry 1 is not the other side's",)


def test_faults_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"nonsense\n" * 5000)
    faults = verify(path).faults
    assert len(faults) == 101
    assert faults[-1] == "and 4900 more"


@pytest.mark.parametrize("torn", [b"{", b'{"event":"left","n":3', b"\0" * 600, b"half\0 of it\n"])
def test_a_torn_last_line_is_repaired_and_said(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    first = AuditLog(path)
    first.append("one")
    second = first.append("two")
    with path.open("ab") as file:
        file.write(torn)
    assert AuditLog(path).head() == second
    assert not verify(path).clean
    assert AuditLog(path).append("three").length == 4
    findings = verify(path, [head_of(second)])
    assert findings.clean
    assert findings.repairs == (3,)
    repair = list(read_entries(path))[2]
    assert repair["event"] == "log_repaired"
    assert (repair["removed"], repair["sha256"]) == (len(torn), hashlib.sha256(torn).hexdigest())
    assert (tmp_path / repair["kept_in"]).read_bytes() == torn


def test_a_second_power_cut_during_the_repair_is_told_as_well(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    AuditLog(path).append("one")
    path.with_name("audit.jsonl.torn-2").write_bytes(b"{torn")  # moved aside, and then the power failed
    AuditLog(path).append("two")
    assert [entry["event"] for entry in read_entries(path)] == ["one", "log_repaired", "two"]
    AuditLog(path).append("three")
    assert len(list(read_entries(path))) == 4


def test_a_torn_first_line_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"ev')
    assert AuditLog(path).head() == Mark(0, NOTHING)
    assert AuditLog(path).append("one").length == 2


def test_more_damage_than_a_power_cut_does_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"nonsense\nnonsense\nnonsense\n")
    with pytest.raises(StorageError, match="damaged at its end"):
        AuditLog(path).append("one")
    assert path.read_bytes() == b"nonsense\nnonsense\nnonsense\n"


def test_two_processes_and_threads_append_to_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    code = (
        "import sys; from pathlib import Path; from wardround.core.audit import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for number in range(40): log.append('other', number=number)"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(2)]
    log = AuditLog(path)
    threads = [threading.Thread(target=lambda: [log.append("mine") for _ in range(20)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    findings = verify(path)
    assert findings.clean
    assert findings.head == log.head()
    assert findings.head.length == 140


def test_an_entry_is_found_without_reading_all(tmp_path: Path) -> None:
    path, mark, marks = tmp_path / "audit.jsonl", Mark(0, NOTHING), []
    with path.open("wb") as file:
        for number in range(500):
            line, mark = make_entry(mark, "left", {"text": "x" * (number * 37 % 2000)})
            file.write(line)
            marks.append(mark)
    log = AuditLog(path)
    assert [log.hash_at(mark.length) for mark in marks] == [mark.hash for mark in marks]
    assert log.hash_at(501) is None
    assert log.hash_at(-1) is None


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 60), min_size=1, max_size=12))
def test_every_entry_is_found_wherever_its_line_begins(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    path, mark = tmp_path_factory.mktemp("found") / "audit.jsonl", Mark(0, NOTHING)
    lines, hashes = b"", []
    for length in lengths:
        line, mark = make_entry(mark, "asked", {"what": "x" * length})
        lines += line
        path.write_bytes(lines)
        hashes.append(mark.hash)
        log = AuditLog(path)
        assert [log.hash_at(number + 1) for number in range(len(hashes))] == hashes


def test_entries_are_bounded_whatever_they_tell(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append("refused", reason="ä" * MOST_FACTS)
    log.append("refused", reason="half a pair \ud800 and a line\nend", items={2: (1, 2), 10: None})
    log.append("refused", reason="\0" * (MOST_FACTS // 6 - 10))
    first, second, _third = read_entries(log.path)
    assert set(first) == {"n", "time", "event", "previous", "hash", "facts_size", "facts_sha256"}
    assert second["reason"] == "half a pair ? and a line\nend"
    assert second["items"] == {"2": [1, 2], "10": None}
    assert verify(log.path).clean
    assert max(map(len, log.path.read_bytes().splitlines(keepends=True))) <= LINE


@settings(max_examples=100, deadline=None)
@given(
    facts=st.dictionaries(
        st.text(st.characters(), max_size=10).filter(
            lambda name: name not in ("n", "time", "event", "previous", "hash")
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=10,
        ),
        max_size=5,
    )
)
def test_every_entry_can_be_read_again(facts: dict[str, object]) -> None:
    line, mark = make_entry(Mark(0, NOTHING), "told", facts)
    entry = parse_entry(line)
    assert entry is not None
    assert entry["hash"] == mark.hash


@settings(max_examples=200, deadline=None)
@given(line=st.binary(max_size=200) | st.sampled_from([b"[" * 200_000, b"1" * 5000, b"[]\n", b"{}\n", b"null\n"]))
def test_nonsense_is_no_entry(line: bytes) -> None:
    assert parse_entry(line) is None


@pytest.mark.parametrize("event", ["", "Asked", "a b", "a" * 41, "1"])
def test_events_have_plain_names(tmp_path: Path, event: str) -> None:
    with pytest.raises(ValueError, match="not an event"):
        AuditLog(tmp_path / "audit.jsonl").append(event)


def test_facts_cannot_pose_as_the_logs_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hash are names of the log"):
        AuditLog(tmp_path / "audit.jsonl").append("asked", hash="0" * 64)


def test_a_full_disk_leaves_no_half_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    mark, real = log.append("one"), os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda handle, data, place: real(handle, data[:10], place))
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        log.append("two")
    monkeypatch.undo()
    assert verify(log.path).head == mark
    assert log.append("two").length == 2
    assert verify(log.path).clean
    assert json.loads(log.path.read_bytes().splitlines()[1])["event"] == "two"
