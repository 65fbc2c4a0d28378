"""The doctor names who stands in the way: proxies that ask or refuse, proxies that open TLS, nobody at all."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor_kit import asker, healthy, make_plain, way
from proxies import Interceptor
from site_fakes import AUTHORITY, FakeCoordinator
from throttle import Line, Link

from wardround.runtimes.https import doctor_asks, doctor_path
from wardround.runtimes.https.doctor_path import Way

SCHEMES = b"HTTP/1.1 407 X\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n\r\n"


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(monkeypatch)


@pytest.fixture
def fake() -> Iterator[FakeCoordinator]:
    with healthy() as server:
        yield server


def test_a_proxy_that_asks_for_a_password_is_told_from_one_that_refuses_it(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Link(Line(), None, "ward:pa ss") as proxy:
        address = f"127.0.0.1:{proxy.port}"
        monkeypatch.setenv("HTTPS_PROXY", f"http://{address}")
        without = doctor_path.check_connection(way(fake))
        assert (without.state, without.name) == ("fail", "proxy")
        assert "asks for a user and password (HTTP 407)" in without.seen
        monkeypatch.setenv("HTTPS_PROXY", f"http://ward:wrong@{address}")
        assert "refused this user and password" in doctor_path.check_connection(way(fake)).seen
        monkeypatch.setenv("HTTPS_PROXY", f"http://ward:pa%20ss@{address}")
        right = doctor_path.check_connection(way(fake))
        assert (right.state, "as the user ward" in right.seen) == ("ok", True)
        assert doctor_path.check_tls(way(fake), AUTHORITY.pem).state == "ok"
        assert "pa ss" not in f"{without}{right}"


@pytest.mark.parametrize(
    ("answer", "seen", "remedy"),
    [
        (SCHEMES, "asks for NTLM or Negotiate (HTTP 407), which is not spoken here", "helper"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "does not let 127.0.0.1 through (HTTP 403)", "allow CONNECT"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer as a proxy does", "HTTPS_PROXY"),
        (b"", "does not answer as a proxy does", "HTTPS_PROXY"),
    ],
)  # fmt: skip
def test_what_a_proxy_says_is_put_into_words(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, answer: bytes, seen: str, remedy: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as made:
                made.recv(4096)
                made.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        found = doctor_path.check_connection(way(fake))
        thread.join()
    assert found.state == "fail"
    assert seen in found.seen
    assert remedy in found.remedy


def test_nobody_at_the_other_end_is_told_with_what_to_ask() -> None:
    nobody = Way("https://127.0.0.1:1", None)
    found = doctor_path.check_connection(nobody)
    assert (found.state, found.seen) == ("fail", "127.0.0.1:1 refuses connections")
    unknown = doctor_path.check_name(Way("https://no-such-host.invalid", None))
    assert (unknown.state, "DNS" in unknown.remedy) == ("fail", True)
    assert doctor_path.check_name(nobody).state == "ok"


def test_interception_is_named_whether_trusted_or_not(
    fake: FakeCoordinator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    upstream = tmp_path / "federation.pem"
    upstream.write_text(AUTHORITY.pem)
    with Interceptor(upstream) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        unknown = doctor_path.check_tls(way(fake), AUTHORITY.pem)
        assert unknown.state == "fail"
        assert "'Hospital inspection CA'" in unknown.seen
        assert "SSL_CERT_FILE" in unknown.remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
        trusted = doctor_path.check_tls(way(fake), AUTHORITY.pem)
        assert trusted.state == "warn"
        assert "a proxy on the way opens TLS" in trusted.seen
        assert "can read what leaves" in trusted.remedy
        assert {finding.state for finding in doctor_asks.check_coordinator(asker(fake))} == {"ok"}


def test_a_certificate_of_the_federation_for_another_name_is_the_coordinators_fault(fake: FakeCoordinator) -> None:
    class Elsewhere(Way):
        @property
        def target(self) -> tuple[str, int]:
            return "localhost", super().target[1]

    there = Elsewhere(fake.url, None)
    found = doctor_path.check_tls(there, AUTHORITY.pem, lambda _way: doctor_path.reach(Way(fake.url, None)))
    assert (found.state, "tell the coordinator" in found.remedy) == ("fail", True)


def test_what_is_not_tls_is_told(fake: FakeCoordinator) -> None:
    def dial(_way: Way) -> socket.socket:
        near, far = socket.socketpair()
        far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        far.close()
        return near

    found = doctor_path.check_tls(way(fake), AUTHORITY.pem, dial)
    assert (found.state, "TLS" in found.seen) == ("fail", True)


def test_tls_through_a_proxy_that_speaks_tls_itself(fake: FakeCoordinator, tmp_path: Path) -> None:
    """The certificate is read through TLS in TLS."""
    (tmp_path / "proxy.pem").write_bytes(AUTHORITY.issue("127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "proxy.pem")

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def proxy(far: socket.socket) -> None:
        with context.wrap_socket(far, server_side=True) as outer, doctor_path.reach(Way(fake.url, None)) as inner:
            back = threading.Thread(target=copy, args=(inner, outer))
            back.start()
            copy(outer, inner)
            inner.shutdown(socket.SHUT_RDWR)
            back.join()

    def dial(_way: Way) -> socket.socket:
        near, far = socket.socketpair()
        threading.Thread(target=proxy, args=(far,)).start()
        client = ssl.create_default_context(cadata=AUTHORITY.pem)
        return client.wrap_socket(near, server_hostname="127.0.0.1")

    assert doctor_path.check_tls(way(fake), AUTHORITY.pem, dial).state == "ok"
