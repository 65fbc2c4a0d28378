"""Killed anywhere, a run goes on to the same end: the same weights, the same survivors, the same failures.

Every write that lasts is a place to die at: before a file is on the disk, before a transaction counts,
and after either.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from runs_kit import World
from sqlalchemy import Connection

from wardround.runtimes.https.database import Database
from wardround.runtimes.https.networked import reached


class Killed(BaseException):
    """As `kill -9`: nothing catches it."""


class Bomb:
    """Counts the places and goes off at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.places, self._at = 0, at
        fsync, write = os.fsync, Database.write

        def dying_fsync(handle: int) -> None:
            self.place()
            fsync(handle)
            self.place()

        @contextmanager
        def dying_write(database: Database) -> Iterator[Connection]:
            with write(database) as connection:
                yield connection
                self.place()
            self.place()

        monkeypatch.setattr(os, "fsync", dying_fsync)
        monkeypatch.setattr(Database, "write", dying_write)

    def place(self) -> None:
        self.places += 1
        if self.places == self._at:
            raise Killed


def rehearse(folder: Path) -> World:
    """C sleeps through the first training, and B cannot do the second."""
    folder.mkdir()
    world = World(folder)
    world.submit(approved="")
    for site in "ABC":
        world.stand(site, "approved")
    world.hospitals.failing = {("B", 1): "no power"}

    def hook() -> None:
        opened = world.events("task_opened")
        asleep = bool(opened) and opened[-1]["task"] == f"{world.digest}:0:train:0"
        if world.asleep and not asleep:
            world.office.store.saw("C")  # it calls when it is back: until then nobody waits for it
        world.asleep = {"C"} if asleep else set()
        world.now += 9 if asleep else 0  # the stall limit passes faster

    world.hooks.append(hook)
    return world


def told(world: World) -> dict[str, Any]:
    """All that must not depend on a kill."""
    row, state = world.office.store.run(world.digest), reached(world.place)
    return {
        "state": row.state,
        "outcome": row.outcome,
        "model": row.model,
        "weights": world.weights(),
        "counted": None if state is None else state.accepted,
        "failures": sorted(world.failures()),
    }


def killed_at(folder: Path, place: int) -> tuple[dict[str, Any], int]:
    world = rehearse(folder)
    with pytest.MonkeyPatch.context() as patch:
        bomb = Bomb(patch, place)
        with suppress(Killed):
            world.conduct()
    world.restart()
    if world.state != "ended":
        world.conduct()
    found = told(world)
    world.office.close()
    return found, bomb.places


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], int]:
    return killed_at(tmp_path_factory.mktemp("whole") / "run", 0)


def test_the_undisturbed_run_is_what_was_rehearsed(undisturbed: tuple[dict[str, Any], int]) -> None:
    expected, places = undisturbed
    assert expected["state"] == "ended"
    assert expected["counted"] == {"A": 1, "B": 0, "C": 1}
    assert expected["weights"] == [1 + 1.5 + 3.5] * 2
    assert expected["failures"] == [("B", 1, "train", "error"), ("C", 0, "train", "late")]
    assert places > 200


@pytest.mark.parametrize("part", range(8))
def test_killed_at_some_places(tmp_path: Path, undisturbed: tuple[dict[str, Any], int], part: int) -> None:
    expected, places = undisturbed
    assert killed_at(tmp_path / "run", 1 + (2 * part + 1) * places // 16)[0] == expected


@pytest.mark.slow
def test_killed_at_every_place(tmp_path: Path, undisturbed: tuple[dict[str, Any], int]) -> None:
    expected, places = undisturbed
    other = [n for n in range(1, places + 1) if killed_at(tmp_path / str(n), n)[0] != expected]
    assert other == []
