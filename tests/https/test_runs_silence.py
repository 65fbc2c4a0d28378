"""Sites that are silent in a run: how long they are waited for, and when they take part again."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_kit import World, once

from tiny import make_plan

STALL = 60


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_silent_site_is_late_after_the_stall_limit_and_comes_back(world: World) -> None:
    world.submit()
    once(world, "train", 0, lambda: world.asleep.add("C"))
    once(world, "train", 1, world.asleep.clear)
    world.conduct()
    assert world.weights() == [1 + 1.5 + 3] * 2
    assert [f for f in world.failures() if f[2] == "train"] == [("C", 0, "train", "late")]
    assert STALL <= world.now <= STALL + 10  # in training; in validation it had not been heard of yet


def test_progress_puts_the_stall_limit_off(world: World) -> None:
    world.submit()
    task = f"{world.digest}:0:train:0"
    begin: list[float] = []

    def trains_long() -> None:
        if world.events("task_opened")[-1]["task"] != task:
            return
        begin.append(world.now)
        world.asleep = {"C"} if world.now < begin[0] + 5 * STALL else set()
        if len(begin) % 30 == 0:
            world.office.store.touch(task, "C")

    world.hooks.append(trains_long)
    world.hooks.append(world.stay)
    world.conduct()
    assert world.weights() == [7.0, 7.0]
    assert world.now >= 5 * STALL


def test_below_the_quorum_it_waits_without_end_and_says_so_once(world: World) -> None:
    world.submit()
    waits: list[float] = []

    def asleep_for_long() -> None:
        if world.events("task_opened")[-1]["task"] == f"{world.digest}:0:train:0":
            waits.append(world.now)
            world.asleep = {"B", "C"} if world.now < waits[0] + 20 * STALL else set()

    world.hooks += [asleep_for_long, world.stay]
    world.conduct()
    assert world.weights() == [7.0, 7.0]
    assert world.failures() == []
    (told,) = world.events("waiting_for")
    assert (told["sites"], told["answered"], told["needed"]) == (["B", "C"], 1, 2)


@pytest.mark.parametrize("stall", [10, 60, 600])
def test_a_dead_site_is_waited_for_once_in_a_run(tmp_path: Path, stall: int) -> None:
    world = World(tmp_path, make_plan(rounds={"limit": 2, "stall": stall}))
    world.submit()
    once(world, "train", 0, lambda: world.asleep.add("C"))
    world.hooks.append(world.stay)
    world.conduct()
    late = [f[1:] for f in world.failures() if f[0] == "C"]
    assert late == [
        (0, "train", "late"),
        (1, "validate", "late"),
        (1, "train", "late"),
        (2, "validate", "late"),
        (2, "test", "late"),
    ]
    assert stall <= world.now < stall + 10
    assert [(e["site"], e["heard"]) for e in world.events("site_silent")] == [("C", world.office.store.seen()["C"][0])]


def test_a_restart_of_the_coordinator_does_not_make_a_dead_site_waited_for_again(world: World) -> None:
    world.submit()
    world.asleep = {"C"}

    def kill() -> None:
        raise KeyboardInterrupt

    once(world, "train", 1, kill)
    with pytest.raises(KeyboardInterrupt):
        world.conduct()
    assert world.now >= STALL
    world.now = 0.0
    world.restart()
    world.conduct()
    assert world.state == "ended"
    assert world.now < STALL


def test_a_silent_site_that_calls_in_the_middle_of_a_task_is_waited_for_in_it(world: World) -> None:
    world.submit()
    once(world, "train", 0, lambda: world.asleep.add("C"))
    begin: list[float] = []

    def calls() -> None:
        if world.events("task_opened")[-1]["task"] == f"{world.digest}:1:train:0":
            begin.append(world.now)
            world.office.store.saw("C") if len(begin) == 1 else None
            world.asleep = {"C"} if world.now < begin[0] + STALL / 2 else set()

    world.hooks += [calls, world.stay]
    world.conduct()
    assert world.weights() == [1 + 1.5 + 3] * 2
    assert [f for f in world.failures() if f[2] == "train"] == [("C", 0, "train", "late")]
