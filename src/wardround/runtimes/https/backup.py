"""A coordinator in one file: its keys, its state, its runs. Losing the machine must not end a federation.

The file is a tar, mode 0600: it holds the federation's private keys. It is consistent while the server
runs: the database is copied by SQLite's own online backup, and everything else in the folder is written
once or replaced whole (logs only grow). The database is copied first, so that no run's checkpoint is older
than what the database says of it: sites give their last answers again where a copy lacks them.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from wardround import __version__
from wardround.core.errors import InputError, StorageError
from wardround.core.frozen import Frozen
from wardround.core.messages import Digest
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.office import Office

PLAIN = ("federation.json", "identity.pem", "authority.pem", "authority-key.pem", "server.pem", "server-key.pem")
DATABASES = ("state.sqlite", "recent.sqlite")
MANIFEST = "backup.json"


class Manifest(Frozen):
    """What a backup holds; its last member."""

    format: Literal[1] = 1
    federation: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    name: str
    made: float  # Unix time
    software: str
    files: dict[str, tuple[int, Digest]]  # path -> bytes, SHA-256


def backup(office: Office, file: Path, with_blobs: bool = False) -> Manifest:
    """Write everything that the federation needs into one new file.

    Args:
        office: the coordinator's folder, being served or not.
        file: must not exist; gets mode 0600.
        with_blobs: also models and answers that are on their way; without them, sites send them again.

    Raises:
        InputError: the file exists.
        StorageError: it cannot be written.
    """
    if file.exists():
        raise InputError(f"{file} exists: a backup never overwrites one")
    part = file.with_name(file.name + ".part")
    try:
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=office.folder) as name:
            _stage(office, Path(name), with_blobs)
            part.unlink(missing_ok=True)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as raw:
                manifest = _write_tar(raw, Path(name), office)
                raw.flush()
                os.fsync(raw.fileno())
        part.replace(file)
    except (OSError, sqlite3.Error) as error:
        part.unlink(missing_ok=True)
        raise StorageError(f"cannot write the backup {file}: {error}") from error
    office.audit.append("backed_up", files=len(manifest.files), blobs=with_blobs)
    return manifest


def _stage(office: Office, stage: Path, with_blobs: bool) -> None:
    """A copy of the folder as of now, mostly hard links."""
    for name in DATABASES:
        if (office.folder / name).is_file():
            _copy_database(office.folder / name, stage / name)
    for name in PLAIN:
        if (office.folder / name).is_file():
            _link(office.folder / name, stage / name)
    if (office.folder / "audit.jsonl").is_file():
        shutil.copyfile(office.folder / "audit.jsonl", stage / "audit.jsonl")
    for row in office.store.runs():
        source = run_dir(office.folder, row.digest).root
        if (source / "run.json").is_file():
            _stage_run(source, stage / "runs" / source.name)
    if with_blobs:
        for path in _files(office.store.blobs.folder):
            if "partial" not in path.parts:
                _link(office.store.blobs.folder / path, stage / "blobs" / path)


def _stage_run(source: Path, target: Path) -> None:
    """The log first and the checkpoint next: what a copy's log tells has happened in its files, as after a kill."""
    target.mkdir(parents=True)
    for path in _files(source):
        if path.suffix == ".jsonl" or path.parts[0] == "tensorboard":
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, target / path)
    for _ in range(100):  # rounds may end meanwhile, and old checkpoints go
        shutil.rmtree(target / "rounds", ignore_errors=True)
        for path in _files(source / "rounds"):
            _link(source / "rounds" / path, target / "rounds" / path)
        _link(source / "latest", target / "latest", again=True)
        newest = (target / "latest").read_text(encoding="utf-8").strip()
        if not newest or _whole(target / "rounds" / newest):
            break
    else:
        raise OSError(f"the checkpoints of {source.name} change too fast")
    for path in _files(source):
        if not (target / path).exists() and path.parts[0] != "rounds" and path.name != ".lock":
            _link(source / path, target / path)


def _whole(checkpoint: Path) -> bool:
    return (checkpoint / "state.json").is_file() and (checkpoint / "model.safetensors").is_file()


def _files(folder: Path) -> Iterator[Path]:
    """All finished files below a folder, relative to it; those that vanish meanwhile are passed over."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not path.is_symlink() and not any(part.endswith(".part") for part in relative.parts):
            yield relative


def _link(source: Path, target: Path, again: bool = False) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if again:
        target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except FileNotFoundError:
        return
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _copy_database(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, timeout=60)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


def _write_tar(raw: Any, stage: Path, office: Office) -> Manifest:
    files = {}
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in _files(stage):
            with (stage / path).open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                size = content.tell()
                content.seek(0)
                tar.addfile(_member(str(path), size), content)
            files[str(path)] = size, sha256
        settings = office.settings
        manifest = Manifest(
            federation=settings.id, name=settings.name, made=time.time(), software=__version__, files=files
        )
        text = manifest.model_dump_json().encode()
        tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
    return manifest


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    return member
