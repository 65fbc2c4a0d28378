"""A coordinator from its backup (see `backup`): the federation goes on where it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import time
from pathlib import Path, PurePosixPath
from typing import IO

from pydantic import ValidationError
from sqlalchemy import select, update

from wardround.core.errors import InputError, StorageError, WardRoundError
from wardround.core.weights import file_digest
from wardround.runtimes.https.backup import MANIFEST, Manifest
from wardround.runtimes.https.database import Database
from wardround.runtimes.https.networked import reached, run_dir
from wardround.runtimes.https.office import Office, open_office
from wardround.runtimes.https.tables import asked, state, tasks

MOST_FILES = 1_000_000
MOST_MANIFEST = 256 << 20
BLOCK = 1 << 20


def restore(file: Path, folder: Path) -> Manifest:
    """Make a coordinator's folder from a backup.

    The file is not trusted: only plain files with plain names come out of it, and each must be the one
    that was put in. Sites are asked again for what the backup lacks; they give the same answers.

    Args:
        file: written by `backup`.
        folder: must not exist, or be empty.

    Raises:
        InputError: the file is no backup, or is damaged; or the folder is in use.
        StorageError: the folder cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is in use: a coordinator is restored into a folder of its own")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            place = Path(name) / "coordinator"
            place.mkdir(mode=0o700)
            manifest = _extract(file, place)
            _mend(place, manifest)
            if folder.exists():
                folder.rmdir()
            place.replace(folder)
    except OSError as error:
        raise StorageError(f"cannot restore {file} into {folder}: {error}") from error
    return manifest


def _extract(file: Path, place: Path) -> Manifest:
    """Raises InputError where the file is anything but a whole backup."""
    found: dict[str, tuple[int, str]] = {}
    manifest: Manifest | None = None
    free = shutil.disk_usage(place).free
    try:
        with tarfile.open(file, mode="r:") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None or manifest is not None or member.name in found or len(found) >= MOST_FILES:
                    raise InputError(f"{file} is not a backup of a coordinator")
                if member.name == MANIFEST:
                    manifest = Manifest.model_validate_json(content.read(MOST_MANIFEST))
                    continue
                free -= member.size
                if free < 0:
                    raise StorageError(f"{place.parent.parent} has not enough room for what is in {file}")
                found[member.name] = _write(content, place / _plain(file, member.name))
    except (tarfile.TarError, ValidationError, EOFError) as error:
        raise InputError(f"{file} is not a backup of a coordinator, or is damaged: {type(error).__name__}") from error
    if manifest is None or found != {name: tuple(entry) for name, entry in manifest.files.items()}:
        raise InputError(f"{file} is cut off or damaged: what is in it is not what was put in")
    return manifest


def _plain(file: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or len(name) > 500 or not name.isprintable():
        raise InputError(f"{file} is not a backup of a coordinator: a name in it leads elsewhere")
    return path


def _write(content: IO[bytes], path: Path) -> tuple[int, str]:
    """Copy to a new private file; returns its bytes and SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    total, size = hashlib.sha256(), 0
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
        while block := content.read(BLOCK):
            target.write(block)
            total.update(block)
            size += len(block)
        target.flush()
        os.fsync(target.fileno())
    return size, total.hexdigest()


def _mend(place: Path, manifest: Manifest) -> None:
    """Bring state and files together again: answers whose tensors are not here were never given."""
    try:
        office = open_office(place)
    except WardRoundError as error:
        raise InputError(f"what is in the backup cannot be opened: {error}") from error
    database = Database(office.settings.database or f"sqlite:///{place / 'state.sqlite'}", state, "FULL")
    try:
        _forget_missing(office, database)
        for row in office.store.runs():
            run = run_dir(place, row.digest)
            if row.model is not None and run.model.is_file() and file_digest(run.model) == row.model:
                office.store.blobs.offer(run.model, row.model)
            _close_past(office, database, row.digest)
        office.audit.append("restored", made=manifest.made, software=manifest.software)
    finally:
        database.close()
        office.close()


def _forget_missing(office: Office, database: Database) -> None:
    with database.write() as connection:
        given = select(asked.c.task, asked.c.site, asked.c.tensors).join(tasks, tasks.c.id == asked.c.task)
        given = given.where(asked.c.tensors.is_not(None) & tasks.c.closed.is_(None))
        for task, site, sha256 in connection.execute(given).all():
            if not office.store.blobs.given(sha256, site).is_file():
                here = (asked.c.task == task) & (asked.c.site == site)
                nothing = {"kind": None, "body": None, "tensors": None, "seconds": 0.0}
                connection.execute(update(asked).where(here).values(nothing))


def _close_past(office: Office, database: Database, digest: str) -> None:
    """The database is older than the checkpoints: tasks of rounds that ended since are over."""
    reach = reached(run_dir(office.folder, digest))
    if reach is not None:
        with database.write() as connection:
            past = (tasks.c.run == digest) & (tasks.c.round < reach.round) & tasks.c.closed.is_(None)
            connection.execute(update(tasks).where(past).values(closed=time.time()))
