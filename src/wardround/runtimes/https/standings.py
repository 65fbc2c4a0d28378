"""The coordinator learns how a site stands to each plan: at once when a person decides, in whichever process."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from wardround.core.errors import InputError
from wardround.core.messages import Digest
from wardround.runtimes.https.client import Client, Rejected
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.wire import Consent, Done
from wardround.site.consent import Consents

EVERY = 30.0  # seconds after which dataset and software are looked at without anybody's doing
Stamp = tuple[tuple[str, int, int], ...]


class Standings:
    """Keeps the coordinator's picture of this site's approvals up to date; see also `forget`."""

    def __init__(
        self,
        home: Home,
        consents: Consents,
        client: Client,
        over: Callable[[], Collection[str]] = tuple,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``over``: digests of runs that ended; of these only what people decide is told, the dataset may change."""
        self._home, self._consents, self._client, self._over, self._clock = home, consents, client, over, clock
        self._told: dict[str, list[str]] = {}  # all is told again at every start, and see `forget`
        self._seen: Stamp | None = None
        self._due = 0.0

    def tell(self) -> None:
        """Send what changed; costs a look at a folder where nothing did.

        Raises:
            Unreachable, Rejected: see `Client.call`; what was not told is told next time.
        """
        seen = self._stamp()
        if seen == self._seen and self._clock() < self._due:
            return
        over = self._over()
        for digest in self._consents.desk.digests():
            consent = self._decided(digest) if digest in over else self._stands(digest)
            if consent is not None and self._told.get(digest) != _key(consent):
                self.say(consent)
        self._seen, self._due = seen, self._clock() + EVERY

    def forget(self) -> None:
        """Tell all again: the coordinator was away, and may have come back from a backup that lacks some of it."""
        self._told, self._seen = {}, None

    def say(self, consent: Consent) -> None:
        """Send one standing, whatever was said before."""
        try:
            self._client.call("POST", "/v1/consent", consent, Done, "consent")
        except Rejected as error:
            if error.code != "not_found":
                raise
        say("standing_told", plan=consent.plan[:12], standing=consent.standing, reason=consent.reason)
        self._told[consent.plan] = _key(consent)

    def again(self, digest: Digest) -> None:
        """Send how the site stands to a plan, where the coordinator seems to think otherwise."""
        self.say(self._stands(digest))

    def _stands(self, digest: Digest) -> Consent:
        permission = self._consents.look_at(digest).permission
        return Consent(plan=digest, standing=permission.standing, reason=permission.reason)

    def _decided(self, digest: Digest) -> Consent | None:
        try:
            decision = self._consents.desk.decision(digest)
        except InputError:
            return None
        if decision is None:
            return None
        return Consent(plan=digest, standing=decision.standing, reason=decision.reason)

    def _stamp(self) -> Stamp:
        paths = [self._home.policy, *self._home.approvals.iterdir(), *self._home.requests.iterdir()]
        seen = []
        for path in paths:
            try:
                found = path.stat()
            except FileNotFoundError:
                continue  # replaced in this moment: its successor is another entry
            seen.append((path.name, found.st_mtime_ns, found.st_ino))
        return tuple(sorted(seen))


def _key(consent: Consent) -> list[str]:
    return [consent.standing, consent.reason]
