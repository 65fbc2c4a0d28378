"""SHA-256 over parts of files, in steps that leave the interpreter free."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

STEP = 1 << 20


def range_digest(path: Path, offset: int, count: int) -> bytes:
    """SHA-256 of ``count`` bytes from ``offset`` on. Raises OSError where the file is shorter."""
    total = hashlib.sha256()
    handle = os.open(path, os.O_RDONLY)
    try:
        advance(total, handle, offset, offset + count)
    finally:
        os.close(handle)
    return total.digest()


def advance(total: Any, handle: int, begin: int, end: int) -> None:
    """Feed bytes ``begin`` to ``end`` of an open file to a hash. Raises OSError where the file is shorter."""
    while begin < end:
        data = os.pread(handle, min(STEP, end - begin), begin)
        if not data:
            raise OSError("the file is shorter than was said")
        total.update(data)
        begin += len(data)
