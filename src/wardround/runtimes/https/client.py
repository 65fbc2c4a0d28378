"""A site's (or person's) half of every request: signed; and no answer counts that the coordinator did not sign."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import urllib3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from wardround.core.errors import WardRoundError
from wardround.core.frozen import Frozen
from wardround.runtimes.https import connection
from wardround.runtimes.https.connection import Link, connect, tls
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.patience import Patience, Unreachable, Untrusted
from wardround.runtimes.https.signing import (
    BadSignature,
    Message,
    public_from_hex,
    sign_request,
    verify_response,
)
from wardround.runtimes.https.wire import MESSAGE, Federation, Refused

M = TypeVar("M", bound=Frozen)
Kind = str
Method = Literal["GET", "POST", "PUT"]
Leaving = Callable[[Kind, bytes], None]
IDLE = 30.0  # seconds after which a connection may have been cut on the way without anybody being told
SLOWEST = 300.0  # seconds for the body of one message, once it began


class Rejected(WardRoundError):
    """The coordinator refused, and signed that."""

    def __init__(self, refused: Refused) -> None:
        self.code, self.refused = refused.code, refused
        super().__init__(f"the coordinator refused: {refused.message}" if refused.message else refused.code)


class Busy(Unreachable):
    """The coordinator asks to come again, or saw a nonce before: the same request signed anew may pass."""


class Client:
    """Signed requests to one coordinator. Threads may share it."""

    def __init__(
        self,
        link: Link,
        key: Ed25519PrivateKey,
        federation: Federation,
        *,
        patience: Patience | None = None,
        leaving: Leaving = lambda _kind, _body: None,
        warn: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """``leaving`` is told of every body before it is sent; ``warn`` of a wrong clock, once."""
        self.link, self.patience = link, patience or Patience()
        self._key, self._federation, self._leaving, self._warn = key, federation, leaving, warn
        self._coordinator = public_from_hex(federation.key)
        self._offset = 0  # seconds to add to this machine's clock
        self._used = time.monotonic()

    def use(self, link: Link, key: Ed25519PrivateKey) -> None:
        """From now on sign with another key; the link's certificate belongs to it."""
        self.link.close()
        self.link, self._key = link, key

    def close(self) -> None:
        """End idle connections; the client can still be used."""
        self.link.close()

    def call(
        self,
        method: Method,
        target: str,
        body: Frozen | bytes | None,
        answer: type[M],
        kind: Kind = "",
        wait: float = 0.0,
        digest: bytes | None = None,
    ) -> M:
        """Send a message and return the answer; one try.

        Args:
            method: of HTTP.
            target: path, with query.
            body: a message, or bytes as they are.
            answer: type of what comes back.
            kind: what the body is called in the log of what left.
            wait: how long the coordinator may hold the request open, in seconds.
            digest: SHA-256 of the body, where it is known.

        Raises:
            Rejected: the coordinator refused.
            Unreachable: trying again may help.
        """
        data = body.canonical().encode() if isinstance(body, Frozen) else body or b""
        said = self.exchange(method, target, data, kind, wait=wait, digest=digest)
        try:
            return answer.model_validate_json(said)
        except ValidationError as error:
            place = target.partition("?")[0]
            raise WardRoundError(
                f"the coordinator's answer to {place} is not understood: is its software of another version?"
            ) from error

    def insist(
        self,
        method: Method,
        target: str,
        body: Frozen | bytes | None,
        answer: type[M],
        kind: Kind = "",
        going: Callable[[], None] = lambda: None,
    ) -> M:
        """As `call`, again and again as `patience` allows; ``going`` is called before each try and may raise."""
        return self.patience.persist(lambda: self.call(method, target, body, answer, kind), going)

    def exchange(
        self,
        method: str,
        target: str,
        data: bytes,
        kind: Kind = "",
        *,
        wait: float = 0.0,
        bound: int = MESSAGE,
        digest: bytes | None = None,
    ) -> bytes:
        """As `call`, with bytes: at most ``bound`` of them come back."""
        with self.open(method, target, data, kind, wait=wait, digest=digest) as response:
            return response.whole(bound)

    @contextlib.contextmanager
    def open(
        self,
        method: str,
        target: str,
        data: bytes = b"",
        kind: Kind = "",
        *,
        wait: float = 0.0,
        digest: bytes | None = None,
    ) -> Iterator[Incoming]:
        """An answer whose status and body digest are the coordinator's; its body is still to be read.

        A clock that is off is put right once, with the time that the coordinator signed.

        Raises:
            Rejected, Unreachable: see `call`.
        """
        if data:
            self._leaving(kind, data)
        digest = digest or hashlib.sha256(data).digest()
        response = self._send(method, target, data, digest, wait)
        try:
            refused = self._refused(response)
            if refused is not None and refused.code == "clock" and refused.now:
                self._set_clock(refused.now)
                response.close()
                response = self._send(method, target, data, digest, wait)
                refused = self._refused(response)
            if refused is not None:
                raise _error(refused)
            yield response
        finally:
            response.close()

    def _send(self, method: str, target: str, data: bytes, digest: bytes, wait: float) -> Incoming:
        if time.monotonic() - self._used > IDLE:
            self.link.close()
        created = int(time.time()) + self._offset
        headers = sign_request(self._key, method, target, self._federation.id, digest, created)
        headers["cache-control"] = "no-store, no-transform"
        headers["user-agent"] = "wardround"
        if data:
            headers["content-type"] = "application/octet-stream" if method == "PUT" else "application/json"
        try:
            body = data if data or method != "GET" else None
            raw = self.link.send(method, target, headers, body, connection.READ + wait)
            return Incoming(self.link, raw, self._verified(raw, Message.of(method, target, headers)))
        except connection.ERRORS as error:
            raise Unreachable(self.link.in_words(error)) from error
        finally:
            self._used = time.monotonic()

    def _verified(self, raw: urllib3.BaseHTTPResponse, request: Message) -> bytes:
        """The SHA-256 of the body, as the coordinator signed it."""
        try:
            return verify_response(raw.status, dict(raw.headers), request, self._coordinator).digest
        except BadSignature as error:
            raw.close()
            raise Untrusted(stranger(self.link, raw, error), raw.status) from error

    def _refused(self, response: Incoming) -> Refused | None:
        if response.status < 400:
            return None
        try:
            return Refused.model_validate_json(response.whole(MESSAGE))
        except ValidationError as error:
            raise Unreachable(f"the coordinator failed (HTTP {response.status})") from error

    def _set_clock(self, now: int) -> None:
        self._offset = now - int(time.time())
        self._warn(
            f"this machine's clock is {abs(self._offset)} s {'behind' if self._offset > 0 else 'ahead of'} the "
            "coordinator's: set it (NTP); until then the coordinator's time is used"
        )


def link_of(home: Home, settings: SiteSettings) -> Link:
    """The way to a site's coordinator, with the site's client certificate."""
    return connect(settings.url, tls(settings.federation.authority, home.certificate, home.key_file))


def client_of(home: Home, settings: SiteSettings, **options: Any) -> Client:
    """A site's client; ``options`` are those of `Client`. Raises StorageError, InputError (the proxy)."""
    return Client(link_of(home, settings), home.key(), settings.federation, **options)


class Incoming:
    """An answer whose body is being read. The digest is checked by whoever reads."""

    def __init__(self, link: Link, raw: urllib3.BaseHTTPResponse, digest: bytes) -> None:
        self._link, self._raw, self.status, self.digest = link, raw, raw.status, digest

    def blocks(self, size: int = 1 << 16) -> Iterator[bytes]:
        """The body as it arrives. Raises Unreachable where it breaks off."""
        while True:
            try:
                block = self._raw.read(size)
            except connection.ERRORS as error:
                raise Unreachable(self._link.in_words(error)) from error
            if not block:
                return
            yield block

    def whole(self, bound: int) -> bytes:
        """The body, verified. Raises Untrusted where it is not what was signed, or longer than ``bound``."""
        begin, body = time.monotonic(), bytearray()
        for block in self.blocks():
            body += block
            if len(body) > bound or time.monotonic() - begin > SLOWEST:
                raise Untrusted(f"an answer is longer than the {bound} bytes that it may have, or never ends")
        if hashlib.sha256(body).digest() != self.digest:
            raise Untrusted("an answer was changed on the way: its body is not the one that the coordinator signed")
        return bytes(body)

    def close(self) -> None:
        """Give the connection back where the body was read, else end it."""
        if self._raw.closed or self._raw.length_remaining == 0:
            self._raw.release_conn()
        else:
            self._raw.close()


def _error(refused: Refused) -> WardRoundError:
    rejected = Rejected(refused)
    return Busy(str(rejected)) if refused.code in ("busy", "replayed") else rejected


def stranger(link: Link, raw: urllib3.BaseHTTPResponse, error: Exception | str) -> str:
    """Who may have answered in the coordinator's place."""
    kind = "".join(c for c in raw.headers.get("content-type", "no content type")[:60] if c.isprintable())
    way = f"the proxy {link.proxy.url}" if link.proxy is not None else "a proxy, a firewall's login page"
    return (
        f"what answered for {link.url} (HTTP {raw.status}, {kind}) is not the coordinator: {error}. "
        f"Probably {way}, or another program on that host"
    )
