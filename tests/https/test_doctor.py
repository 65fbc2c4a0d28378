"""The doctor as a whole, what it learns of the coordinator, and what the way lets through."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from doctor_kit import answers, asker, by_name, healthy, make_plain, quiet, site_home
from proxies import Interceptor
from site_fakes import AUTHORITY, Asked, FakeCoordinator, Said, say
from throttle import Line, Link
from typer.testing import CliRunner

from wardround.core.audit import read_entries
from wardround.faces.cli.site_doctor import doctor as command
from wardround.runtimes.https import doctor_asks
from wardround.runtimes.https.connection import connect, tls
from wardround.runtimes.https.doctor import examine
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.patience import Unreachable, Untrusted
from wardround.runtimes.https.wire import WAIT, Done, Next, Nothing, Offer, Refused

SIZES = tuple(1 << n for n in range(10, 16))


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


def test_a_healthy_site_is_healthy_and_what_was_sent_is_in_its_log(
    home: Home, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_asks, "SILENCES", (0.0,))
    found = by_name(list(examine(home)))
    there = {"key", "name (DNS)", "connection (TCP)", "TLS", "coordinator", "clock", "version", "registration"}
    more = {
        "idle connections",
        "size of a request",
        "speed",
        "agent",
        "policy",
        "disk, site folder",
        "disk, store",
        "memory",
    }
    assert set(found) == there | more | {"processor", "training software", "dataset"}
    assert {name for name, finding in found.items() if finding.state == "fail"} <= {"memory"}
    assert found["TLS"].seen.startswith("certificate of the federation's own authority")
    assert "4 of 4 cases can be used" in found["dataset"].seen
    assert "A30 (24 GB)" in found["training software"].seen
    assert "8 MiB pass" in found["size of a request"].seen
    assert "Mbit/s" in found["speed"].seen
    left = [entry for entry in read_entries(home.audit) if entry["event"] == "left"]
    assert [len(asked.body) for asked in fake.asked if asked.body] == [entry["bytes"] for entry in left]
    assert home.settings().largest_piece == 8 << 20


def test_the_command_prints_remedies_and_says_by_its_exit_code(home: Home, fake: FakeCoordinator) -> None:
    app = typer.Typer()
    app.command()(command)
    settings = home.settings()
    home.write_settings(settings.model_copy(update={"url": "https://127.0.0.1:1", "data": str(home.root)}))
    said = CliRunner().invoke(app, ["--quick", "--json", "--dir", str(home.root)])
    assert said.exit_code == 1
    found = {row["name"]: row for row in json.loads(said.stdout)}
    assert found["connection (TCP)"]["state"] == found["dataset"]["state"] == "fail"
    assert found["coordinator"]["state"] == "skipped"
    assert found["dataset"]["remedy"].startswith("`wardround check")
    said = CliRunner().invoke(app, ["--quick", "--dir", str(home.root)])
    assert said.exit_code == 1
    assert "is the coordinator running" in " ".join(said.output.split())


@pytest.mark.parametrize(
    ("off", "state", "words"), [(-600, "warn", "s behind the"), (100, "warn", "s ahead of the"), (5, "ok", "agrees")]
)
def test_the_clock_is_read_from_the_signed_answer(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, off: int, state: str, words: str
) -> None:  # fmt: skip
    class Clock:
        perf_counter, monotonic = time.perf_counter, time.monotonic

        @staticmethod
        def time() -> float:
            return time.time() + off

    monkeypatch.setattr(doctor_asks, "time", Clock)
    one = asker(fake)
    found = by_name(doctor_asks.check_coordinator(one))
    assert found["clock"].state == state
    assert words in found["clock"].seen
    assert abs(one.offset + off) <= 2 or state == "ok"


def test_another_federation_version_or_software_is_no_surprise_later(fake: FakeCoordinator) -> None:
    good = fake.federation
    fake.federation = good.model_copy(
        update={"key": Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()}
    )
    one = replace(asker(fake), federation=good)
    assert "another federation" in doctor_asks.check_coordinator(one)[0].seen
    fake.federation = good.model_copy(update={"software": "9.9.0"})
    assert by_name(doctor_asks.check_coordinator(one))["version"].state == "fail"
    fake.federation = good.model_copy(update={"protocol": 7})
    assert "protocol 7" in by_name(doctor_asks.check_coordinator(one))["version"].seen
    fake.answer = lambda _: Said(b"{}")
    assert doctor_asks.check_coordinator(one)[0].state == "fail"


@pytest.mark.parametrize(
    ("code", "words"), [("unknown_key", "re-key"), ("revoked", "took this site out"), ("busy", "owner")]
)
def test_a_refused_key_has_its_remedy(fake: FakeCoordinator, code: str, words: str) -> None:
    refused = Refused(code=code, message="no")  # type: ignore[arg-type]
    fake.answer = lambda asked: answers(fake, asked) if asked.method == "GET" else say(refused, 403)
    found = by_name(doctor_asks.check_coordinator(asker(fake)))["registration"]
    assert (found.state, words in found.remedy) == ("fail", True)


def test_a_login_page_is_not_the_coordinator(home: Home, fake: FakeCoordinator) -> None:
    fake.answer = lambda _: Said(b"<html>", 511, signed=False, headers={"content-type": "text/html"})
    with pytest.raises(Untrusted):
        asker(fake).poll()
    found = by_name(list(examine(home, quick=True)))["coordinator"]
    assert (found.state, "browser" in found.remedy) == ("fail", True)


def test_an_idle_cut_is_found_and_bounded(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor_asks, "GRACE", 0.2)
    over = threading.Event()

    def held(asked: Asked) -> Said:
        over.wait(json.loads(asked.body)["wait"])  # as the coordinator holds a poll
        return say(Next(do=Nothing()))

    fake.answer = held
    with Link(Line(idle=0.2), None) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        found = doctor_asks.check_silence(asker(fake), quiet, (0.0, 0.8, 3.0))
    over.set()
    assert found.state == "warn"
    assert "(one of 0 s is not)" in found.seen
    assert "it asks again" in found.remedy


def test_silence_is_not_measured_while_there_is_work(fake: FakeCoordinator) -> None:
    assert doctor_asks.check_silence(asker(fake), quiet, (0.0,)).state == "ok"
    fake.answer = lambda _: say(Next(do=Offer(plan="a" * 64, size=7)))
    assert doctor_asks.check_silence(asker(fake), quiet, (0.0, 9.0)).state == "skipped"
    assert doctor_asks.SILENCES[-1] == WAIT


def test_a_body_limit_is_found_and_kept_for_the_agent(
    home: Home, fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = tmp_path / "federation.pem"
    upstream.write_text(AUTHORITY.pem)
    with Interceptor(upstream, body_limit=1 << 20) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
        monkeypatch.setattr(doctor_asks, "SILENCES", (0.0,))
        found = by_name(list(examine(home)))["size of a request"]
    assert found.state == "warn"
    assert found.seen.startswith("1 MiB pass, 2 MiB do not: ")
    assert "HTTP 413" in found.seen
    assert home.settings().largest_piece == 1 << 20


def test_a_single_cut_is_no_limit_and_nothing_passing_is_a_failure(fake: FakeCoordinator) -> None:
    once = [True]

    def answer(asked: Asked) -> Said:
        if len(asked.body) == SIZES[2] and once:
            once.pop()
            return Said(b"", cut=0)
        return say(Done())

    fake.answer = answer
    pieces = doctor_asks.check_pieces(asker(fake), quiet, SIZES)
    assert (pieces.largest, pieces.finding.state, once) == (SIZES[-1], "ok", [])
    fake.answer = lambda _: Said(b"", 413, signed=False)
    pieces = doctor_asks.check_pieces(asker(fake), quiet, SIZES)
    assert (pieces.largest, pieces.finding.state) == (None, "fail")
    fake.answer = lambda asked: (
        say(Refused(code="too_large", message="less"), 413) if len(asked.body) > 9000 else say(Done())
    )
    pieces = doctor_asks.check_pieces(asker(fake), quiet, SIZES)
    assert (pieces.largest, "the coordinator refused: less" in pieces.finding.seen) == (8192, True)


def test_a_slow_line_says_how_long_a_model_takes(fake: FakeCoordinator) -> None:
    assert doctor_asks.check_speed(asker(fake), None, quiet, 1 << 16).state == "ok"
    slow = doctor_asks.check_speed(asker(fake), 20_000.0, quiet, 1 << 16)
    assert (slow.state, "takes 103 min" in slow.seen) == ("warn", True)
    fake.answer = lambda _: Said(b"", 502, signed=False)
    assert doctor_asks.check_speed(asker(fake), None, quiet).state == "fail"
    fake.answer = lambda _: say(Refused(code="not_found", message="nothing here"), 404)
    assert doctor_asks.check_speed(asker(fake), None, quiet).state == "skipped"


def test_nobody_answers_is_unreachable(fake: FakeCoordinator) -> None:
    one = asker(fake)
    one.link = connect("https://127.0.0.1:1", tls(AUTHORITY.pem))
    with pytest.raises(Unreachable):
        one.poll()


def test_federations_differ_by_what_must_not_be_exchanged(fake: FakeCoordinator) -> None:
    fake.federation = fake.federation.model_copy(update={"name": "Renamed"})
    assert doctor_asks.check_coordinator(asker(fake))[0].state == "ok"
