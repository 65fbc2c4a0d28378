"""``wardround coordinator log``: the coordinator's own log, held against what the sites signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from coordinator_kit import certify, request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from wardround.core.audit import SignedHead
from wardround.core.errors import InputError
from wardround.faces.cli.coordinator import coordinator_app
from wardround.runtimes.https.office import Office, found_office
from wardround.runtimes.https.wire import Head, head_text

KEY = Ed25519PrivateKey.generate()


def verify(office: Office, *options: str) -> Result:
    return CliRunner().invoke(coordinator_app, ["log", str(office.folder), "--verify", *options])


def sign(office: Office, key: Ed25519PrivateKey = KEY) -> None:
    """The site B signs the newest entry."""
    mark = office.audit.head()
    text = head_text(office.settings.id, "", Head(length=mark.length, hash=mark.hash), 7)
    head = SignedHead(length=mark.length, hash=mark.hash, time=7, signature=key.sign(text).hex())
    office.store.add_head("B", head, own=True)


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    """Four entries, of which B signed three."""
    office = found_office(tmp_path / "fed", "https://ward.example.org")
    office.store.join(request(office.store.invite("B", "site", 1), "B", KEY), certify)
    for number in range(3):
        office.audit.append("submitted", run=str(number))
    sign(office)
    office.audit.append("aborted", run="2", reason="\x1b[31mred")
    yield office
    office.close()


def test_it_is_shown_as_lines_that_no_terminal_obeys(office: Office) -> None:
    shown = CliRunner().invoke(coordinator_app, ["log", str(office.folder)])
    assert len(shown.stdout.splitlines()) == 4
    assert "\x1b" not in shown.stdout
    last = CliRunner().invoke(coordinator_app, ["log", str(office.folder), "--tail", "1", "--json"])
    assert json.loads(last.stdout)["event"] == "aborted"


def test_a_log_that_is_whole_is_told_to_be(office: Office) -> None:
    whole = verify(office)
    assert whole.exit_code == 0, whole.output
    assert "countersigned by a site up to entry 3" in whole.stdout
    assert "1 entries after that are chained, but not countersigned yet" in whole.stdout
    assert "B last signed entry 3" in whole.stdout
    assert json.loads(verify(office, "--json").stdout)["clean"] is True


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda lines: [lines[0], lines[1].replace(b'"1"', b'"8"'), *lines[2:]], "in the place of entry 2"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 is entry 3, where entry 2 should stand"),
        (lambda lines: lines[:2], "cut off: entry 3 was signed by the other side, but the log ends at 2"),
        (lambda lines: lines[:0], "cut off: entry 3"),
        (
            lambda lines: [*lines[:3], lines[3][:40]],
            "in the place of entry 4, is not an entry as it was written: it is",
        ),
    ],
    ids=["changed", "gap", "cut", "emptied", "torn"],
)
def test_any_harm_is_found_with_its_entry(office: Office, harm: object, told: str) -> None:
    lines = office.audit.path.read_bytes().splitlines(keepends=True)
    office.audit.path.write_bytes(b"".join(harm(lines)))  # type: ignore[operator] # one of the functions above
    found = verify(office)
    assert found.exit_code == 1
    assert told in found.stdout
    assert json.loads(verify(office, "--json").stdout)["clean"] is False


def test_a_log_that_was_written_anew_does_not_hold_the_entry_that_a_site_signed(office: Office) -> None:
    office.audit.path.unlink()
    for number in range(5):
        office.audit.append("submitted", run=f"other {number}")
    found = verify(office)
    assert found.exit_code == 1
    assert "entry 3 is not the one that the other side signed" in found.stdout


def test_a_head_that_no_key_of_the_site_signed_vouches_for_nothing(office: Office) -> None:
    sign(office, Ed25519PrivateKey.generate())
    found = verify(office)
    assert found.exit_code == 1
    assert "the signature of the head at entry 4" in found.stdout
    assert "countersigned by a site up to entry 3" in found.stdout


def test_a_persons_folder_has_no_log(tmp_path: Path) -> None:
    (tmp_path / "person.json").write_text("{}")
    result = CliRunner().invoke(coordinator_app, ["log", str(tmp_path)])
    assert isinstance(result.exception, InputError)
