"""All runs of a coordinator, with the threads that a server has. The sites act in the test's own thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs_kit import World

from wardround.core.errors import StorageError
from wardround.runtimes.https import conduct
from wardround.runtimes.https.driver import AGAIN, Driver
from wardround.runtimes.https.store import Store

PATIENCE = 60.0  # seconds after which a test has failed; none waits for so long otherwise


class Served:
    """A driver over a world, and sites that act whenever something is written."""

    def __init__(self, world: World) -> None:
        self.world, self.said = world, list[tuple[str, dict[str, Any]]]()
        del world.office.store.wait  # type: ignore[attr-defined] # threads wait as they do in a server
        self.now = 0.0
        means = conduct.Means(world.office, lambda _: None, self._say, clock=lambda: self.now)
        self.driver = Driver(world.office, means.report, means.say, means)

    def __enter__(self) -> Served:
        self.driver.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.stop()

    def until(self, done: Callable[[], bool]) -> None:
        """Let the sites act until it is so."""
        store, end = self.world.office.store, time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, self.said
            seen = store.version()
            if not any(self.world.act(site) for site in self.world.sites if site not in self.world.asleep):
                store.wait(seen, 0.1)

    def _say(self, event: str, facts: dict[str, Any]) -> None:
        self.said.append((event, facts))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_run_that_is_submitted_while_serving_ends(world: World) -> None:
    with Served(world) as served:
        world.submit()
        served.until(lambda: world.state == "ended")
    assert world.weights() == [7.0, 7.0]
    assert [facts["state"] for event, facts in served.said if event == "run_state"] == ["running", "ended"]


def test_a_run_goes_on_in_the_next_server(world: World) -> None:
    world.submit()
    with Served(world) as served:
        served.until(lambda: bool(world.place.events.is_file() and world.events("round_ended")))
    assert world.state == "running"
    assert not served.driver._threads
    world.restart()
    with Served(world) as served:
        served.until(lambda: world.state == "ended")
    assert world.weights() == [7.0, 7.0]


def test_a_failed_run_rests_until_it_is_resumed(world: World) -> None:
    world.submit()
    world.hospitals.failing = {("B", 1): "no memory", ("C", 1): "no disk"}
    with Served(world) as served:
        served.until(lambda: world.state == "failed" and not served.driver._threads)
        world.hospitals.failing = {}
        world.office.store.set_run(world.digest, "waiting")
        served.until(lambda: world.state == "ended")
    assert world.weights() == [7.0, 7.0]


def test_an_abort_without_a_server_is_written_down_by_the_next(world: World) -> None:
    world.submit()
    with Served(world) as served:
        served.until(lambda: world.place.events.is_file() and bool(world.events("round_ended")))
    world.office.store.set_run(world.digest, "aborted", "enough")
    world.restart()
    with Served(world) as served:
        served.until(lambda: bool(world.events("run_stopped")) and not served.driver._threads)
    assert world.events("run_stopped")[0]["reason"] == "aborted"
    world.restart()
    with Served(world) as served:
        before = served.driver._seen
        served.until(lambda: served.driver._seen != before)
    assert len(world.events("run_stopped")) == 1


def test_a_run_that_could_not_write_is_tried_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    finish, full = Store.finish_run, [True]

    def failing(store: Store, *args: Any) -> Any:
        if full:
            raise StorageError("the disk is full")
        return finish(store, *args)

    def cannot_fail(store: Store, digest: str, state: Any, note: str = "") -> Any:
        if full and state == "failed":
            raise StorageError("the disk is full")
        return set_run(store, digest, state, note)

    set_run = Store.set_run
    monkeypatch.setattr(Store, "finish_run", failing)
    monkeypatch.setattr(Store, "set_run", cannot_fail)
    world.submit()
    with Served(world) as served:
        served.until(lambda: any(event == "run_stumbled" for event, _ in served.said))
        assert world.state == "running"
        full.clear()
        served.now += AGAIN + 1
        served.until(lambda: world.state == "ended")
    assert world.weights() == [7.0, 7.0]
