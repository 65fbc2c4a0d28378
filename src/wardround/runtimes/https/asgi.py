"""One request and its response, in terms of ASGI: bounded in size and in time."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import Message

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

STEP = 64 << 10  # so many bytes must come or go within the pace's seconds
PACE = 60.0
ONCE = ("signature", "signature-input", "content-digest", "content-length", "wardround-federation")
_TARGET = re.compile(r"/[A-Za-z0-9/_.-]{0,400}(\?[A-Za-z0-9=&_.-]{0,300})?\Z")


class Gone(Exception):
    """Whoever asked has hung up."""


class TooSlow(Refusal):
    """A body drips."""

    def __init__(self) -> None:
        super().__init__("busy", f"the request's body was too slow: {STEP} bytes must come in {PACE:.0f} seconds")

    @property
    def status(self) -> int:
        """Request timeout."""
        return 408


@dataclass
class Exchange:
    """A request, and the way to answer it."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]  # names in lower case
    message: Message  # what a response's signature refers to
    address: str
    state: Mapping[str, Any]  # of the connection
    receive: Receive
    send: Send
    twice: tuple[str, ...] = ()  # headers that came more than once and must not
    started: bool = False  # the response
    whole: bool = False  # the request's body has come
    pace: float = PACE
    facts: dict[str, Any] = field(default_factory=dict)  # for the log: who, which endpoint

    @classmethod
    def of(cls, scope: Scope, receive: Receive, send: Send, pace: float = PACE) -> Exchange:
        """From an ASGI scope."""
        headers: dict[str, str] = {}
        twice = []
        for raw, value in scope["headers"]:
            name = raw.decode("latin-1").lower()
            if name in headers and name in ONCE:
                twice.append(name)
            headers[name] = value.decode("latin-1").strip()
        path = scope.get("raw_path", scope["path"].encode()).decode("latin-1")
        query = scope.get("query_string", b"").decode("latin-1")
        target = f"{path}?{query}" if query else path
        message = Message.of(scope["method"], target, headers)
        client, state = scope.get("client"), scope.get("state", {})
        address = str(client[0]) if client else "?"
        return cls(
            scope["method"], path, query, headers, message, address, state, receive, send, tuple(twice), pace=pace
        )

    def check_form(self, most: int) -> int:
        """The bytes of the body to come, at most ``most``. Raises Refusal."""
        if _TARGET.match(self.message.target) is None or self.twice:
            raise Refusal("malformed", "not a path of this server, or a header that came twice")
        if "transfer-encoding" in self.headers or "content-encoding" in self.headers:
            raise Refusal("malformed", "a body comes as it is, with its length")
        text = self.headers.get("content-length", "0")
        if not (text.isascii() and text.isdigit() and len(text) <= 15):
            raise Refusal("malformed", "the length of the body is not a number")
        if int(text) > most:
            raise Refusal("too_large", f"at most {most} bytes are taken here")
        return int(text)

    async def read(self, size: int, take: Callable[[bytes], Awaitable[None] | None]) -> None:
        """Hand the body to ``take`` as it comes; what that returns is awaited before more is read.

        Raises:
            Refusal: it drips, or has another length than was said; or what ``take`` raises.
            Gone: it broke off.
        """
        came, step, loop = 0, 0, asyncio.get_running_loop()
        due = loop.time() + self.pace / 60  # a limit is moved now and then, not with every chunk
        try:
            async with asyncio.timeout(self.pace) as limit:
                while not self.whole:
                    event = await self.receive()
                    if event["type"] != "http.request":
                        raise Gone
                    data = event.get("body", b"")
                    came, step = came + len(data), step + len(data)
                    self.whole = not event.get("more_body", False)
                    if came > size or (self.whole and came != size):
                        raise Refusal("malformed", "the body has another length than was said")
                    if step >= STEP and (now := loop.time()) >= due:
                        step, due = 0, now + self.pace / 60
                        limit.reschedule(now + self.pace)
                    if (pending := take(data)) is not None:
                        await pending
        except TimeoutError:
            raise TooSlow from None

    async def body(self, size: int) -> bytes:
        """The whole of a small body; see `read`."""
        parts: list[bytes] = []
        await self.read(size, parts.append)
        return b"".join(parts)

    async def hung_up(self) -> None:
        """Returns when whoever asked hangs up; the body must have come."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def begin(self, status: int, headers: Headers, size: int) -> None:
        """Send the head of a response of ``size`` bytes."""
        self.started = True
        length = (b"content-length", str(size).encode())
        await self.send({"type": "http.response.start", "status": status, "headers": [*headers, length]})

    async def write(self, data: bytes, more: bool) -> None:
        """Send a part of the response's body. Raises Gone where it is not taken in time."""
        try:
            async with asyncio.timeout(self.pace):
                await self.send({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            self.drop()
            raise Gone from None

    def drop(self) -> None:
        """Cut the connection."""
        connection = self.state.get("connection")
        if connection is not None:
            connection.abort()


def check_body(body: bytes, digest: bytes) -> None:
    """Whether a body is what was signed. Raises Refusal."""
    check_digest(hashlib.sha256(body).digest(), digest)


def check_digest(came: bytes, signed: bytes) -> None:
    """Whether the SHA-256 of a body is the one that was signed. Raises Refusal."""
    if came != signed:
        raise Refusal("signature", "the body is not the one that was signed")
