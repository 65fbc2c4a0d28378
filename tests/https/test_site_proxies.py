"""Hospitals' proxies: with and without a password, opening TLS, limiting bodies, and lying."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from proxies import Exchange, Interceptor, http_response
from site_fakes import AUTHORITY, Asked, FakeCoordinator, Said, say, serving
from throttle import Line, Link

from wardround.core.messages import Task
from wardround.runtimes.https.home import LEAST_PIECE
from wardround.runtimes.https.patience import Unreachable, Untrusted
from wardround.runtimes.https.transfer import Blob, Transfers
from wardround.runtimes.https.wire import Consent, Done, Received

BODY = Consent(plan="a" * 64, standing="pending")


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with serving(lambda _: say(Done())) as server:
        yield server


def ask(fake: FakeCoordinator) -> Done:
    return fake.client().call("POST", "/v1/consent", BODY, Done)


def upstream(tmp_path: Path) -> Path:
    path = tmp_path / "federation-ca.pem"
    path.write_text(AUTHORITY.pem)
    return path


def test_a_proxy_without_a_password(fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    with Link(Line()) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        ask(fake)
        assert proxy.total()["connections"] == 1
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        ask(fake)
        assert proxy.total()["connections"] == 1


def test_a_proxy_with_a_password(fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    with Link(Line(), login="anna:p@ss") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Unreachable, match="asks for a user and password"):
            ask(fake)
        monkeypatch.setenv("HTTPS_PROXY", f"http://anna:wrong@127.0.0.1:{proxy.port}")
        with pytest.raises(Unreachable, match="refused the user and password") as caught:
            ask(fake)
        assert "wrong" not in str(caught.value)
        monkeypatch.setenv("HTTPS_PROXY", f"http://anna:p%40ss@127.0.0.1:{proxy.port}")
        ask(fake)


def test_a_proxy_that_is_not_there(fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(Unreachable, match="cannot be reached: is HTTPS_PROXY right"):
        ask(fake)


def test_a_proxy_that_opens_tls_is_trusted_as_far_as_it_can_read(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Interceptor(upstream(tmp_path)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Unreachable, match="not trusted"):
            ask(fake)
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
        ask(fake)
        assert proxy.seen[0].body == BODY.canonical().encode()


def test_what_a_proxy_changes_or_invents_is_not_believed(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lie(this: Exchange, _: Any) -> bytes:
        return http_response(200, this.answer_headers, this.answer.replace(b"done", b"gone"))

    def block(_this: Exchange, _: Any) -> bytes:
        return http_response(403, {"content-type": "text/html"}, b"<h1>Blocked by category</h1>")

    with Interceptor(upstream(tmp_path), change=lie) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
        with pytest.raises(Untrusted, match="changed on the way"):
            ask(fake)
        proxy.change = block
        with pytest.raises(Untrusted, match=f"HTTP 403, text/html.*the proxy http://127.0.0.1:{proxy.port}"):
            ask(fake)


def test_a_limit_on_bodies_is_found_and_kept(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, taken = np.random.default_rng(5).bytes(5_000_000), bytearray()

    def answer(asked: Asked) -> Said:
        if asked.method == "PUT":
            taken.extend(asked.body)
        return say(Received(received=len(taken), whole=len(taken) == len(data)))

    fake.answer = answer
    path = tmp_path / "tensors"
    path.write_bytes(data)
    with Interceptor(upstream(tmp_path), body_limit=1 << 20) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
        transfers = Transfers(fake.client(tries=3))
        transfers.upload(
            Task(plan="a" * 64, round=0, verb="train"), Blob(path, hashlib.sha256(data).hexdigest(), len(data))
        )
        refused = [seen for seen in proxy.seen if seen.status == 413]
    assert bytes(taken) == data
    assert len(refused) == 1
    assert LEAST_PIECE <= transfers.pace.largest <= 1 << 20
