"""A run is kept going: one job at a time, a new one where the old one died, none where the run is over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flare_kit import Federation

from tiny import make_plan
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.people import Person, act
from wardround.runtimes.https.people_wire import Submit
from wardround.runtimes.nvflare.enrolment import hold_places
from wardround.runtimes.nvflare.keeping import AWAY, GATHER, STARTS, Keeper, Seen

SITES = ("A", "B", "C")
PLAN = make_plan(rounds={"limit": 3, "quorum": 2})


@dataclass
class Network:
    started: str = "first"
    sites: set[str] = field(default_factory=lambda: set(SITES))
    jobs: list[str] = field(default_factory=list)
    down: bool = False
    submitted: int = 0
    aborted: list[str] = field(default_factory=list)

    def look(self, name: str) -> Seen:
        if self.down:
            raise OSError("no connection")
        return Seen(self.started, set(self.sites), list(self.jobs))

    def submit(self, folder: Path) -> str:
        self.submitted += 1
        self.jobs = [f"job-{self.submitted}"]
        return self.jobs[0]

    def abort(self, job: str) -> None:
        self.aborted.append(job)
        self.jobs = [one for one in self.jobs if one != job]


@dataclass
class World:
    federation: Federation
    network: Network = field(default_factory=Network)
    now: float = 1000.0
    said: list[str] = field(default_factory=list)
    lock: int | None = None

    def __post_init__(self) -> None:
        office = self.federation.office
        hold_places(office, SITES)
        act(office, Person("anna", "owner"), Submit(plan=PLAN.canonical(), sites=SITES))
        self.office = office
        self.keeper = self.new()

    def new(self) -> Keeper:
        return Keeper(self.office, self.network, PLAN, SITES, Path("job"), self.said.append, lambda: self.now)

    def step(self, seconds: float = 1.0) -> str | None:
        self.now += seconds
        return self.keeper.step("wardround-x")

    def hold(self) -> None:
        self.lock = run_dir(self.office.folder, PLAN.digest()).lock()

    def die(self) -> None:
        if self.lock is not None:
            os.close(self.lock)
            self.lock = None


@pytest.fixture
def world(federation: Federation) -> Iterator[World]:
    found = World(federation)
    yield found
    found.die()


def test_a_job_is_submitted_once(world: World) -> None:
    for _ in range(5):
        assert world.step() is None
    assert world.network.submitted == 1


def test_while_somebody_carries_the_run_out_nothing_is_done(world: World) -> None:
    world.step()
    world.hold()
    for _ in range(500):
        world.step()
    assert (world.network.submitted, world.network.aborted) == (1, [])


def test_a_job_that_died_is_followed_by_another(world: World) -> None:
    world.step()
    world.hold()
    world.step()
    world.die()
    world.network.jobs = []
    world.step()
    assert world.network.submitted == 2


def test_a_server_that_came_back_is_given_time_to_gather_its_sites(world: World) -> None:
    world.step()
    world.hold()
    world.network.down = True
    world.die()
    world.step(5)
    world.network = world.keeper._network = Network("second", {"A", "B"})  # type: ignore[assignment]
    world.step()
    assert world.network.submitted == 0
    world.step(GATHER)
    assert world.network.submitted == 1


def test_when_all_sites_are_back_nothing_is_waited_for(world: World) -> None:
    world.network.started = "second"
    world.step()
    assert world.network.submitted == 1


def test_below_the_quorum_no_job_begins(world: World) -> None:
    world.network.sites = {"A"}
    world.step(10 * GATHER)
    assert world.network.submitted == 0


def test_a_job_that_never_begins_is_replaced(world: World) -> None:
    world.step()
    world.step(STARTS / 2)
    assert world.network.aborted == []
    world.step(STARTS)
    assert (world.network.submitted, world.network.aborted) == (2, ["job-1"])


def test_jobs_that_end_before_they_began_are_not_submitted_without_a_pause(world: World) -> None:
    for _ in range(600):
        world.step()
        world.network.jobs = []
    assert 2 < world.network.submitted < 10


def test_another_keeper_takes_over(world: World) -> None:
    world.step()
    world.keeper = world.new()
    world.step()
    assert world.network.submitted == 1


@pytest.mark.parametrize("state", ["failed", "aborted"])
def test_a_run_that_is_over_is_left_alone(world: World, state: str) -> None:
    world.office.store.set_run(PLAN.digest(), state)  # type: ignore[arg-type]
    assert world.step() == state
    assert world.network.submitted == 0


def test_an_outage_is_told_once(world: World) -> None:
    world.network.down = True
    for _ in range(5):
        world.step()
    assert len(world.said) == 1


def test_a_site_that_was_not_there_when_the_job_began_is_given_the_next_one(world: World) -> None:
    world.office.store.saw("C")
    world.network.sites = {"A", "B"}
    world.step()
    world.step(GATHER)
    assert world.network.submitted == 1
    world.hold()
    world.office.store.set_run(PLAN.digest(), "running")
    world.step()
    assert world.network.aborted == []
    world.network.sites = set(SITES)
    world.step()
    assert world.network.aborted == ["job-1"]
    world.die()
    world.step()
    assert world.network.submitted == 2
    world.hold()
    world.step()
    assert world.network.aborted == ["job-1"]


def test_a_site_that_came_back_is_called_in_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.step()
    world.hold()
    world.office.store.set_run(PLAN.digest(), "running")
    world.step()
    world.office.store.saw("C")
    heard = world.office.store.seen()["C"][0]
    monkeypatch.setattr("time.time", lambda: heard + AWAY + 1)
    world.step(2 * AWAY)
    assert world.network.aborted == ["job-1"]
    world.network.jobs = ["job-1"]
    for _ in range(5):
        world.step()
    assert world.network.aborted == ["job-1"]  # not heard of since: it is not waited for again
