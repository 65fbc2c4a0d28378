"""The coordinator as an ASGI application: admits, reads, answers, signs. What is answered is in `endpoints`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Literal, TypeVar

from cryptography.x509 import load_der_x509_certificate
from sqlalchemy.exc import SQLAlchemyError

from wardround.core.errors import StorageError
from wardround.core.frozen import Frozen
from wardround.runtimes.https.asgi import PACE, Exchange, Gone, Headers, Receive, Scope, Send, check_body
from wardround.runtimes.https.beats import Beats
from wardround.runtimes.https.bell import Bell
from wardround.runtimes.https.endpoints import Call
from wardround.runtimes.https.forms import read_json
from wardround.runtimes.https.forwarded import caller_address
from wardround.runtimes.https.guard import Caller, Guard
from wardround.runtimes.https.logs import Throttle, say
from wardround.runtimes.https.metrics import Metrics
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.routes import Route, find
from wardround.runtimes.https.signing import public_hex, sign_response
from wardround.runtimes.https.streams import serve
from wardround.runtimes.https.uploads import Uploads
from wardround.runtimes.https.wire import Join

T = TypeVar("T")
Certificates = Literal["off", "optional", "required"]
QUICK, SLOW = 2, 4  # threads for what reads; for what waits for the disk. More only wait for each other
AT_ONCE = 16  # requests of one key
SAW = 5.0  # seconds between notes of who called
JSON = (b"content-type", b"application/json")


class App:
    """One coordinator. Attributes are shared by its parts; `__call__` is the ASGI interface."""

    def __init__(
        self, office: Office, certificates: Certificates = "off", pace: float = PACE, behind_proxy: bool = False
    ) -> None:
        """A coordinator's application.

        Args:
            office: its folder.
            certificates: whether a client certificate must, or may, confirm who asks.
            pace: see `asgi.PACE`.
            behind_proxy: take callers' addresses from X-Forwarded-For; see `forwarded.caller_address`.
        """
        self.office, self.metrics = office, Metrics(office.store)
        self.bell, self.uploads = Bell(office.store), Uploads(office.store.blobs)
        self.guard = Guard(office.store, office.settings.id)
        self.throttle, self.beats = Throttle(), Beats()
        self._certificates, self._pace, self._behind_proxy = certificates, pace, behind_proxy
        self._quick = ThreadPoolExecutor(QUICK, thread_name_prefix="quick")
        self._slow = ThreadPoolExecutor(SLOW, thread_name_prefix="slow")
        self._busy: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            exchange = Exchange.of(scope, receive, send, self._pace)
            if self._behind_proxy:
                exchange.address = caller_address(exchange.address, exchange.headers)
            await self._http(exchange)

    async def start(self) -> None:
        """Begin to listen for changes."""
        self.bell.start()

    async def stop(self) -> None:
        """Let long polls end."""
        await self.bell.stop()

    async def quick(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run something short in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._quick, function, *arguments)

    async def slow(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run something that waits for the disk in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._slow, function, *arguments)

    def submit(self, function: Callable[[], object]) -> None:
        """As `slow`, without waiting for it."""
        with suppress(RuntimeError):  # the server is ending
            self._slow.submit(function)

    def signed(self, exchange: Exchange, status: int, body: bytes) -> tuple[Headers, bytes]:
        """A JSON response with its signature."""
        return [*self.signature(exchange, status, hashlib.sha256(body).digest()), JSON], body

    def signature(self, exchange: Exchange, status: int, sha256: bytes) -> Headers:
        """Headers that sign a response. What cannot be referred to (a request of strange bytes) gets none."""
        try:
            headers = sign_response(self.office.key, status, sha256, exchange.message)
        except Exception:  # noqa: BLE001 - whatever the library says to hostile headers: they are refused anyway
            return []
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    async def answer(self, exchange: Exchange, function: Callable[[], Frozen | bytes], quick: bool = False) -> None:
        """Run ``function`` in a thread, and send what it returns, signed."""

        def prepare() -> tuple[Headers, bytes]:
            value = function()
            return self.signed(exchange, 200, value if isinstance(value, bytes) else _json(value))

        headers, body = await (self.quick(prepare) if quick else self.slow(prepare))
        await exchange.begin(200, headers, len(body))
        await exchange.write(body, more=False)

    async def _http(self, exchange: Exchange) -> None:
        route, begin = find(exchange.method, exchange.path), time.perf_counter()
        name = route.name if route else "none"
        exchange.facts = {"endpoint": name, "address": exchange.address}
        status = "200"
        try:
            if route is None:
                exchange.check_form(0)
                raise Refusal("not_found", "there is nothing here")
            await self._serve(exchange, route)
        except Refusal as refusal:
            status = str(refusal.status)
            await self._refuse(exchange, refusal, refusal.status)
        except Gone:
            status = "gone"
            self._quietly("gone", exchange)
        except (StorageError, SQLAlchemyError, OSError) as error:
            status = "503"
            say("storage", logging.ERROR, error=type(error).__name__, **exchange.facts)
            await self._refuse(exchange, Refusal("busy", "the coordinator cannot read or write now"), 503)
        except Exception:  # a fault of ours must end neither the server nor the site
            status = "500"
            logging.getLogger("wardround.network").exception("fault", extra={"facts": exchange.facts})
            await self._refuse(exchange, Refusal("busy", "a fault of the coordinator: its log tells more"), 500)
        finally:
            self.metrics.requests.labels(name, status).inc()
            if route is None or route.kind != "poll":
                self.metrics.seconds.labels(name).observe(time.perf_counter() - begin)

    async def _serve(self, exchange: Exchange, route: Route) -> None:
        size = exchange.check_form(route.most)
        parts = route.parts(exchange.path)
        if route.kind == "open":
            await exchange.body(size)
            await self.answer(exchange, lambda: self._open(route))
            return
        if route.kind == "join":
            caller, body = await self._stranger(exchange, size)
            await self.answer(exchange, lambda: route.answers(self.office, Call(caller, parts, "", body)))
            return
        caller = await self.quick(self._admit, exchange)
        exchange.facts["who"] = caller.name
        if caller.role not in route.roles:
            raise Refusal("forbidden", "this is not for you")
        with self._turn(caller.key_id):
            await serve(self, exchange, route, Call(caller, parts, exchange.query), size)

    @contextmanager
    def _turn(self, key: str) -> Iterator[None]:
        """Counts the requests of a key that are served now."""
        if self._busy[key] >= AT_ONCE:
            raise Refusal("busy", f"at most {AT_ONCE} requests at once")
        self._busy[key] += 1
        try:
            yield
        finally:
            self._busy[key] -= 1
            if not self._busy[key]:
                del self._busy[key]

    def _open(self, route: Route) -> Frozen | bytes:
        if route.name == "federation":
            return self.office.federation
        if not self.office.store.healthy():
            raise StorageError("the database does not answer")
        return b'{"healthy":true}'

    def _admit(self, exchange: Exchange) -> Caller:
        message = exchange.message
        caller = self.guard.admit(message.method, message.target, exchange.headers)
        self._check_certificate(exchange, caller)
        connection = exchange.state.get("connection")
        if connection is not None:
            connection.admitted = True
        if self.beats.due(SAW, "saw", caller.name):
            self.office.store.saw(caller.name)
        return caller

    async def _stranger(self, exchange: Exchange, size: int) -> tuple[Caller, bytes]:
        message = exchange.message
        body = await exchange.body(size)
        request = read_json(body, Join)
        caller = await self.quick(self.guard.admit_new, message.method, message.target, exchange.headers, request)
        check_body(body, caller.body)
        return caller, body

    def _check_certificate(self, exchange: Exchange, caller: Caller) -> None:
        der = exchange.state.get("peer_certificate")
        if der is None and self._certificates == "required":
            raise Refusal("forbidden", "this coordinator asks for a client certificate")
        if der is None or self._certificates == "off":
            return
        key = load_der_x509_certificate(der).public_key()
        if public_hex(key) != caller.key:  # type: ignore[arg-type] # the authority signs Ed25519 keys alone
            raise Refusal("forbidden", "the client certificate is of another key")

    async def _refuse(self, exchange: Exchange, refusal: Refusal, status: int) -> None:
        code = refusal.code
        self.metrics.refusals.labels(code).inc()
        who = str(exchange.facts.get("who") or exchange.address)
        told = self.throttle.admit(who)
        facts = {**exchange.facts, "code": code, "message": refusal.message}

        def prepare() -> tuple[Headers, bytes]:
            if told:
                self._note_refusal(facts)
            return self.signed(exchange, status, _json(refusal.value()))

        if exchange.started:
            exchange.drop()
            return
        headers, body = await self.slow(prepare)
        if status in {408, 413}:
            headers.append((b"connection", b"close"))
        try:
            await exchange.begin(status, headers, len(body))
            await exchange.write(body, more=False)
        except Gone:
            return

    def malformed(self, address: str, why: str) -> None:
        """Something came that never was a request; called by the connection, in the event loop."""
        self.metrics.refusals.labels("malformed").inc()
        if self.throttle.admit(address):
            facts = {"endpoint": "none", "address": address, "code": "malformed", "message": why}
            self.submit(lambda: self._note_refusal(facts))

    def tell_left_out(self) -> None:
        """Say how many refusals were not written down one by one since this was last called."""
        left_out = self.throttle.left_out()
        if left_out:
            self._note_refusal({"left_out": left_out})

    def _note_refusal(self, facts: dict[str, Any]) -> None:
        say("refused", logging.WARNING, **facts)
        try:
            self.office.audit.append("refused", **facts)
        except StorageError as error:
            say("storage", logging.ERROR, error=str(error))

    def _quietly(self, event: str, exchange: Exchange) -> None:
        if self.throttle.admit(str(exchange.facts.get("who") or exchange.address)):
            say(event, **exchange.facts)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        self.uploads.close()
        self._quick.shutdown(wait=False)
        self._slow.shutdown(wait=False)
        await send({"type": "lifespan.shutdown.complete"})


def _json(value: Frozen) -> bytes:
    return value.model_dump_json().encode()
