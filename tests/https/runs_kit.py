"""A federation in one process for tests: a real store, invented sites, a clock that moves when nothing else does.

Whenever a run waits, the sites that are awake do one thing each (in the same thread: nothing races), and
where nobody does anything the clock moves on.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.invented import Hospitals
from tiny import make_plan
from wardround.core.audit import read_entries
from wardround.core.messages import Answer, Reply, SiteFailed, Task
from wardround.core.rundir import RunDir, read_events
from wardround.core.weights import read_tensors
from wardround.planning.plan import Plan
from wardround.runtimes.https.conduct import Conduct, Means
from wardround.runtimes.https.networked import make_run_dir, run_dir
from wardround.runtimes.https.office import Office, found_office, open_office
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.wire import PROTOCOL, Consent, Join, Standing

URL = "https://localhost:8443"
IDLE = 100  # waits in which nothing happens, after which a test is stuck


class Stuck(BaseException):
    """A run waits for something that never comes. No exception that a run would take for a fault of its own."""


@dataclass
class World:
    """A coordinator and its sites A, B, C (see `Hospitals`: each adds its own step to the weights)."""

    folder: Path
    plan: Plan = field(default_factory=lambda: make_plan(rounds={"limit": 2, "stall": 60}))
    sites: tuple[str, ...] = ("A", "B", "C")
    curve: tuple[float, ...] = (0.1, 0.5, 0.6, 0.7)
    now: float = 0.0

    def __post_init__(self) -> None:
        steps = dict(zip(("A", "B", "C"), (1.0, 2.0, 6.0), strict=True))
        uploads = self.folder / "uploads"
        uploads.mkdir()
        self.hospitals = Hospitals(uploads, {site: steps[site] for site in self.sites}, list(self.curve))
        self.asleep: set[str] = set()
        self.hooks: list[Callable[[], None]] = []
        self.told: list[tuple[str, dict[str, object]]] = []
        self.reports = 0
        self._given: dict[tuple[str, str], Answer | SiteFailed] = {}
        self.office: Office = found_office(self.folder / "coordinator", URL)
        self._arm()
        for site in self.sites:
            self.join(site)

    # the coordinator

    def submit(self, approved: str = "ABC") -> str:
        self.office.store.add_run(self.plan, self.sites, "owner")
        make_run_dir(self.office.folder, self.plan, self.sites)
        for site in set(self.sites) & set(approved):
            self.stand(site, "approved")
        return self.plan.digest()

    def conduct(self) -> None:
        """Carry the run out until it is over; a fault in a test's hook ends it like `kill -9`."""
        means = Means(self.office, self._report, lambda event, facts: self.told.append((event, facts)))
        Conduct(Means(means.office, means.report, means.say, means.stopping, lambda: self.now), self.digest).go()

    def restart(self) -> None:
        """As after `kill -9`: everything is read from the disk again."""
        self.office.close()
        self.office = open_office(self.folder / "coordinator")
        self._arm()

    @property
    def digest(self) -> str:
        return self.plan.digest()

    @property
    def place(self) -> RunDir:
        return run_dir(self.office.folder, self.digest)

    @property
    def state(self) -> str:
        return self.office.store.run(self.digest).state

    def events(self, name: str) -> list[dict[str, object]]:
        return [event for event in read_events(self.place.events) if event["event"] == name]

    def audited(self, name: str) -> list[dict[str, object]]:
        return [entry for entry in read_entries(self.office.audit.path) if entry["event"] == name]

    def weights(self) -> list[float]:
        return [float(value) for value in read_tensors(self.place.root / "last.safetensors")["w"]]

    def failures(self) -> list[tuple[str, int, str, str]]:
        """(site, round, verb, kind) of every failure, each once."""
        found = [(e["site"], e["round"], e["verb"], e["kind"]) for e in self.events("site_failed")]
        return list(dict.fromkeys(found))  # type: ignore[arg-type]

    def stay(self) -> None:
        """A hook for tests in which the clock moves far: that is no sign of being stuck."""
        self._idle = itertools.count()

    # the sites

    def join(self, site: str) -> None:
        token = self.office.store.invite(site, "site", 1)
        key = public_hex(Ed25519PrivateKey.generate())
        request = Join(token=token, name=site, key=key, software="0.1.0", protocol=PROTOCOL)
        self.office.store.join(request, lambda *_: "certificate")

    def stand(self, site: str, standing: Standing, reason: str = "") -> None:
        self.office.store.set_standing(self.digest, site, Consent(plan=self.digest, standing=standing, reason=reason))

    def act(self, site: str) -> bool:
        """The next thing that a site does; False: nothing."""
        store = self.office.store
        store.saw(site)
        for view in store.views(site):
            if view.state == "running" and view.standing == "approved" and view.work is not None:
                self.give(site, self.answer(site, view.work))
                return True
        return False

    def answer(self, site: str, task: Task) -> Answer | SiteFailed:
        """Worked out once, then the stored one."""
        key = site, task.id
        if key not in self._given or isinstance(self._given[key], SiteFailed):
            sent = None if task.tensors is None else self.office.store.blobs.offered(task.tensors)
            (self._given[key],) = self.hospitals.ask(task, sent, [site])
        return self._given[key]

    def give(self, site: str, result: Answer | SiteFailed) -> None:
        store = self.office.store
        if isinstance(result, SiteFailed):
            store.give(result.task, site, result)
            return
        if result.tensors is not None and result.reply.tensors is not None:
            place = store.blobs.given(result.reply.tensors, site)
            place.write_bytes(result.tensors.read_bytes())
        store.give(result.reply.task, site, result.reply)

    def change(self, result: Answer, **changes: object) -> Answer:
        """Another reply than the site's own."""
        return Answer(Reply.model_validate({**result.reply.model_dump(), **changes}), result.tensors)

    def _arm(self) -> None:
        self._idle = itertools.count()
        self.office.store.wait = self._wait  # type: ignore[method-assign]

    def _wait(self, seen: int, timeout: float) -> int:
        store = self.office.store
        if store.version() != seen:
            return store.version()
        for hook in list(self.hooks):
            hook()
        acted = [site for site in self.sites if site not in self.asleep and self.act(site)]
        if acted or store.version() != seen:
            self._idle = itertools.count()
        else:
            self.now += timeout
            if next(self._idle) > IDLE:
                raise Stuck(self.told[-1:])
        return store.version()

    def _report(self, _place: RunDir) -> None:
        self.reports += 1


def once(world: World, verb: str, number: int, act: object) -> None:
    """Do something the first time that the run waits in this task."""

    def hook() -> None:
        if world.events("task_opened")[-1]["task"] == f"{world.digest}:{number}:{verb}:0":
            world.hooks.remove(hook)
            act()  # type: ignore[operator]

    world.hooks.append(hook)
