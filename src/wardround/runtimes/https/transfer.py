"""Blobs down and tensors up, in pieces that go on where they broke off.

Pieces are powers of two, aligned, of a size that takes about two seconds on this link: a connection that
is cut costs little, and a proxy that holds back whole messages is not taken for a dead one. Where all of a
blob takes no longer, it goes in one piece.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.core.errors import StorageError, WardRoundError
from wardround.core.messages import Task
from wardround.core.weights import file_digest
from wardround.runtimes.https.client import Client, Incoming, Rejected
from wardround.runtimes.https.home import LEAST_PIECE, sync_folder
from wardround.runtimes.https.patience import Unreachable, Untrusted
from wardround.runtimes.https.wire import PIECE, Received

SMALL = 2 << 20  # bytes
TOO_LARGE = 413  # of HTTP
SECONDS = 2.0  # that a piece should take
AT_ONCE = 256 << 20  # most bytes in one piece: an upload's lie in memory
Going = Callable[[], None]


def _on() -> None:
    """Go on."""


@dataclass
class Pace:
    """The size of the next piece, learned from those before."""

    largest: int = PIECE
    size: int = 2 << 20
    fits: int = 0  # bytes that take `SECONDS`, as the last large piece went
    at_once: int = AT_ONCE  # most bytes in one piece that is the whole of a blob

    def piece(self, offset: int, total: int) -> int:
        """Bytes of the piece at ``offset``: all, or it ends where a multiple of the present size lies."""
        if offset == 0 and self.largest == PIECE and total <= min(self.fits, self.at_once):
            return total
        size = min(self.size, self.largest)
        return min(total, (offset // size + 1) * size) - offset

    def went(self, count: int, seconds: float) -> None:
        """A piece went through: aim at `SECONDS`, at most doubling."""
        if count >= LEAST_PIECE:
            self.fits = int(count / max(seconds, 1e-3) * SECONDS)
            wanted = 1 << max(self.fits, 1).bit_length() - 1
            self.size = max(LEAST_PIECE, min(wanted, 2 * self.size, self.largest))

    def broke(self) -> None:
        """A connection broke: smaller pieces lose less."""
        self.fits = 0
        self.size = max(LEAST_PIECE, min(self.size, self.largest) // 2)


@dataclass(frozen=True)
class Blob:
    """A file that is to be sent."""

    path: Path
    sha256: str
    size: int  # bytes


@dataclass
class Transfers:
    """Moves files over one client, and remembers how fast the link is."""

    client: Client
    pace: Pace = field(default_factory=Pace)

    def download(self, sha256: str, size: int, target: Path, going: Going = _on) -> None:
        """Fetch a blob into ``target``, which is whole and verified when it appears.

        What ``target.part`` holds already, from an earlier process too, is not fetched again.

        Args:
            sha256: of the blob.
            size: its bytes.
            target: where it shall lie.
            going: called before each piece; raises to give up, and what arrived stays.

        Raises:
            Rejected, Unreachable: see `Client.call`.
            StorageError: the disk is full or the folder not writable.
            WardRoundError: twice it was not what its digest says.
        """
        try:
            if target.is_file() and target.stat().st_size == size and file_digest(target) == sha256:
                return
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            part = target.with_name(target.name + ".part")
            for _ in range(2):
                if self._fill(sha256, size, part, going) or file_digest(part) == sha256:
                    _settle(part, target)
                    return
                part.unlink()
        except OSError as error:
            raise StorageError(f"cannot write {target}: {error.strerror or error}") from error
        raise WardRoundError(f"what was downloaded as {sha256[:12]} is something else, twice (wrong digest)")

    def upload(
        self, task: Task, blob: Blob, announce: Callable[[int], None] = lambda _count: None, going: Going = _on
    ) -> None:
        """Bring a task's tensors to the coordinator, going on after what it has already.

        Args:
            task: whose answer they are.
            blob: the file.
            announce: told once, before the first piece, how many bytes are about to leave.
            going: called before each piece; raises to give up.

        Raises:
            Rejected: the coordinator does not want them (any more), or they are not what ``sha256`` says.
            Unreachable: see `Client.call`.
            StorageError: the file cannot be read.
        """
        place, size = f"{task_path(task)}/tensors?sha256={blob.sha256}&size={blob.size}", blob.size
        # What fits into one small piece is sent at once; else it is asked first what is there from before.
        have: int | None = 0 if size <= SMALL else None
        failures, again, announced = 0, 0, have is not None
        if announced:
            announce(size)
        while True:
            going()
            try:
                answer = self._push(place, blob, have)
                if answer.whole:
                    return
                if not announced:
                    announce(size - answer.received)
                    announced = True
                if answer.received >= size:
                    raise Unreachable("the coordinator has all of an upload, but does not say that it is whole")
                failures = 0 if have is None or answer.received > have else failures + 1
                have = answer.received
            except (Unreachable, Rejected) as error:
                last, have = have, error.refused.received if isinstance(error, Rejected) else None
                again += bool(last) and have == 0
                if isinstance(error, Rejected) and (have is None or again > 1):
                    raise
                failures += 1
                self._wait(error, failures)

    def _fill(self, sha256: str, size: int, part: Path, going: Going) -> bool:
        """Fetch what ``part`` lacks. True where all came in one piece, whose digest was the blob's."""
        failures, whole = 0, False
        while (have := _length(part, size)) < size:
            going()
            try:
                count = self.pace.piece(have, size)
                whole = self._pull(sha256, have, count, part) == sha256 and count == size
                failures = 0
            except Unreachable as error:
                failures = 1 if _length(part, size) > have else failures + 1
                self._wait(error, failures)
        return whole

    def _wait(self, error: Exception, failures: int) -> None:
        self.pace.broke()
        if isinstance(error, Untrusted) and error.status == TOO_LARGE:
            self.pace.largest = self.pace.size  # a proxy takes no longer bodies
        if self.client.patience.over(failures):
            raise error
        self.client.patience.rest(error, failures)

    def _pull(self, sha256: str, offset: int, count: int, part: Path) -> str:
        begin = time.monotonic()
        with self.client.open("GET", f"/v1/blobs/{sha256}?offset={offset}&count={count}") as response:
            _store(response, part, offset, count)
        self.pace.went(count, time.monotonic() - begin)
        return response.digest.hex()

    def _push(self, place: str, blob: Blob, have: int | None) -> Received:
        if have is None:
            return self.client.call("GET", place, None, Received)
        begin, count = time.monotonic(), self.pace.piece(have, blob.size)
        data = _read(blob.path, have, count)
        digest = bytes.fromhex(blob.sha256) if count == blob.size else None
        answer = self.client.call("PUT", f"{place}&offset={have}", data, Received, "tensors", digest=digest)
        self.pace.went(count, time.monotonic() - begin)
        return answer


def task_path(task: Task) -> str:
    """Where a task's things are sent."""
    return f"/v1/tasks/{task.plan}/{task.round}/{task.verb}/{task.step}"


def _store(response: Incoming, part: Path, offset: int, count: int) -> None:
    """Append a piece as it arrives. What came before a cut stays: the digest of the whole decides in the end."""
    hashed, got = hashlib.sha256(), 0
    with part.open("ab") as file:
        for block in response.blocks():
            got += len(block)
            if got > count:
                break
            hashed.update(block)
            file.write(block)
        file.flush()
        if got != count or hashed.digest() != response.digest:
            file.truncate(offset)
            raise Untrusted("a piece of a download is not the one that the coordinator signed")


def _length(part: Path, most: int) -> int:
    """How much is there; what cannot be right is thrown away."""
    have = part.stat().st_size if part.is_file() else 0
    if have > most:
        part.unlink()
        return 0
    return have


def _read(path: Path, offset: int, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(count)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) != count:
        raise StorageError(f"{path} is shorter than it was")
    return data


def _settle(part: Path, target: Path) -> None:
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(target)
    sync_folder(target.parent)
