"""Small files that only the site's user may read, each either absent or whole, whoever else writes beside us."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wardround.core.errors import StorageError


def private_folder(path: Path) -> Path:
    """Make a folder of mode 0700. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot make {path}: {error.strerror or error}") from error
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace a file (mode 0600) in one step that outlasts a power cut. Raises StorageError."""
    scratch = ""
    try:
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode is 0600
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Only one process at a time goes past this."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
