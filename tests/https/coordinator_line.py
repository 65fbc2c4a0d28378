"""A coordinator's server in a thread, and sites that ask it over TLS."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import threading
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from wardround.runtimes.https.office import Office
from wardround.runtimes.https.server import Server, Serving
from wardround.runtimes.https.signing import Message, public_hex, sign_request, verify_response
from wardround.runtimes.https.wire import PROTOCOL, Join

HOST = "127.0.0.1"


class Site:
    """One connection of a site that joined."""

    def __init__(self, office: Office, name: str = "A") -> None:
        self.office, self.key = office, Ed25519PrivateKey.generate()
        token = office.store.invite(name, "site", 1)
        asked = Join(token=token, name=name, key=public_hex(self.key), software="0.1", protocol=PROTOCOL)
        self.certificate = office.store.join(asked, office.certify).certificate
        self.context = ssl.create_default_context(cadata=office.authority.pem)

    def connect(self, port: int) -> None:
        self.line = http.client.HTTPSConnection(HOST, port, context=self.context, timeout=30)
        self.line.connect()
        self.line.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def headers(self, method: str, target: str, body: bytes = b"") -> dict[str, str]:
        digest = hashlib.sha256(body).digest()
        return sign_request(self.key, method, target, self.office.settings.id, digest)

    def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        headers = self.headers(method, target, body)
        self.line.request(method, target, body or None, headers)
        response = self.line.getresponse()
        data = response.read()
        request = Message.of(method, target, headers)
        signed = verify_response(response.status, dict(response.headers), request, self.office.key.public_key())
        assert signed.digest == hashlib.sha256(data).digest()
        return response.status, data


class Running:
    """A server in a thread."""

    def __init__(self, office: Office, port: int = 0, **serving: Any) -> None:
        self.server = Server(office, Serving(HOST, port, **serving))
        self.port = self.server.port
        ready = threading.Event()
        self._thread = threading.Thread(target=self.server.run, args=(lambda _: ready.set(),))
        self._thread.start()
        assert ready.wait(30)

    def socket(self, office: Office) -> ssl.SSLSocket:
        context = ssl.create_default_context(cadata=office.authority.pem)
        plain = socket.create_connection((HOST, self.port), timeout=30)
        return context.wrap_socket(plain, server_hostname=HOST)

    def stop(self) -> None:
        self.server.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()
