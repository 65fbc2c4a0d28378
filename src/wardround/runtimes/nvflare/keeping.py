"""Keeps a run going in a federation whose jobs end with their processes: submits the same job again.

All state lies in the coordinator's folder, so a second job of the same plan is a continuation. Whether
somebody carries a run out now shows in the run directory's lock, which goes with the process that held it:
it tells the truth after any kill, whatever NVFlare's lists say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wardround.core.errors import RunError
from wardround.planning.plan import Plan
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.transport import needed

STARTS = 90.0  # seconds in which a submitted job must begin
GATHER = 12.0  # seconds that a server that came up is given, until all sites are back: they beat every 10
REST, LONGEST = 10.0, 300.0  # seconds between jobs of which none carried the run out: the first pause, the longest
AWAY = 60.0  # seconds after which a site that is connected takes no part in the job


@dataclass(frozen=True)
class Seen:
    """What the NVFlare server says now."""

    started: str  # when the server did
    sites: Collection[str]  # connected
    jobs: Collection[str]  # ids of this run's jobs that run, or wait to


class Network(Protocol):
    """The NVFlare server. Each method raises OSError where it cannot be reached."""

    def look(self, name: str) -> Seen:
        """What there is; of jobs, those called ``name``."""
        ...

    def submit(self, folder: Path) -> str:
        """Submit a job; returns its id."""
        ...

    def abort(self, job: str) -> None:
        """End a job."""
        ...


class Keeper:
    """Looks after one run."""

    def __init__(
        self,
        office: Office,
        network: Network,
        plan: Plan,
        sites: Collection[str],
        job: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._office, self._network, self._plan, self._sites = office, network, plan, tuple(sites)
        self._job, self._say, self._clock = job, say, clock
        self._digest, self._name = plan.digest(), job.name
        self._up: tuple[str, float] = ("", 0.0)  # which start of the server, since when
        self._idle: float | None = None  # since when a job is there and nobody carries the run out
        self._called: dict[str, float] = {}  # when a site that was called back had been heard of last
        self._vain, self._again = 0, 0.0  # jobs in a row that carried nothing out; when the next may be submitted
        self._held_since = 0.0
        self._given: set[str] = set(self._sites)  # sites that the present job has, as far as is known
        self._down = False

    def step(self, name: str) -> str | None:
        """Do what is due; returns the run's state where it is over, else None.

        Args:
            name: of the run's jobs.
        """
        state = self._state()
        if state in ("ended", "failed", "aborted"):
            return state
        try:
            seen = self._network.look(name)
            if self._down:
                self._say("the NVFlare server answers again")
            self._down = False
            self._look(seen)
        except OSError as error:
            if not self._down:
                self._say(f"the NVFlare server does not answer: {error}")
            self._down = True
        return None

    def _look(self, seen: Seen) -> None:
        now = self._clock()
        if seen.started != self._up[0]:
            self._up = seen.started, now
        if self._held():
            self._held_since = self._held_since or now
            self._idle, self._vain, self._again = None, 0, 0.0
            self._call_back(seen)
            return
        self._held_since = 0.0
        if seen.jobs:
            self._idle = now if self._idle is None else self._idle
            if now - self._idle < STARTS:
                return
            for job in seen.jobs:
                self._say(f"job {job[:8]} does not begin: it is ended")
                self._network.abort(job)
        present = set(self._sites) & set(seen.sites)
        here = len(present)
        if here < needed(self._plan, len(self._sites)) or (here < len(self._sites) and now - self._up[1] < GATHER):
            return
        if now < self._again:
            return
        self._again, self._vain = now + min(LONGEST, REST * 2.0**self._vain), self._vain + 1
        self._idle, self._given = now, present
        self._say(f"submitted job {self._network.submit(self._job)[:8]}, {here} of {len(self._sites)} sites connected")

    def _call_back(self, seen: Seen) -> None:
        """A site that came back is not given a job that runs: that job is ended, and the next one has it."""
        if self._state() != "running":
            return
        for site, (heard, _) in self._office.store.seen().items():
            if site not in self._sites or site not in seen.sites or self._called.get(site) == heard:
                continue
            silent = time.time() - heard > AWAY and self._clock() - self._held_since > AWAY
            if silent or site not in self._given:
                self._called[site] = heard
                self._say(f"{site} is back and has no part in the job: a new job takes the place of the present one")
                for job in seen.jobs:
                    self._network.abort(job)
                return

    def _state(self) -> str | None:
        row = next((row for row in self._office.store.runs() if row.digest == self._digest), None)
        return None if row is None else row.state

    def _held(self) -> bool:
        """Whether a process carries the run out."""
        place = run_dir(self._office.folder, self._digest)
        if not place.root.is_dir():
            return False
        try:
            os.close(place.lock())
        except RunError:
            return True
        return False
