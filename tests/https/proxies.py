"""A hospital's proxy that opens TLS, with an authority of its own: it reads, records, limits and may lie.

``with Interceptor(upstream_ca=...) as proxy`` is asked by CONNECT (``HTTPS_PROXY=http://127.0.0.1:port``); with
``target=(host, port)`` it sits in front of one server instead. Clients must trust ``proxy.ca``. Every exchange that
went through is in ``proxy.seen``; ``change`` may replace an answer before it is passed on. For tests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httptools
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from throttle import Address, Background


class MadeUpAuthority:
    """A certificate authority that signs whatever it is asked for."""

    def __init__(self, name: str = "Hospital inspection CA") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        limits = x509.BasicConstraints(ca=True, path_length=0)
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = self._builder(self.name, self.key.public_key()).add_extension(limits, True).add_extension(usage, True)
        known = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
        self.certificate = builder.add_extension(known, False).sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def issue(self, host: str) -> bytes:
        """Certificate and key for a host, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:60])])
        built = (
            self._builder(subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName([name]), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .sign(self.key, hashes.SHA256())
        )
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return built.public_bytes(Encoding.PEM) + secret

    def _builder(self, subject: x509.Name, key: Any) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=30))


@dataclass
class Exchange:
    """One request and its answer, in the clear."""

    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int = 0
    answer_headers: dict[str, str] = field(default_factory=dict)
    answer: bytes = b""
    raw: bytes = b""  # the answer as it stood on the wire
    raw_request: bytes = b""


Change = Callable[[Exchange, list[Exchange]], bytes | None]


class Interceptor(Background):
    """See the module."""

    def __init__(
        self,
        upstream_ca: Path | None = None,
        target: Address | None = None,
        change: Change | None = None,
        body_limit: int | None = None,
        forwarded: str | None = None,
    ) -> None:
        """``forwarded``: speak plain HTTP to the server and say that a request came from this address."""
        super().__init__()
        self._forwarded = forwarded
        self.authority = MadeUpAuthority()
        self.seen: list[Exchange] = []
        self._target, self.change, self._limit = target, change, body_limit
        self._upstream = ssl.create_default_context(cafile=None if upstream_ca is None else str(upstream_ca))
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="wardround-proxy-")
        self.ca = Path(self._folder.name) / "inspection-ca.pem"
        self.ca.write_text(self.authority.pem)

    def __exit__(self, *why: Any) -> None:
        super().__exit__(*why)
        self._folder.cleanup()

    async def _open(self) -> None:
        self.port = await self._listen(self._serve)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far: asyncio.StreamWriter | None = None
        try:
            target = self._target
            if target is None:
                head = (await reader.readuntil(b"\r\n\r\n")).split()
                host, _, port = head[1].decode().rpartition(":")
                target = (host, int(port))
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await writer.drain()
            await writer.start_tls(self._context(target[0]))
            back, far = await self._reach(target)
            while True:
                request = _Parsed(httptools.HttpRequestParser)
                raw = await request.read(reader)
                if back.at_eof() or far.is_closing():  # the server ended an idle connection
                    far.transport.abort()
                    back, far = await self._reach(target)
                if not await self._exchange(request, raw, writer, back, far):
                    break
        except (OSError, asyncio.IncompleteReadError, httptools.HttpParserError):
            pass
        finally:
            for end in (writer, far):
                if end is not None:
                    end.transport.abort()

    def _told(self, this: Exchange) -> bytes:
        """As nginx with ``X-Forwarded-For $proxy_add_x_forwarded_for``."""
        before = this.headers.get("x-forwarded-for")
        addresses = f"{before}, {self._forwarded}" if before else self._forwarded
        head, body = this.raw_request.split(b"\r\n\r\n", 1)
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"x-forwarded-for:")]
        return b"\r\n".join([*kept, f"X-Forwarded-For: {addresses}".encode(), b"", body])

    async def _reach(self, target: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._forwarded is not None:
            return await asyncio.open_connection(*target)
        return await asyncio.open_connection(*target, ssl=self._upstream, server_hostname=target[0])

    async def _exchange(
        self,
        request: _Parsed,
        raw: bytes,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamReader,
        far: asyncio.StreamWriter,
    ) -> bool:
        this = Exchange(raw_request=raw)
        this.method, this.target = request.parser.get_method().decode(), request.url
        this.headers, this.body = request.headers, bytes(request.body)
        if self._limit is not None and len(this.body) > self._limit:
            this.status, this.raw = 413, b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n"
        else:
            far.write(this.raw_request if self._forwarded is None else self._told(this))
            await far.drain()
            answer = _Parsed(httptools.HttpResponseParser)
            this.raw = await answer.read(back)
            this.status, this.answer_headers = answer.parser.get_status_code(), answer.headers
            this.answer = bytes(answer.body)
        changed = self.change(this, self.seen) if self.change is not None else None
        self.seen.append(this)
        writer.write(this.raw if changed is None else changed)
        await writer.drain()
        return bool(this.answer_headers.get("connection", "").lower() != "close")

    def _context(self, host: str) -> ssl.SSLContext:
        if host not in self._contexts:
            file = Path(self._folder.name) / f"{len(self._contexts)}.pem"
            file.write_bytes(self.authority.issue(host))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(file)
            self._contexts[host] = context
        return self._contexts[host]


class _Parsed:
    """One whole message from a stream; nothing beyond it is read, for the other side waits for the answer."""

    def __init__(self, kind: Any) -> None:
        self.parser = kind(self)
        self.url, self.headers, self.body, self.done = "", dict[str, str](), bytearray(), False

    async def read(self, reader: asyncio.StreamReader) -> bytes:
        raw = bytearray()
        while not self.done:
            data = await reader.read(1 << 16)
            if not data:
                raise asyncio.IncompleteReadError(bytes(raw[:100]), None)
            raw += data
            with contextlib.suppress(httptools.HttpParserUpgrade):
                self.parser.feed_data(data)
        return bytes(raw)

    def on_url(self, url: bytes) -> None:
        self.url += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.done = True


def http_response(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """The bytes of an answer."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if name != "content-length")
    return f"HTTP/1.1 {status} X\r\n{head}content-length: {len(body)}\r\n\r\n".encode("latin-1") + body
