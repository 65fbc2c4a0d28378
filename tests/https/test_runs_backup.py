"""A backup taken at any moment of a run continues it to the same end; what is no whole backup is refused."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from runs_kit import World

from wardround.core.audit import read_entries
from wardround.core.errors import InputError
from wardround.core.weights import file_digest
from wardround.runtimes.https.backup import backup
from wardround.runtimes.https.office import open_office
from wardround.runtimes.https.restore import restore


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def saved(world: World, name: str = "backup.tar", with_blobs: bool = False) -> Path:
    file = world.folder / name
    backup(world.office, file, with_blobs)
    return file


def bring_back(world: World, file: Path) -> None:
    """The coordinator's machine is lost; the sites are where they are."""
    world.office.close()
    shutil.rmtree(world.folder / "coordinator")
    restore(file, world.folder / "coordinator")
    world.restart()


@pytest.mark.parametrize("with_blobs", [False, True])
def test_a_backup_of_any_moment_ends_as_the_run_that_went_on(tmp_path: Path, with_blobs: bool) -> None:
    world = World(tmp_path)
    world.submit()
    files: list[Path] = []
    world.hooks.append(lambda: files.append(saved(world, f"{len(files)}.tar", with_blobs)))
    world.conduct()
    expected, model = world.weights(), file_digest(world.place.model)
    world.hooks.clear()
    assert len(files) >= 6
    for file in files:
        bring_back(world, file)
        world.conduct()
        assert (world.state, world.weights(), file_digest(world.place.model)) == ("ended", expected, model)
        assert world.failures() == []


def test_a_restored_coordinator_is_the_same_to_its_sites(world: World) -> None:
    world.submit()
    world.conduct()
    before, row = world.office.federation.fingerprint, world.office.store.run(world.digest)
    audit = list(read_entries(world.office.audit.path))
    bring_back(world, saved(world))
    assert world.office.federation.fingerprint == before
    assert world.office.store.run(world.digest) == row
    assert world.office.store.blobs.offered(row.model or "").read_bytes() == world.place.model.read_bytes()
    again = list(read_entries(world.office.audit.path))
    assert again[: len(audit)] == audit
    assert [entry["event"] for entry in again[len(audit) :]] == ["restored"]
    assert [one.name for one in world.office.store.sites()] == ["A", "B", "C"]


def test_what_is_secret_stays_private(world: World) -> None:
    file = saved(world)
    assert file.stat().st_mode & 0o777 == 0o600
    bring_back(world, file)
    for path in world.office.folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0 or not path.is_file(), path
    assert world.office.folder.stat().st_mode & 0o777 == 0o700


def test_a_backup_overwrites_nothing(world: World) -> None:
    saved(world)
    with pytest.raises(InputError, match="never overwrites"):
        saved(world)
    with pytest.raises(InputError, match="in use"):
        restore(world.folder / "backup.tar", world.office.folder)
    assert not list(world.office.folder.glob(".backup-*"))


def rewritten(file: Path, change: Callable[[str, bytes], list[tuple[str, bytes]]]) -> Path:
    """The same tar with each member replaced by what ``change`` makes of it."""
    target = file.with_name("other.tar")
    with tarfile.open(file) as old, tarfile.open(target, "w") as new:
        for member in old:
            content = old.extractfile(member)
            assert content is not None
            for name, data in change(member.name, content.read()):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
    return target


CHANGES: dict[str, Callable[[str, bytes], list[tuple[str, bytes]]]] = {
    "changed": lambda name, data: [(name, data[:-1] + b"?" if name == "identity.pem" else data)],
    "missing": lambda name, data: [] if name == "state.sqlite" else [(name, data)],
    "added": lambda name, data: [(name, data), ("runs/x", b"")] if name == "state.sqlite" else [(name, data)],
    "no manifest": lambda name, data: [] if name == "backup.json" else [(name, data)],
    "another manifest": lambda name, data: [(name, b"{}" if name == "backup.json" else data)],
    "upwards": lambda name, data: [(f"../{name}" if name == "identity.pem" else name, data)],
    "absolute": lambda name, data: [(f"/tmp/{name}" if name == "identity.pem" else name, data)],  # noqa: S108
    "twice": lambda name, data: [(name, data)] * (2 if name == "identity.pem" else 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_a_whole_backup_is_refused(world: World, change: str) -> None:
    file = rewritten(saved(world), CHANGES[change])
    with pytest.raises(InputError, match=r"not a backup|cut off or damaged"):
        restore(file, world.folder / "new")
    assert sorted(path.name for path in world.folder.iterdir()) == ["backup.tar", "coordinator", "other.tar", "uploads"]


def test_links_and_other_files_are_refused(world: World) -> None:
    file = saved(world)
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
        target = world.folder / "link.tar"
        with tarfile.open(target, "w") as tar:
            member = tarfile.TarInfo("identity.pem")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
        with pytest.raises(InputError, match="not a backup"):
            restore(target, world.folder / "new")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r"damaged|cut off"):
        restore(file, world.folder / "new")
    file.write_bytes(b"no tar at all")
    with pytest.raises(InputError, match="not a backup"):
        restore(file, world.folder / "new")


def test_a_restored_folder_can_be_opened_by_itself(world: World) -> None:
    restore(saved(world), world.folder / "new")
    office = open_office(world.folder / "new")
    assert office.settings == world.office.settings
    office.close()
