"""What a site makes of answers: only what the coordinator signed, for this very request, counts."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from site_fakes import AUTHORITY, Asked, FakeCoordinator, Said, say, serving

from wardround.core.errors import InputError, WardRoundError
from wardround.runtimes.https.client import Client, Rejected
from wardround.runtimes.https.connection import connect, proxy_for, tls
from wardround.runtimes.https.patience import Patience, Unreachable, Untrusted
from wardround.runtimes.https.wire import MESSAGE, Consent, Done, Refused

BODY = Consent(plan="a" * 64, standing="pending")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with serving(lambda _: say(Done())) as server:
        yield server


def ask(fake: FakeCoordinator, **options: object) -> Done:
    return fake.client(**options).insist("POST", "/v1/consent", BODY, Done, "consent")


def test_a_signed_answer_counts_and_what_left_is_told_before(fake: FakeCoordinator) -> None:
    left: list[tuple[str, bytes, int]] = []
    ask(fake, leaving=lambda kind, body: left.append((kind, body, len(fake.asked))))
    assert left == [("consent", BODY.canonical().encode(), 0)]
    assert fake.asked[0].body == BODY.canonical().encode()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Said(b"<html>log in</html>", signed=False, headers={"content-type": "text/html"}), "text/html"),
        (Said(b"", 302, signed=False, headers={"location": "https://127.0.0.1:1/"}), "HTTP 302"),
        (Said(b'{"kind":"done"}', key=Ed25519PrivateKey.generate()), "not the coordinator"),
        (Said(b'{"kind":"done"}', body_signed=b'{"kind":"gone"}'), "changed on the way"),
        (Said(b'{"kind":"done"}', headers={"content-digest": "sha-256=:AAAA:"}, signed=False), "not the coordinator"),
        (Said(b" " * (MESSAGE + 1)), "longer than"),
        (Said(b'{"kind":"done"}' + b" " * 5000, cut=100), "broke"),
    ],
    ids=["login page", "redirect", "another's key", "another body", "half signed", "oversized", "truncated"],
)
def test_what_the_coordinator_did_not_sign_is_not_believed(fake: FakeCoordinator, said: Said, words: str) -> None:
    fake.answer = lambda _: said
    with pytest.raises(Unreachable, match=words):
        ask(fake)
    assert len(fake.asked) == 1


def test_an_answer_that_drips_is_given_up(fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.runtimes.https.client.SLOWEST", -1.0)
    with pytest.raises(Untrusted, match="never ends"):
        ask(fake)


def test_an_old_answer_does_not_pass_for_a_new_one(fake: FakeCoordinator) -> None:
    ask(fake)
    first = fake.asked[0]
    fake.answer = lambda _: Said(b'{"kind":"done"}', answers=first)
    with pytest.raises(Untrusted):
        ask(fake)


def test_an_answer_of_another_kind_is_an_error_that_no_patience_helps(fake: FakeCoordinator) -> None:
    fake.answer = lambda _: Said(b'{"kind":"going","wanted":true}')
    with pytest.raises(WardRoundError, match="not understood") as caught:
        ask(fake, tries=None)
    assert not isinstance(caught.value, Unreachable)


def test_a_signed_refusal_is_told_and_not_repeated(fake: FakeCoordinator) -> None:
    fake.answer = lambda _: say(Refused(code="revoked", message="this site was revoked"), 403)
    with pytest.raises(Rejected, match="this site was revoked") as caught:
        ask(fake, tries=None)
    assert caught.value.code == "revoked"
    assert len(fake.asked) == 1


def test_a_wrong_clock_is_put_right_once_and_told(fake: FakeCoordinator) -> None:
    now = int(time.time()) + 4000

    def answer(asked: Asked) -> Said:
        created = int(asked.headers["signature-input"].partition("created=")[2].partition(";")[0])
        refused = say(Refused(code="clock", message="the clock is off", now=now), 401)
        return say(Done()) if abs(created - now) < 60 else refused

    warnings: list[str] = []
    fake.answer = answer
    client = fake.client(warn=warnings.append)
    client.call("POST", "/v1/consent", BODY, Done)
    client.call("POST", "/v1/consent", BODY, Done)
    assert len(fake.asked) == 3
    assert len(warnings) == 1
    assert "behind" in warnings[0]


def test_a_coordinator_that_never_likes_the_clock_is_not_asked_for_ever(fake: FakeCoordinator) -> None:
    fake.answer = lambda _: say(Refused(code="clock", message="no", now=int(time.time())), 401)
    with pytest.raises(Rejected):
        ask(fake, tries=None)
    assert len(fake.asked) == 2


@pytest.mark.parametrize("code", ["busy", "replayed"])
def test_busy_is_tried_again_with_another_nonce(fake: FakeCoordinator, code: str) -> None:
    said = [say(Refused.model_validate({"code": code, "message": "later"}), 429), say(Done())]
    fake.answer = lambda _: said.pop(0)
    ask(fake, tries=2)
    assert len({asked.headers["signature-input"] for asked in fake.asked}) == 2


def test_an_agent_tries_for_ever_and_a_command_a_few_times(fake: FakeCoordinator) -> None:
    said = [Said(b"bad gateway", 502, signed=False)] * 20 + [say(Done())]
    fake.answer = lambda _: said.pop(0)
    ask(fake, tries=None)
    assert len(fake.asked) == 21
    fake.answer = lambda _: Said(b"bad gateway", 502, signed=False)
    with pytest.raises(Untrusted):
        ask(fake, tries=3)
    assert len(fake.asked) == 24


def test_waits_grow_to_a_limit_and_are_drawn_from_nothing_on() -> None:
    patience = Patience(first=0.5, longest=30)
    for failures, limit in ((1, 0.5), (2, 1), (4, 4), (50, 30), (10_000, 30)):
        drawn = [patience.delay(failures) for _ in range(200)]
        assert 0 <= min(drawn) < limit / 3
        assert limit / 2 < max(drawn) <= limit


def test_nobody_listens(fake: FakeCoordinator) -> None:
    link = connect("https://127.0.0.1:1", tls(AUTHORITY.pem))
    client = Client(link, fake.site_key, fake.federation, patience=Patience(tries=1))
    with pytest.raises(Unreachable, match="nothing listens"):
        client.insist("POST", "/v1/consent", BODY, Done)


def test_tls_that_nobody_vouches_for(fake: FakeCoordinator) -> None:
    client = Client(connect(fake.url, ssl.create_default_context()), fake.site_key, fake.federation)
    with pytest.raises(Unreachable, match="not trusted") as caught:
        client.call("POST", "/v1/consent", BODY, Done)
    assert "SSL_CERT_FILE" in str(caught.value)
    assert not fake.asked


@pytest.mark.parametrize("off", [-4000, 4000])
def test_the_coordinators_answer_counts_whatever_this_clock_says(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, off: int
) -> None:
    real = time.time
    monkeypatch.setattr("wardround.runtimes.https.client.time.time", lambda: real() + off)
    ask(fake)


@pytest.mark.parametrize(
    ("text", "url", "user", "password"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", None, None),
        ("proxy.example", "http://proxy.example:3128", None, None),
        ("http://anna:p%40ss%3A@proxy.example:8080", "http://proxy.example:8080", "anna", "p@ss:"),
        ("https://[::1]:8080", "https://[::1]:8080", None, None),
    ],
)
def test_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, url: str, user: str | None, password: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    proxy = proxy_for("https://coordinator.example")
    assert proxy is not None
    assert (proxy.url, proxy.user, proxy.password) == (url, user, password)
    assert "ss" not in repr(proxy)
    monkeypatch.setenv("NO_PROXY", "localhost,.example")
    assert proxy_for("https://coordinator.example") is None


@pytest.mark.parametrize("text", ["ftp://proxy:1", "http://", "http://u:secret@proxy:notaport", "http://[bad"])
def test_a_wrong_proxy_is_told_without_its_password(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", text)
    with pytest.raises(InputError, match="HTTPS_PROXY") as caught:
        proxy_for("https://coordinator.example")
    assert "secret" not in str(caught.value)
