"""Tensors on their way up: streamed to the disk piece by piece, whole when their SHA-256 is the announced one.

Bytes are hashed twice as they come, in threads: for the piece, whose digest was signed, and for the whole. After a
break everything that came stays: it lies under the site's own name, and counts for nothing before the hash of the
whole is right. Memory: at most two batches for each upload, whatever its size.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.runtimes.https.blobs import Blobs
from wardround.runtimes.https.hashing import advance
from wardround.runtimes.https.refusals import Refusal

RESERVE = 1 << 30  # bytes of the disk that uploads leave free
PARTIALS = 8  # uploads that a site may have on their way
KNOWN = 512  # uploads whose hash so far is remembered
THREADS = 4
BATCH = 1 << 20  # bytes that are written and hashed in one go
EARLY = 4 << 20  # pieces of so many bytes are sent to the disk at once, so that not all waits for the end


@dataclass
class Progress:
    """The hash of an upload up to ``hashed``. The lock is held while its file is written."""

    total: Any = field(default_factory=hashlib.sha256)
    hashed: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    writer: object | None = None  # the request that writes now


class Uploads:
    """All uploads of a server."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._known: OrderedDict[tuple[str, str], Progress] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="upload")

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, sha256: str, site: str, size: int, offset: int, count: int) -> Piece:
        """A piece of ``count`` bytes that continues an upload at ``offset``. Raises Refusal: where to go on."""
        path, progress = self._blobs.partial(sha256, site), self._progress(sha256, site)
        with progress.lock:
            length = path.stat().st_size if path.is_file() else 0
            if length > size:
                path.unlink()
                length = 0
            if offset != length:
                raise Refusal("conflict", "the upload goes on elsewhere", received=length)
            if self._blobs.free() < size - length + RESERVE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if length == 0:
                self._make_room(site)
            _catch_up(progress, path, length)
            return Piece(progress, path, offset, self._pool, whole=count == size)

    def finish(self, sha256: str, site: str, size: int) -> None:
        """All bytes are here: are they what was announced? Raises Refusal; then they are gone."""
        path, progress = self._blobs.partial(sha256, site), self._progress(sha256, site)
        with progress.lock:
            _catch_up(progress, path, size)
            right = progress.total.hexdigest() == sha256
            if right:
                self._blobs.settle(sha256, site)
            else:
                path.unlink(missing_ok=True)
        with self._lock:
            self._known.pop((sha256, site), None)
        if not right:
            raise Refusal("conflict", "the bytes that came have another digest: send them again", received=0)

    def _make_room(self, site: str) -> None:
        for old in self._blobs.partials(site)[: -(PARTIALS - 1)]:
            old.unlink(missing_ok=True)

    def _progress(self, sha256: str, site: str) -> Progress:
        with self._lock:
            progress = self._known.setdefault((sha256, site), Progress())
            self._known.move_to_end((sha256, site))
            idle = [key for key, value in self._known.items() if value.writer is None and value is not progress]
            for key in idle[: max(0, len(self._known) - KNOWN)]:
                del self._known[key]
        return progress


class Piece:
    """One piece while it comes."""

    def __init__(
        self, progress: Progress, path: Path, offset: int, pool: ThreadPoolExecutor, whole: bool = False
    ) -> None:
        """With ``progress.lock`` held; ``whole``: the piece is all there is, and one hash does for both."""
        self._progress, self._pool = progress, pool
        self.end = self._begin = offset
        self._whole = progress.total.copy()
        self._own = self._whole if whole else hashlib.sha256()
        self._batch: list[bytes] = []
        self._waiting = 0
        self._writing: asyncio.Future[None] | None = None
        self._open = True
        self._handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        progress.writer = self  # an older request that still hangs on a dead connection writes no more

    def take(self, data: bytes) -> Awaitable[None] | None:
        """Bytes that came; what is returned is to be awaited before there are more."""
        self._batch.append(data)
        self._waiting += len(data)
        return self._flush() if self._waiting >= BATCH else None

    async def check(self, digest: bytes) -> None:
        """Whether the piece, which came to its end, is what was signed; what is not is cut off. Raises Refusal."""
        await self._flush()
        await self._written()
        with self._progress.lock:
            self._check_turn()
            if self._own.digest() == digest:
                self._progress.total, self._progress.hashed = self._whole, self.end
                return
            os.ftruncate(self._handle, self._begin)
            self.end = self._begin
        raise Refusal("signature", "the body is not the one that was signed", received=self._begin)

    def close(self) -> None:
        """Give the file back, in a thread: a batch may be being written."""
        try:
            self._pool.submit(self._close)
        except RuntimeError:  # the server is ending
            self._close()

    async def _flush(self) -> None:
        await self._written()
        batch, self._batch, self._waiting = self._batch, [], 0
        self._writing = asyncio.get_running_loop().run_in_executor(self._pool, self._write, batch)

    async def _written(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def _write(self, batch: list[bytes]) -> None:
        with self._progress.lock:
            self._check_turn()
            for data in batch:
                view = memoryview(data)
                while view:
                    count = os.pwrite(self._handle, view, self.end)
                    self.end += count
                    view = view[count:]
                self._own.update(data)
                if self._whole is not self._own:
                    self._whole.update(data)

    def _check_turn(self) -> None:
        if not self._open or self._progress.writer is not self:
            raise Refusal("busy", "another request goes on with this upload")

    def _close(self) -> None:
        with self._progress.lock:
            self._open = False
            if self._progress.writer is self:
                self._progress.writer = None
        with suppress(OSError):  # the whole is synced in the end, and that is checked
            if self.end - self._begin >= EARLY:
                os.fdatasync(self._handle)
        os.close(self._handle)


def _catch_up(progress: Progress, path: Path, end: int) -> None:
    """Hash what is on the disk: of an earlier process, or of a piece that broke off."""
    if progress.hashed > end:
        progress.total, progress.hashed = hashlib.sha256(), 0
    if progress.hashed < end:
        handle = os.open(path, os.O_RDONLY)
        try:
            advance(progress.total, handle, progress.hashed, end)
        finally:
            os.close(handle)
        progress.hashed = end
