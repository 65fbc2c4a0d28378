"""`wardround site log`: readable, and any change of it is found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from site_commands import DIGEST, Run, call, good, make_home, signed

from wardround.core.audit import AuditLog, SignedHead
from wardround.core.errors import RunError
from wardround.faces.cli.site_log import line_of
from wardround.runtimes.https.home import Home
from wardround.site.heads import MOST, add_head, read_heads


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def run() -> Run:
    return call


def test_the_log_is_verified_against_countersigned_heads(home: Home, run: Run) -> None:
    good(run("approve", DIGEST, "--name", "Dr. A"))
    alone = good(run("log", "--verify"))
    assert "2 entries" in alone
    assert "no entry is countersigned yet" in alone
    log = AuditLog(home.audit)
    add_head(home.heads, signed(log, 1))
    once = good(run("log", "--verify"))
    assert "countersigned by the coordinator up to entry 1" in once
    assert "1 entries after that" in once
    assert "the coordinator was not asked" in once
    asked = good(run("log", "--verify", last_head=lambda _root: signed(log, 2)))
    assert "up to entry 2" in asked
    assert "it last signed entry 2" in asked
    assert "signed no head" in good(run("log", "--verify", last_head=lambda _root: None))

    def offline(_root: Path) -> SignedHead | None:
        raise RunError("the coordinator cannot be reached")

    assert "cannot be reached" in good(run("log", "--verify", last_head=offline))


def test_a_log_that_was_cut_is_found_by_the_head_that_the_coordinator_knows(home: Home, run: Run) -> None:
    good(run("approve", DIGEST, "--name", "Dr. A"))
    head = signed(AuditLog(home.audit), 2)
    lines = home.audit.read_bytes().splitlines(keepends=True)
    home.audit.write_bytes(lines[0])
    assert run("log", "--verify").exit_code == 0, "without any head a log that was cut looks whole"
    cut = run("log", "--verify", last_head=lambda _root: head)
    assert cut.exit_code == 1
    assert "cut off: entry 2 was signed" in cut.stdout
    home.audit.write_bytes(lines[0].replace(b"plan_received", b"plan_forgotten") + lines[1])
    changed = run("log", "--verify", "--json", last_head=lambda _root: head)
    assert changed.exit_code == 1
    document = json.loads(changed.stdout)
    assert document["clean"] is False
    assert "line 1" in document["faults"][0]


def test_a_forged_head_or_heads_file_is_a_finding(home: Home, run: Run) -> None:
    log = AuditLog(home.audit)
    add_head(home.heads, signed(log, 1).model_copy(update={"signature": "0" * 128}))
    forged = run("log", "--verify")
    assert forged.exit_code == 1
    assert "is not the other side's" in forged.stdout
    for text in ("{}", "[", '{"heads": [1]}', '{"heads": [{"length": -1}]}'):
        home.heads.write_text(text)
        assert run("log", "--verify").exit_code == 1


def test_heads_are_kept_newest_last_and_not_without_end(home: Home) -> None:
    one = signed(AuditLog(home.audit), 1)
    for number in range(MOST + 5):
        add_head(home.heads, one.model_copy(update={"length": number}))
    assert [head.length for head in read_heads(home.heads)] == list(range(5, MOST + 5))
    assert read_heads(home.heads.with_name("none")) == []


def test_log_as_json_lines(home: Home, run: Run) -> None:
    entries = [json.loads(line) for line in good(run("log", "--json")).splitlines()]
    assert [entry["event"] for entry in entries] == ["plan_received"]
    assert entries[0]["plan"] == DIGEST


def test_a_line_of_the_log_is_one_line_whatever_it_holds() -> None:
    entry = {"n": 1, "time": "nonsense", "event": "left", "hash": "", "previous": "", "why": "a\nb\x1b[31m\u00a0c"}
    assert line_of(entry).endswith("why a?b?[31m c")
    assert line_of({**entry, "time": "2025-03-05T12:00:00.000+00:00", "why": {"a": [1]}}).endswith('why {"a": [1]}')
