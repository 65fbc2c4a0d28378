"""uvicorn's HTTP protocol, with what it lacks: client certificates, and limits on heads and connections."""

from __future__ import annotations

import asyncio
import logging
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = 64 << 10  # bytes of a request's head
TOO_LONG = f"the head of a request was longer than {HEAD} bytes"
PATIENCE = 30.0  # seconds for a whole head, and for the rest of a body that nobody reads
CONNECTIONS = 1000
AHEAD = 1 << 20  # bytes of a body that are read before the application asks for them
_FAULTS = logging.getLogger("uvicorn.error.connection")
_FAULTS.setLevel(logging.ERROR)


class Connection(HttpToolsProtocol):
    """One connection. The application finds it as ``scope["state"]["connection"]``."""

    most: ClassVar[int] = CONNECTIONS
    patience: ClassVar[float] = PATIENCE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.logger = _FAULTS  # what it warns of is said by the application, with the address, and in the audit log
        self._malformed = False
        self.admitted = False  # set by the application when a request was signed as it must be
        self._since = self.loop.time()
        self._head, self._in_head, self._in_body = 0, True, False
        self._bodied = False  # whether what came last held some of a body
        self._limit: asyncio.TimerHandle | None = None
        tls = transport.get_extra_info("ssl_object")
        certificate = None if tls is None else tls.getpeercert(True)
        self.app_state = {**self.app_state, "connection": self, "peer_certificate": certificate}
        self._expect()
        if len(self.connections) > self.most:
            self._make_room()

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._bodied = False
        super().data_received(data)
        if self._in_head or (self._in_body and not self._bodied):  # in a body: lines between chunks, and trailers
            self._head += len(data)
            if self._head > HEAD:
                self._tell(TOO_LONG)
                self.abort()

    def send_400_response(self, msg: str) -> None:
        """See `HttpToolsProtocol`: what came is no HTTP."""
        self._tell("what came is not HTTP")
        super().send_400_response(msg)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head, self._in_head = 0, True
        if self._limit is None:
            self._expect()

    def on_headers_complete(self) -> None:
        """Its head is whole. It may have come in one piece, before it was counted."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD:
            self._tell(TOO_LONG)
            raise ValueError(TOO_LONG)  # the parser gives up, and `send_400_response` answers
        self._head, self._in_head, self._in_body = 0, False, True
        self._relax()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some of its body came. As in uvicorn, but for the limit: pausing every 64 KiB costs uploads a third."""
        self._bodied, self._head = True, 0
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > AHEAD:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        """Its body came to its end."""
        self._in_body = False
        self._relax()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """It was answered, perhaps before its body came: the rest is thrown away, but not for ever."""
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._expect()

    def abort(self) -> None:
        """Cut the connection."""
        self._relax()
        self.transport.abort()

    def _tell(self, why: str) -> None:
        """Once a connection: it ends with this."""
        malformed = getattr(self.app, "malformed", None)
        if malformed is not None and not self._malformed:
            self._malformed = True
            malformed(str(self.client[0]) if self.client else "?", why)

    def _expect(self) -> None:
        self._relax()
        self._limit = self.loop.call_later(self.patience, self.abort)

    def _relax(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _make_room(self) -> None:
        """Too many: who never showed a good signature goes first, then who asks nothing; the oldest of them."""
        idle = [one for one in self.connections if isinstance(one, Connection) and not (one.admitted and one.busy)]
        min(idle, key=lambda one: (one.admitted, one._since), default=self).abort()
