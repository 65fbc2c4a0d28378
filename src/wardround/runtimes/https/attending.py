"""Who takes part in a run now: who has approved, and how long each site has been silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wardround.core.messages import FailureKind
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import WAIT, Standing

GONE = 2 * WAIT  # a site that polls is heard of more often than every so many seconds
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Stand:
    """How a site stands to a run. ``reason`` may be shown."""

    standing: Standing
    reason: str = ""

    @property
    def missing(self) -> tuple[FailureKind, str] | None:
        """As what it is missing from a task; None where it has approved."""
        if self.standing == "approved":
            return None
        if self.standing == "pending":
            return "pending", self.reason or "waiting for approval"
        words = "revoked its approval" if self.standing == "revoked" else "refused the plan"
        return "refused", f"{words}: {self.reason}"[:500] if self.reason else words


class Roll:
    """The standings of a run's sites; a change is told once, as the event ``site_standing``."""

    def __init__(self, store: Store, digest: str, told: Mapping[str, str], tell: Tell) -> None:
        """``told`` is what was told before, by site: see `told_before`."""
        self._store, self._digest, self._tell = store, digest, tell
        self._told = dict(told)

    def look(self) -> dict[str, Stand]:
        """How every site of the roster stands now."""
        said, reasons = self._store.standings(self._digest), self._store.reasons(self._digest)
        out = {one.name: one.reason for one in self._store.sites() if not one.active}
        stands = {site: Stand(standing, reasons.get(site, "")) for site, standing in said.items()}
        for site in out.keys() & stands.keys():
            stands[site] = Stand("revoked", f"the coordinator revoked the site's key: {out[site]}")
        for site, stand in stands.items():
            if stand.standing != self._told.get(site, "pending"):
                self._told[site] = stand.standing
                self._tell("site_standing", {"site": site, "standing": stand.standing, "reason": stand.reason})
        return stands


def told_before(events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The last standing of each site that a run's log tells."""
    return {
        str(event["site"]): str(event["standing"])
        for event in events
        if event.get("event") == "site_standing" and "site" in event and "standing" in event
    }


class Silence:
    """For how long each site gave no sign of progress, by a clock that nobody sets.

    Signs are times in the store. What counts is when a change of them is seen here, so that neither a
    clock that is put right nor an outage of the coordinator makes a site late.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._signs: dict[str, tuple[float, float]] = {}  # of progress: (sign, when it was first seen here)
        self._heard: dict[str, tuple[float, float]] = {}  # of life
        self._gone: set[str] = set()

    def begin(self) -> None:
        """A task is put to the sites: all of them begin anew."""
        self._signs = {}

    def note(self, progress: Mapping[str, float], heard: Mapping[str, float]) -> None:
        """Take in what the store says now."""
        now = self._clock()
        for known, said in ((self._signs, progress), (self._heard, heard)):
            for site, sign in said.items():
                if site not in known or known[site][0] != sign:
                    known[site] = (sign, now)
                    if known is self._heard:
                        self._gone.discard(site)

    def late(self, site: str, limit: float) -> bool:
        """No progress for ``limit`` seconds; a site that is gone is late at once."""
        now = self._clock()
        return site in self._gone or now - self._signs.get(site, (0.0, now))[1] >= limit

    def missed(self, site: str) -> None:
        """A site was late. Unless it is heard of, it is not waited for in the tasks to come."""
        if self._clock() - self._heard.get(site, (0.0, float("-inf")))[1] > GONE:
            self._gone.add(site)
