"""Who takes part in a run now: who has approved, and how long each site has been silent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wardround.core.messages import FailureKind
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import Standing

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


def silent_before(events: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The last sign of life of each site that was late, as a run's log tells it: see `Silence.missed`."""
    return {
        str(event["site"]): event["heard"]
        for event in events
        if event.get("event") == "site_silent" and "site" in event and "heard" in event
    }


class Silence:
    """For how long each site gave no sign of progress, by a clock that nobody sets.

    Signs are times in the store. What counts is when a change of them is seen here, so that neither a
    clock that is put right nor an outage of the coordinator makes a site late.
    """

    def __init__(self, clock: Callable[[], float], gone: Mapping[str, float | None] | None = None) -> None:
        """``gone``: see `silent_before`; who was heard of since is not gone any more."""
        self._clock = clock
        self._signs: dict[str, tuple[float, float]] = {}  # of progress: (sign, when it was first seen here)
        self._heard: Mapping[str, float] = {}  # signs of life
        self._gone = dict(gone or {})  # the last sign of life of who was late and gave no other since

    def begin(self) -> None:
        """A task is put to the sites: all of them begin anew."""
        self._signs = {}

    def note(self, progress: Mapping[str, float], heard: Mapping[str, float]) -> None:
        """Take in what the store says now."""
        now, self._heard = self._clock(), dict(heard)
        for site, sign in progress.items():
            if site not in self._signs or self._signs[site][0] != sign:
                self._signs[site] = (sign, now)
        self._gone = {site: sign for site, sign in self._gone.items() if heard.get(site) == sign}

    def late(self, site: str, limit: float) -> bool:
        """No progress for ``limit`` seconds; a site that is gone is late at once."""
        now = self._clock()
        return site in self._gone or now - self._signs.get(site, (0.0, now))[1] >= limit

    def missed(self, site: str) -> tuple[float | None] | None:
        """A site was late. Until it is heard of again, it is not waited for in the tasks to come.

        Returns its last sign of life (None in it: there was none), to be kept; None where it was gone before.
        """
        if site in self._gone:
            return None
        self._gone[site] = self._heard.get(site)
        return (self._gone[site],)
