"""The bad line and the inspecting proxy do what the trials rest on."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3
from proxies import Interceptor, MadeUpAuthority, http_response
from throttle import Line, Link, mbit

DATA = bytes(range(256)) * 800  # 204,800 bytes


@contextmanager
def echo(data: bytes = DATA) -> Iterator[int]:
    """Sends ``data`` to whoever connects, then returns the SHA-256 of what was sent until the end."""
    server = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(data)
                total = hashlib.sha256()
                while got := connection.recv(65536):
                    total.update(got)
                connection.sendall(total.digest())
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def talk(port: int, head: bytes = b"") -> tuple[bytes, bytes]:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(head)
        got = b""
        while len(got) < len(DATA) + (39 if head else 0):
            data = client.recv(65536)
            if not data:
                raise ConnectionResetError
            got += data
        client.sendall(DATA)
        client.shutdown(socket.SHUT_WR)
        digest = b""
        while data := client.recv(64):
            digest += data
        return got, digest


def test_a_slow_line_carries_every_byte_and_is_slow() -> None:
    with echo() as port, Link(Line(rate=mbit(8), delay=0.02), ("127.0.0.1", port)) as link:
        begin = time.monotonic()
        got, digest = talk(link.port)
        taken = time.monotonic() - begin
    assert got == DATA
    assert digest == hashlib.sha256(DATA).digest()
    assert taken >= 2 * len(DATA) / mbit(8)
    assert link.total() == {
        "up_taken": len(DATA), "up": len(DATA), "down_taken": len(DATA) + 32, "down": len(DATA) + 32,
        "connections": 1, "cut": 0,
    }  # fmt: skip


def test_connections_are_cut_and_the_same_seed_cuts_the_same() -> None:
    fates = []
    for _ in range(2):
        with echo() as port, Link(Line(cut=0.5, span=2 * len(DATA), seed=3), ("127.0.0.1", port)) as link:
            fates.append([])
            for _ in range(12):
                try:
                    fates[-1].append(talk(link.port)[1] == hashlib.sha256(DATA).digest())
                except OSError:
                    fates[-1].append(False)
            assert link.total()["cut"] == fates[-1].count(False)
    assert fates[0] == fates[1]
    assert {True, False} == set(fates[0])


def test_an_idle_connection_is_dropped_without_a_word() -> None:
    with (
        echo(b"x") as port,
        Link(Line(idle=0.1), ("127.0.0.1", port)) as link,
        socket.create_connection(("127.0.0.1", link.port), 30) as client,
    ):
        assert client.recv(10) == b"x"
        while not link.total()["cut"]:
            time.sleep(0.01)
        client.sendall(b"hello")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(10)


@pytest.mark.parametrize(
    ("login", "given", "through"),
    [(None, "", True), ("me:pw", "bWU6cHc=", True), ("me:pw", "", False), ("me:pw", "bWU6eA==", False)],
)
def test_a_proxy_asked_by_connect(login: str | None, given: str, through: bool) -> None:
    with echo() as port, Link(Line(), None, login) as link:
        ask = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {given}\r\n\r\n".encode()
        if through:
            assert talk(link.port, ask)[1] == hashlib.sha256(DATA).digest()
            assert link.counts[0].host == f"127.0.0.1:{port}"
        else:
            with socket.create_connection(("127.0.0.1", link.port), 30) as client:
                client.sendall(ask)
                assert client.recv(100).startswith(b"HTTP/1.1 407")
            assert link.refused == 1


@contextmanager
def tls_server(folder: Path) -> Iterator[tuple[int, Path]]:
    authority = MadeUpAuthority("Federation CA")
    (folder / "ca.pem").write_text(authority.pem)
    (folder / "server.pem").write_bytes(authority.issue("127.0.0.1"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with context.wrap_socket(connection, server_side=True) as secure, secure.makefile("rb") as lines:
                while first := lines.readline():
                    size = 0
                    while (line := lines.readline()) != b"\r\n":
                        size = int(line.split(b":")[1]) if line.lower().startswith(b"content-length") else size
                    body = lines.read(size)
                    secure.sendall(http_response(200, {"x-asked": first.decode().strip()}, body[::-1]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1], folder / "ca.pem"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def test_an_inspecting_proxy_reads_limits_and_lies(tmp_path: Path) -> None:
    with tls_server(tmp_path) as (port, ca), Interceptor(ca, body_limit=1000) as proxy:
        pool = urllib3.ProxyManager(f"http://127.0.0.1:{proxy.port}", ca_certs=str(proxy.ca), retries=False)
        answer = pool.request("POST", f"https://127.0.0.1:{port}/a?b=1", body=b"abc")
        assert (answer.status, answer.data) == (200, b"cba")
        assert (proxy.seen[0].target, proxy.seen[0].body, proxy.seen[0].answer) == ("/a?b=1", b"abc", b"cba")
        assert pool.request("POST", f"https://127.0.0.1:{port}/", body=b"a" * 1001).status == 413
        proxy.change = lambda _, seen: seen[0].raw
        assert pool.request("POST", f"https://127.0.0.1:{port}/", body=b"xyz").data == b"cba"
        with pytest.raises(urllib3.exceptions.SSLError):
            urllib3.ProxyManager(f"http://127.0.0.1:{proxy.port}", ca_certs=str(ca), retries=False).request(
                "GET", f"https://127.0.0.1:{port}/"
            )
        pool.clear()
