"""The lines of an audit log: how an entry is written, read, and found again. `core.audit` is the log itself."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from wardround.core.errors import StorageError
from wardround.core.frozen import canonical_json

MOST_FACTS = 32 << 10  # bytes of one entry's facts; larger ones are written as their size and SHA-256
LINE = MOST_FACTS + 1024  # no line is longer
NOTHING = "0" * 64
OWN = frozenset(("n", "time", "event", "previous", "hash"))  # names that facts cannot have


@dataclass(frozen=True)
class Mark:
    """A place in a log: ``length`` entries, the last of which has ``hash``."""

    length: int
    hash: str


def make_entry(after: Mark, event: str, facts: dict[str, Any]) -> tuple[bytes, Mark]:
    """The line that follows ``after``, and the mark that it makes."""
    text = canonical_json(facts).encode(errors="replace")  # half a surrogate pair is not text
    if len(text) > MOST_FACTS:
        facts = {"facts_size": len(text), "facts_sha256": hashlib.sha256(text).hexdigest()}
    else:
        facts = json.loads(text)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    entry = {**facts, "n": after.length + 1, "time": now, "event": event, "previous": after.hash}
    digest = hashlib.sha256(canonical_json(entry).encode()).hexdigest()
    return canonical_json({**entry, "hash": digest}).encode() + b"\n", Mark(after.length + 1, digest)


def parse_entry(line: bytes) -> dict[str, Any] | None:
    """A line as an entry, if it is byte for byte what `make_entry` writes."""
    try:
        entry = json.loads(line)
        if canonical_json(entry).encode() + b"\n" != line:
            return None
        content = {name: value for name, value in entry.items() if name != "hash"}
        right = hashlib.sha256(canonical_json(content).encode()).hexdigest() == entry["hash"]
        sound = type(entry["n"]) is int and all(isinstance(entry[name], str) for name in OWN - {"n"})
        return entry if right and sound else None
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None


def read_entries(path: Path, tail: int | None = None) -> Iterator[dict[str, Any]]:
    """The entries in order, or only the last ``tail``; a line that is no entry is passed over."""
    lines: Iterable[bytes] = read_lines(path)
    for line in lines if tail is None else deque(lines, maxlen=tail):
        entry = parse_entry(line)
        if entry is not None:
            yield entry


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines up to where the log ended when this began; others may go on writing meanwhile."""
    if not path.is_file():
        return
    with locked(path, fcntl.LOCK_SH) as file:
        left = os.fstat(file.fileno()).st_size
        fcntl.flock(file, fcntl.LOCK_UN)
        while left > 0 and (line := file.readline(min(left, LINE + 1))):
            left -= len(line)
            yield line


def last_entry(file: IO[bytes]) -> tuple[int, Mark]:
    """Where the last whole entry ends, and its mark.

    Raises:
        StorageError: what stands behind the last whole entry is more than one line that was cut off.
    """
    size = os.fstat(file.fileno()).st_size
    begin = max(0, size - 3 * LINE)
    file.seek(begin)
    data = file.read(size - begin)
    end = data.rfind(b"\n") + 1
    for attempt in range(2):  # a power cut can spoil the line that was being written, not the one before
        start = data.rfind(b"\n", 0, max(0, end - 1)) + 1
        entry = parse_entry(data[start:end])
        if entry is not None:
            return begin + end, Mark(entry["n"], entry["hash"])
        if attempt == 0 and begin + start == 0 and size <= LINE:
            return 0, Mark(0, NOTHING)
        end = start
    raise StorageError(f"{file.name} is damaged at its end: verify the log, and move it aside to begin a new one")


def find_entry(file: IO[bytes], number: int) -> dict[str, Any] | None:
    """Entry ``number``, found by halving the file."""
    low, high = 0, os.fstat(file.fileno()).st_size
    while low < high:  # the entry begins in low..high, and low is the beginning of a line
        middle = (low + high) // 2
        file.seek(max(low, middle - 1))
        if middle > low:  # from the byte before: a line that begins right there is not passed over
            file.readline(LINE + 1)
        begin = file.tell()
        entry = parse_entry(file.readline(LINE + 1))
        if entry is not None and entry["n"] == number:
            return entry
        if entry is None or entry["n"] > number or begin >= high:
            high = middle
        else:
            low = file.tell()
    return None


@contextmanager
def locked(path: Path, how: int) -> Iterator[IO[bytes]]:
    """The log, shared with readers (``LOCK_SH``) or alone and to be written (``LOCK_EX``)."""
    writing = how == fcntl.LOCK_EX
    new = writing and not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT if writing else os.O_RDONLY, 0o600)
    with os.fdopen(handle, "rb+" if writing else "rb") as file:
        fcntl.flock(file, how)
        if new:
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        yield file
