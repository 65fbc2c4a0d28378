"""A small coordinator for tests of the site's half: really HTTPS, really signed, and able to misbehave."""

from __future__ import annotations

import hashlib
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from proxies import MadeUpAuthority

from wardround.core.frozen import Frozen
from wardround.runtimes.https.client import Client
from wardround.runtimes.https.connection import connect, tls
from wardround.runtimes.https.patience import Patience
from wardround.runtimes.https.signing import Message, public_hex, sign_response, verify_request
from wardround.runtimes.https.wire import Federation

AUTHORITY = MadeUpAuthority("Federation CA")
SERVER = AUTHORITY.issue("127.0.0.1")


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.target.partition("?")[2].split("&") if pair)


@dataclass
class Said:
    """What is answered, and how badly."""

    body: bytes = b"{}"
    status: int = 200
    signed: bool = True
    key: Ed25519PrivateKey | None = None  # signs in the coordinator's place
    body_signed: bytes | None = None  # what the signature is about, where that is another body
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # the connection breaks after so many bytes of the body
    answers: Asked | None = None  # the request that the signature is about, where that is another one


def say(value: Frozen, status: int = 200) -> Said:
    return Said(value.canonical().encode(), status)


class FakeCoordinator:
    """``answer`` decides what is said; requests are kept in ``asked``, bytes of bodies that arrived in ``bytes_in``."""

    def __init__(self, answer: Callable[[Asked], Said]) -> None:
        self.answer, self.asked = answer, list[Asked]()
        self.key, self.lock = Ed25519PrivateKey.generate(), threading.Lock()
        self.federation = Federation(
            id="f" * 32, name="Trial", software="0.1", key=public_hex(self.key), authority=AUTHORITY.pem
        )
        self.site_key = Ed25519PrivateKey.generate()
        self.bytes_in = 0
        self._clients: list[Client] = []
        self.stop_reading_at: int | None = None  # of the bodies' bytes: then the connection breaks, once
        self._server = _server(self)
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeCoordinator:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *why: object) -> None:
        for client in self._clients:
            client.close()
        self._server.shutdown()
        self._server.server_close()

    def client(self, tries: int | None = 1, **options: Any) -> Client:
        patience = Patience(tries=tries, pause=lambda _seconds: None)
        link = connect(self.url, tls(AUTHORITY.pem))
        client = Client(link, self.site_key, self.federation, patience=patience, **options)
        self._clients.append(client)
        return client

    def of(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]


def _server(fake: FakeCoordinator) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def do_PUT(self) -> None:
            self._serve()

        def _serve(self) -> None:
            body = self._body()
            if body is None:
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, body, id(self.connection))
            signed = verify_request(asked.method, asked.target, headers, lambda _: fake.site_key.public_key())
            assert signed.digest == hashlib.sha256(body).digest()
            with fake.lock:
                fake.asked.append(asked)
            self._say(asked, fake.answer(asked))

        def _body(self) -> bytes | None:
            left, body = int(self.headers.get("content-length", 0)), bytearray()
            while left:
                block = self.rfile.read(min(left, 1 << 14))
                body += block
                left -= len(block)
                with fake.lock:
                    fake.bytes_in += len(block)
                    cut = fake.stop_reading_at is not None and fake.bytes_in >= fake.stop_reading_at
                    fake.stop_reading_at = None if cut else fake.stop_reading_at
                if cut or not block:
                    self._break()
                    return None
            return bytes(body)

        def _say(self, asked: Asked, said: Said) -> None:
            headers = {"content-length": str(len(said.body)), "content-type": "application/json", **said.headers}
            about = said.answers or asked
            if said.signed:
                digest = hashlib.sha256(said.body if said.body_signed is None else said.body_signed).digest()
                request = Message.of(about.method, about.target, about.headers)
                headers |= sign_response(said.key or fake.key, said.status, digest, request)
            self.send_response(said.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said.body[: said.cut])
            if said.cut is not None:
                self._break()

        def _break(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def get_request(self) -> tuple[Any, Any]:
            plain, address = super().get_request()
            return context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # clients hang up

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        pem = Path(folder) / "server.pem"
        pem.write_bytes(SERVER)
        context.load_cert_chain(pem)
    return Server(("127.0.0.1", 0), Handler)


@contextmanager
def serving(answer: Callable[[Asked], Said]) -> Iterator[FakeCoordinator]:
    with FakeCoordinator(answer) as fake:
        yield fake
