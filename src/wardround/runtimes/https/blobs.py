"""Tensor files on the coordinator's disk.

::

    blobs/<sha256>                 offered to sites: models of tasks and of ended runs
    blobs/partial/<sha256>.<site>  an upload on its way
    blobs/given/<sha256>.<site>    an upload that is whole: its SHA-256 was checked, and it is on the disk

What a site uploaded lies under that site's name: no site can claim, or learn of, another's bytes.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections import OrderedDict
from pathlib import Path

from wardround.core.errors import StorageError
from wardround.core.weights import file_digest
from wardround.runtimes.https.hashing import range_digest

_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_SITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
KNOWN_PIECES = 4096  # digests kept


class Blobs:
    """Paths by digest; every name is checked before it is one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for place in (folder, folder / "partial", folder / "given"):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._pieces: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def offered(self, sha256: str) -> Path:
        """What sites may fetch."""
        return self.folder / _checked(_DIGEST, sha256)

    def partial(self, sha256: str, site: str) -> Path:
        """An upload on its way."""
        return self.folder / "partial" / f"{_checked(_DIGEST, sha256)}.{_checked(_SITE, site)}"

    def given(self, sha256: str, site: str) -> Path:
        """A whole upload; exists only if its digest was right."""
        return self.folder / "given" / f"{_checked(_DIGEST, sha256)}.{_checked(_SITE, site)}"

    def offer(self, source: Path, sha256: str) -> int:
        """Make a file fetchable, by a hard link where the file system can; returns its bytes."""
        place = self.offered(sha256)
        try:
            if not place.is_file():
                _link(source, place)
            return place.stat().st_size
        except OSError as error:
            raise StorageError(f"cannot keep {source.name} for the sites: {error.strerror}") from error

    def take(self, source: Path) -> tuple[str, int]:
        """As `offer`, of a file whose digest is not known yet; returns (SHA-256, bytes)."""
        sha256 = file_digest(source)
        return sha256, self.offer(source, sha256)

    def settle(self, sha256: str, site: str) -> Path:
        """An upload whose digest was found right becomes `given`, durably."""
        partial, place = self.partial(sha256, site), self.given(sha256, site)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(place)
        _sync_folder(place.parent)
        return place

    def partials(self, site: str) -> list[Path]:
        """A site's uploads on their way, oldest first."""
        found = (self.folder / "partial").glob(f"*.{_checked(_SITE, site)}")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def free(self) -> int:
        """Bytes left on the disk."""
        return shutil.disk_usage(self.folder).free

    def piece_digest(self, sha256: str, offset: int, count: int) -> bytes:
        """SHA-256 of a range of an offered blob; remembered, as every site asks for the same ones."""
        place = (sha256, offset, count)
        with self._lock:
            known = self._pieces.get(place)
        if known is not None:
            return known
        digest = range_digest(self.offered(sha256), offset, count)
        with self._lock:
            self._pieces[place] = digest
            while len(self._pieces) > KNOWN_PIECES:
                self._pieces.popitem(last=False)
        return digest


def _checked(pattern: re.Pattern[str], name: str) -> str:
    if pattern.match(name) is None:
        raise ValueError("not a name of a blob")
    return name


def _link(source: Path, place: Path) -> None:
    scratch = place.with_name(f"{place.name}.part")
    scratch.unlink(missing_ok=True)
    try:
        os.link(source, scratch)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, scratch)
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
    scratch.replace(place)
    _sync_folder(place.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
