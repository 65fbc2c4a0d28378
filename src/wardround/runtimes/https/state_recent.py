"""What is old after minutes: nonces that were seen, signs of progress, who called when."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from wardround.runtimes.https.state_base import Base
from wardround.runtimes.https.tables import nonces, progress, visits
from wardround.runtimes.https.wire import SKEW

KEPT = 2 * SKEW + 60  # seconds that a nonce is remembered: longer than a request can be valid
_NONCE = insert(nonces)
_TAKEN = insert(progress)
_MOVED = update(progress).where((progress.c.task == bindparam("t")) & (progress.c.site == bindparam("s")))
_MOVED = _MOVED.values(moved=bindparam("now"))
_PROGRESS = select(progress).where(progress.c.task == bindparam("t"))


class Recent(Base):
    """See `wardround.runtimes.https.store.Store`."""

    def fresh(self, key: str, nonce: str, created: int) -> bool:
        """Remember a request's nonce; False where the key used it before."""
        try:
            with self._recent.write() as connection:
                connection.execute(_NONCE, {"key": key, "nonce": nonce, "created": created})
        except IntegrityError:
            return False
        return True

    def sweep(self) -> None:
        """Forget nonces of requests that are too old to be taken in any case."""
        with self._recent.write() as connection:
            connection.execute(delete(nonces).where(nonces.c.created < time.time() - KEPT))

    def take(self, task_id: str, site: str) -> None:
        """A site was told of a task. Being told again is no progress."""
        now = time.time()
        with suppress(IntegrityError), self._recent.write() as connection:
            connection.execute(_TAKEN, {"task": task_id, "site": site, "taken": now, "moved": now})

    def touch(self, task_id: str, site: str) -> None:
        """A site's work on a task moved on."""
        now = time.time()
        with suppress(IntegrityError), self._recent.write() as connection:  # another process just wrote it
            if connection.execute(_MOVED, {"t": task_id, "s": site, "now": now}).rowcount == 0:
                connection.execute(_TAKEN, {"task": task_id, "site": site, "taken": now, "moved": now})

    def saw(self, name: str, software: str | None = None) -> None:
        """Somebody called, with this software where it was said."""
        values = {"seen": time.time()} | ({} if software is None else {"software": software})
        with suppress(IntegrityError), self._recent.write() as connection:
            if connection.execute(update(visits).where(visits.c.name == name).values(values)).rowcount == 0:
                connection.execute(insert(visits).values({"name": name, "software": "", **values}))

    def seen(self) -> dict[str, tuple[float, str]]:
        """When each site or person called last (Unix time), and with which software."""
        with self._recent.read() as connection:
            return {row.name: (row.seen, row.software) for row in connection.execute(select(visits))}

    def _progress(self, task_id: str) -> dict[str, tuple[float, float]]:
        with self._recent.read() as connection:
            rows = connection.execute(_PROGRESS, {"t": task_id})
            return {row.site: (row.taken, row.moved) for row in rows}

    def _forget(self, task_ids: Sequence[str]) -> None:
        with self._recent.write() as connection:
            connection.execute(delete(progress).where(progress.c.task.in_(task_ids)))
