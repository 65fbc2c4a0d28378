"""The audit log: append-only, hash-chained JSON lines, written so that no later change goes unseen.

Each line is the canonical JSON of one entry::

    {"event": "approved", ...facts, "hash": H, "n": 7, "previous": P, "time": "2025-03-01T08:15:02.114+00:00"}

``n`` counts from 1, ``previous`` is the hash of entry n-1 (64 zeros for the first), and ``hash`` is the
SHA-256 of the canonical JSON of the entry without ``hash``. Whoever knows the hash of entry n therefore
knows all entries up to n. A person who can write the file can write all of it anew: that is why the two
sides of a federation sign each other's heads (`SignedHead`); `verify` holds the file against those.

Several processes may append to one log. What a power cut leaves of a last line is moved to a file beside
the log, and an entry ``log_repaired`` says so.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import threading
from pathlib import Path
from typing import IO, Any

from wardround.core.audit_check import Findings, SignedHead, verify
from wardround.core.audit_entries import (
    MOST_FACTS,
    NOTHING,
    OWN,
    Mark,
    find_entry,
    last_entry,
    locked,
    make_entry,
    read_entries,
)
from wardround.core.errors import StorageError

__all__ = ["MOST_FACTS", "NOTHING", "AuditLog", "Findings", "Mark", "SignedHead", "read_entries", "verify"]

_EVENT = re.compile(r"[a-z][a-z0-9_]{0,39}")


class AuditLog:
    """A log that this process appends to; safe for threads and beside other processes."""

    def __init__(self, path: Path) -> None:
        self._path, self._guard = path, threading.Lock()
        self._known: tuple[int, Mark] | None = None  # size of the file and its head after our last append

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def append(self, event: str, **facts: Any) -> Mark:
        """Write one entry; it is on the disk when this returns.

        Args:
            event: lower case letters, digits and underscores, at most 40.
            facts: JSON values, not named n, time, event, previous or hash. Beyond `MOST_FACTS` bytes only their
                size and SHA-256 are written.

        Raises:
            StorageError: it cannot be written, or the log is damaged beyond what a power cut does.
        """
        if not _EVENT.fullmatch(event):
            raise ValueError(f"not an event: {event!r}")
        if taken := sorted(OWN & facts.keys()):
            raise ValueError(f"{event}: {', '.join(taken)} are names of the log's own; give these facts others")
        try:
            with self._guard, locked(self._path, fcntl.LOCK_EX) as file:
                size, mark = self._settled(file)
                return self._write(file, size, make_entry(mark, event, facts))[1]
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror or error}") from error

    def head(self) -> Mark:
        """The newest entry, read from the end of the file; length 0 where there is none."""
        if not self._path.is_file():
            return Mark(0, NOTHING)
        with locked(self._path, fcntl.LOCK_SH) as file:
            return last_entry(file)[1]

    def hash_at(self, length: int) -> str | None:
        """The hash of entry ``length``; None where the log has no such entry. A few reads, however long the log."""
        if length == 0:
            return NOTHING
        if length < 0 or not self._path.is_file():
            return None
        with locked(self._path, fcntl.LOCK_SH) as file:
            entry = find_entry(file, length)
        return None if entry is None else str(entry["hash"])

    def _settled(self, file: IO[bytes]) -> tuple[int, Mark]:
        """Size and head of a log that ends with a whole entry; it is made so where it is not."""
        size = os.fstat(file.fileno()).st_size
        if self._known is not None and self._known[0] == size:
            return self._known
        end, mark = last_entry(file)
        aside = self._path.with_name(f"{self._path.name}.torn-{mark.length + 1}")
        if end != size:
            file.seek(end)
            _write_aside(aside, file.read())
            file.truncate(end)
        if not aside.exists():  # it also exists when the power failed again, before the entry below
            return end, mark
        torn = aside.read_bytes()
        facts = {"removed": len(torn), "sha256": hashlib.sha256(torn).hexdigest(), "kept_in": aside.name}
        return self._write(file, end, make_entry(mark, "log_repaired", facts))

    def _write(self, file: IO[bytes], size: int, made: tuple[bytes, Mark]) -> tuple[int, Mark]:
        line, mark = made
        self._known = None
        try:
            if os.pwrite(file.fileno(), line, size) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), size)  # a full disk leaves no half entry behind
            raise
        self._known = size + len(line), mark
        return self._known


def _write_aside(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
