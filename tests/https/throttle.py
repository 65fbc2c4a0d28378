"""A bad line on loopback: slow, far away, and cut at random. For tests and trials only.

``with Link(Line(rate=mbit(20), delay=0.04, cut=0.01), target) as link:`` listens on ``link.port`` and passes
bytes on to ``target``, a (host, port); with ``target=None`` it is an HTTP proxy that is asked by CONNECT,
with ``login`` one that wants Basic authentication. As a process of its own (it prints its port, and its
counts as JSON when its input ends): ``python throttle.py --target 127.0.0.1:8443 --mbit 20 --rtt 0.08 --cut 0.01``.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import random
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Self

CHUNK = 16 << 10
BUFFER = 256 << 10  # of the kernel, each way: a sender must not believe that megabytes have arrived
Address = tuple[str, int]


def mbit(number: float) -> float:
    """Megabits a second in bytes a second."""
    return number * 1e6 / 8


@dataclass(frozen=True)
class Line:
    """What the line is like. All zeros: a perfect one, that counts."""

    rate: float = 0.0  # bytes a second in each direction, shared by all connections
    delay: float = 0.0  # seconds one way: half the round-trip time
    cut: float = 0.0  # this share of connections is cut at a random byte ...
    span: int = 4 << 20  # ... among its first so many, both ways counted
    cut_per_mb: float = 0.0  # besides: chance of a cut in each megabyte of any connection
    idle: float = 0.0  # seconds without a byte after which a connection is dropped without a word
    seed: int = 0


@dataclass
class Count:
    """Bytes of one connection: taken from the sender, and delivered to the receiver."""

    up_taken: int = 0
    up: int = 0
    down_taken: int = 0
    down: int = 0
    cut: bool = False
    host: str = ""


@dataclass
class _Pipe:
    """One connection: two ends, and where it will be cut."""

    count: Count
    limit: float
    ends: list[asyncio.StreamWriter] = field(default_factory=list)
    last: float = 0.0
    silent: bool = False

    def passed(self, size: int) -> bool:
        """Count bytes against the cut; False when it is due."""
        self.limit -= size
        return self.limit > 0

    def cut(self) -> None:
        self.count.cut = True
        for end in self.ends:
            end.transport.abort()


class Background(ABC):
    """An asyncio server in a thread of its own, as a context manager."""

    port: int

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @abstractmethod
    async def _open(self) -> None:
        """Begin to listen."""

    async def _listen(self, serve: Any, port: int = 0, buffer: int = 0) -> int:
        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._spawn(serve(reader, writer))

        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listener.bind(("127.0.0.1", port))
        self._servers.append(await asyncio.start_server(connected, sock=listener, limit=CHUNK, backlog=256))
        return int(listener.getsockname()[1])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)


class Link(Background):
    """See the module."""

    def __init__(self, line: Line, target: Address | None = None, login: str | None = None, port: int = 0) -> None:
        super().__init__()
        self.line, self._target, self._login, self.port = line, target, login, port
        self.counts: list[Count] = []
        self.refused = 0  # connections that came without the login
        self._random = random.Random(line.seed)  # noqa: S311 - a test that can be repeated
        self._free = {"up": 0.0, "down": 0.0}
        self._open_pipes: dict[int, _Pipe] = {}

    def total(self) -> dict[str, int]:
        """All bytes so far, and how many connections there were and were cut."""
        sums = {name: sum(getattr(c, name) for c in self.counts) for name in ("up_taken", "up", "down_taken", "down")}
        return {**sums, "connections": len(self.counts), "cut": sum(c.cut for c in self.counts)}

    def cut_all(self) -> None:
        """Cut what is open now."""
        self._loop.call_soon_threadsafe(lambda: [pipe.cut() for pipe in list(self._open_pipes.values())])

    async def _open(self) -> None:
        self.port = await self._listen(self._serve, self.port, BUFFER if self.line.rate else 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pipe = _Pipe(Count(), self._fate(), [writer])
        self.counts.append(pipe.count)
        self._open_pipes[id(pipe)] = pipe
        try:
            target = self._target or await self._asked(reader, writer, pipe)
            if target is None:
                return
            await asyncio.sleep(2 * self.line.delay)  # the handshake of TCP
            other = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            other.setblocking(False)
            if self.line.rate:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
                other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            await self._loop.sock_connect(other, target)
            far_reader, far_writer = await asyncio.open_connection(sock=other, limit=CHUNK)
            pipe.ends.append(far_writer)
            await self._both(pipe, (reader, writer), (far_reader, far_writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # either side went away
        finally:
            del self._open_pipes[id(pipe)]
            for end in pipe.ends:
                end.transport.abort() if pipe.silent or pipe.count.cut else end.close()

    async def _both(self, pipe: _Pipe, near: Any, far: Any) -> None:
        pipe.last = self._loop.time()
        ways = [
            asyncio.ensure_future(self._way(pipe, "up", near[0], far[1])),
            asyncio.ensure_future(self._way(pipe, "down", far[0], near[1])),
        ]
        if self.line.idle:
            ways.append(asyncio.ensure_future(self._idle(pipe)))
        try:
            await asyncio.wait(ways[:2])
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _way(self, pipe: _Pipe, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction: read at the line's rate, deliver after its delay."""
        flying = max(4, int(2 * self.line.delay * self.line.rate / CHUNK) + 4)
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(flying)
        landing = asyncio.ensure_future(self._land(pipe, name, queue, writer))
        try:
            while data := await reader.read(CHUNK):
                pipe.last = self._loop.time()
                setattr(pipe.count, f"{name}_taken", getattr(pipe.count, f"{name}_taken") + len(data))
                due = self._due(name, len(data))
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                if not pipe.silent:
                    await queue.put((due + self.line.delay, data))
            await queue.put((self._loop.time() + self.line.delay, b""))
            await landing
        except OSError:
            pipe.cut()
        finally:
            landing.cancel()
            await asyncio.gather(landing, return_exceptions=True)

    async def _land(
        self, pipe: _Pipe, name: str, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await queue.get()
            if due > self._loop.time():
                await asyncio.sleep(due - self._loop.time())
            if not data:
                if writer.can_write_eof():
                    writer.write_eof()
                else:
                    writer.close()
                return
            if not pipe.passed(len(data)):
                pipe.cut()
                return
            writer.write(data)
            await writer.drain()
            setattr(pipe.count, name, getattr(pipe.count, name) + len(data))

    async def _idle(self, pipe: _Pipe) -> None:
        """A firewall that forgets a silent connection tells nobody: both ends keep waiting."""
        while not pipe.silent:
            await asyncio.sleep(max(0.01, pipe.last + self.line.idle - self._loop.time()))
            pipe.silent = self._loop.time() - pipe.last >= self.line.idle
        pipe.count.cut = True

    def _due(self, name: str, size: int) -> float:
        now = self._loop.time()
        if not self.line.rate:
            return now
        self._free[name] = max(self._free[name], now) + size / self.line.rate
        return self._free[name]

    def _fate(self) -> float:
        limit = float("inf")
        if self._random.random() < self.line.cut:
            limit = self._random.uniform(1, self.line.span)
        if self.line.cut_per_mb:
            limit = min(limit, self._random.expovariate(self.line.cut_per_mb / 1e6))
        return limit

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, pipe: _Pipe) -> Address | None:
        """The target of a CONNECT; None where it was refused."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        words = head.split(None, 2)
        fields = {k.strip().lower(): v.strip() for k, _, v in (row.partition(":") for row in head.split("\r\n")[1:])}
        wanted = None if self._login is None else "Basic " + base64.b64encode(self._login.encode()).decode()
        if wanted is not None and fields.get("proxy-authorization") != wanted:
            self.refused += 1
            await _say(writer, '407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="hospital"')
            return None
        if words[0] != "CONNECT":
            await _say(writer, "405 Method Not Allowed")
            return None
        pipe.count.host = words[1]
        host, _, port = words[1].rpartition(":")
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        return (host, int(port))


async def _say(writer: asyncio.StreamWriter, status: str) -> None:
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    with contextlib.suppress(OSError):
        await writer.drain()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="host:port; without it: a CONNECT proxy")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--mbit", type=float, default=0)
    parser.add_argument("--rtt", type=float, default=0, help="seconds")
    parser.add_argument("--cut", type=float, default=0, help="share of connections that are cut")
    parser.add_argument("--cut-per-mb", type=float, default=0)
    parser.add_argument("--idle", type=float, default=0, help="seconds after which a silent connection is dropped")
    parser.add_argument("--login", help="user:password that the proxy asks for")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    line = Line(mbit(chosen.mbit), chosen.rtt / 2, chosen.cut, Line.span, chosen.cut_per_mb, chosen.idle, chosen.seed)
    target = None
    if chosen.target:
        host, _, port = chosen.target.rpartition(":")
        target = (host, int(port))
    with Link(line, target, chosen.login, chosen.port) as link:
        print(link.port, flush=True)
        sys.stdin.read()
        print(json.dumps({**link.total(), "each": [asdict(count) for count in link.counts]}), flush=True)


if __name__ == "__main__":
    main()
