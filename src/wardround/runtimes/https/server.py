"""The coordinator's server: TLS, uvicorn, and what has to be done now and then."""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from wardround.core.errors import InputError, StorageError
from wardround.runtimes.https.app import App, Certificates
from wardround.runtimes.https.authority import server_files
from wardround.runtimes.https.forwarded import near
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.protocol import CONNECTIONS, Connection

GRACE = 10  # seconds that a stopping server gives requests
FILES = 8 * CONNECTIONS
IDLE = 75  # seconds that a connection is kept for the next request: longer than hospitals' proxies keep theirs


@dataclass(frozen=True)
class Serving:
    """How to serve."""

    host: str = "0.0.0.0"  # noqa: S104 - hospitals come from outside
    port: int | None = None  # None: the one in the federation's address; 0: any
    certificates: Certificates = "off"
    metrics: str | None = None  # HOST:PORT of the listener for metrics
    certificate: Path | None = None  # of a public authority, with `key`: instead of our own
    key: Path | None = None
    behind_proxy: bool = False  # a reverse proxy next to us tells callers' addresses
    plain: bool = False  # HTTP: TLS ends at that proxy


class Server:
    """Serves one office until it is stopped."""

    def __init__(self, office: Office, serving: Serving | None = None) -> None:
        """Raises InputError where ways of serving do not go together, StorageError where it cannot listen."""
        self.office, self.serving = office, serving or Serving()
        _check(self.serving)
        self.app = App(office, self.serving.certificates, behind_proxy=self.serving.behind_proxy)
        self._tls = None if self.serving.plain else self._context()
        self._socket = self._listen()
        self.port: int = self._socket.getsockname()[1]
        config = uvicorn.Config(
            self.app,
            http=Connection,
            ws="none",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=GRACE,
            ssl_context_factory=None if self._tls is None else self._given_context,
        )
        self._server = _Uvicorn(config, self.app)

    def run(self, started: Callable[[int], None] | None = None) -> None:
        """Serve until `stop` or a signal; ``started`` is told the port when requests are taken.

        Raises:
            StorageError: another process serves this folder.
        """
        _allow_files()
        with closing(self._socket), self.office.lock(), self._metrics():
            asyncio.run(self._run(started))

    def stop(self) -> None:
        """End soon; from any thread."""
        self._server.should_exit = True

    async def _run(self, started: Callable[[int], None] | None) -> None:
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not (self._server.started or serving.done()):
            await asyncio.sleep(0.01)
        chores = asyncio.create_task(self._chores())
        if started is not None and not serving.done():
            started(self.port)
        try:
            await serving
        finally:
            chores.cancel()
            with suppress(asyncio.CancelledError):
                await chores

    def _given_context(self, *_: object) -> ssl.SSLContext:
        assert self._tls is not None  # noqa: S101 - otherwise uvicorn was given nothing to ask
        return self._tls

    def _listen(self) -> socket.socket:
        host, port = self.serving.host, self.serving.port
        port = self.office.settings.port if port is None else port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With its protocol named: otherwise asyncio leaves Nagle's algorithm on, and each answer waits 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            listener.close()
            raise StorageError(f"cannot listen at {host}:{port}: {error.strerror}") from error
        return listener

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        self._load(context)
        if self.serving.certificates != "off":
            # Optional even where it is required: whoever joins has none yet. The application insists.
            context.verify_mode = ssl.CERT_OPTIONAL
            context.load_verify_locations(cadata=self.office.authority.pem)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        certificate, key = self.serving.certificate, self.serving.key
        if certificate is None:
            hosts = [self.office.settings.host]
            certificate, key = server_files(self.office.folder, self.office.authority, hosts)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as error:
            raise StorageError(f"the certificate {certificate} cannot be used: {error}") from error

    async def _chores(self) -> None:
        """What has to be done now and then; no fault in it ends the server."""
        for minute in itertools.count():
            try:
                await asyncio.to_thread(self.app.tell_left_out)
                if minute % 60 == 0:
                    await asyncio.to_thread(self._each_hour)
            except Exception:
                logging.getLogger("wardround.network").exception("chores", extra={"facts": {}})
            await asyncio.sleep(60)

    def _each_hour(self) -> None:
        """Renew the certificate near its end, forget old nonces, delete what was left behind."""
        if self._tls is not None:
            self._load(self._tls)
        self.office.store.sweep()
        freed = self.office.store.tidy()
        if freed:
            say("tidied", bytes=freed)

    @contextmanager
    def _metrics(self) -> Iterator[None]:
        if self.serving.metrics is None:
            yield
            return
        listener = self.app.metrics.listen(self.serving.metrics)
        try:
            yield
        finally:
            listener.shutdown()
            listener.server_close()


def _check(serving: Serving) -> None:
    """Raises InputError."""
    if serving.plain and not serving.behind_proxy:
        raise InputError("--plain-http is for a coordinator behind a reverse proxy that ends TLS: add --behind-proxy")
    if serving.plain and not near(serving.host):
        raise InputError(
            "--plain-http needs --listen with a loopback or private address, as 127.0.0.1:8080: without TLS whoever "
            "is on the way can read the models"
        )
    if serving.plain and serving.certificate is not None:
        raise InputError("--plain-http shows no certificate: give --certificate and --key to the proxy")
    if serving.behind_proxy and serving.certificates != "off":
        raise InputError("client certificates end at a reverse proxy: leave out --client-certificates")


def _allow_files() -> None:
    """Every connection is an open file, and many systems allow 1024 unless asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Uvicorn(uvicorn.Server):
    """Ends long polls before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, app: App) -> None:
        super().__init__(config)
        self._app = app

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the serving, and `Server.run` returns; uvicorn would raise them again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        say("stopping")
        await self._app.stop()
        await super().shutdown(sockets)
