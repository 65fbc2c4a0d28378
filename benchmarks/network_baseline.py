"""What moving a model costs at least: TLS sockets and a numpy mean, written by hand.

One server, N sites. A round: the server sends the model (fp32) to every site, every site sends one back, the
server takes the mean in place. No hashing, no signature, nothing written down, nothing that survives a crash.
``Baseline(folder, sites, numbers)`` holds the processes; each `Baseline.round` is one round's wall-clock seconds.
"""

from __future__ import annotations

import argparse
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "https"))
PIECE = 1 << 20


def client_processes(sites: int) -> int:
    """The sites share so many processes, here and in what is compared with it."""
    return min(sites, max(1, (os.cpu_count() or 1) // 2 * 2))


class Server:
    """Takes N connections, then a round whenever it is told."""

    def __init__(self, certificate: Path, sites: int, numbers: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._model = np.random.default_rng(0).standard_normal(numbers, dtype=np.float32)
        self._sites = sites
        print(self._listener.getsockname()[1], flush=True)

    def serve(self) -> None:
        """One round a line of standard input, which says how; its seconds on standard output."""
        lines = [self._accept() for _ in range(self._sites)]
        buffers = [np.empty_like(self._model) for _ in range(self._sites)]
        for order in sys.stdin:
            begin = time.perf_counter()
            if order.strip() == "threads":
                self._side_by_side(lines, buffers)
            else:
                self._in_turn(lines, buffers[0])
            print(time.perf_counter() - begin, flush=True)

    def _accept(self) -> ssl.SSLSocket:
        plain, _ = self._listener.accept()
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._context.wrap_socket(plain, server_side=True)

    def _side_by_side(self, lines: list[ssl.SSLSocket], buffers: list[np.ndarray]) -> None:
        """A thread and a buffer for every site: fast, and memory grows with them."""
        total, lock = np.zeros_like(self._model), threading.Lock()

        def one(line: ssl.SSLSocket, buffer: np.ndarray) -> None:
            send(line, self._model)
            receive(line, buffer)
            with lock:
                np.add(total, buffer, out=total)

        threads = [threading.Thread(target=one, args=pair) for pair in zip(lines, buffers, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._model = np.divide(total, self._sites, out=total)

    def _in_turn(self, lines: list[ssl.SSLSocket], buffer: np.ndarray) -> None:
        """One site after another: one buffer is enough."""
        total = np.zeros_like(self._model)
        for line in lines:
            send(line, self._model)
        for line in lines:
            receive(line, buffer)
            np.add(total, buffer, out=total)
        self._model = np.divide(total, self._sites, out=total)


def site(port: int, ca: Path, numbers: int) -> None:
    """Receive a model, send it back; until the server goes away."""
    context = ssl.create_default_context(cafile=str(ca))
    buffer = np.empty(numbers, np.float32)
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
    ):
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                receive(line, buffer)
                send(line, buffer)
        except (OSError, EOFError):
            return


def send(line: ssl.SSLSocket, array: np.ndarray) -> None:
    """All of an array."""
    view = memoryview(array).cast("B")
    for start in range(0, len(view), PIECE):
        line.sendall(view[start : start + PIECE])


def receive(line: ssl.SSLSocket, array: np.ndarray) -> None:
    """Fill an array."""
    view = memoryview(array).cast("B")
    while view:
        got = line.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]


class Baseline:
    """Server and sites as processes; as a context manager."""

    def __init__(self, folder: Path, sites: int, numbers: int) -> None:
        from proxies import MadeUpAuthority

        authority = MadeUpAuthority("bench")
        self._ca, self._certificate = folder / "bench-ca.pem", folder / "bench-server.pem"
        self._ca.write_text(authority.pem)
        self._certificate.write_bytes(authority.issue("127.0.0.1"))
        self._sites, self._numbers = sites, numbers

    def __enter__(self) -> Self:
        shape = ["--sites", str(self._sites), "--numbers", str(self._numbers)]
        self._server = _start("server", "--file", str(self._certificate), *shape)
        assert self._server.stdout is not None
        port = self._server.stdout.readline().strip()
        self._clients = []
        processes = client_processes(self._sites)
        for number in range(processes):
            share = len(range(number, self._sites, processes))
            options = ["--sites", str(share), "--numbers", str(self._numbers), "--port", port]
            self._clients.append(_start("sites", "--file", str(self._ca), *options))
        return self

    def round(self, way: str = "threads") -> float:
        """Seconds of one round, with the sites served by ``threads`` or in ``turn``."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{way}\n")
        self._server.stdin.flush()
        return float(self._server.stdout.readline())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in (self._server, *self._clients):
            process.kill()
            process.communicate()


def _start(*args: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=["server", "sites"])
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--numbers", type=int, required=True)
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.role == "server":
        Server(options.file, options.sites, options.numbers).serve()
        return
    jobs = [(options.port, options.file, options.numbers)] * options.sites
    threads = [threading.Thread(target=site, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
