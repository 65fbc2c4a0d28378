"""The coordinator's durable state: principals, runs, tasks, and what sites gave.

Every write is on the disk when the call returns. Any thread may call; other processes (the command line)
may write at the same time. Files: ``state.sqlite`` (or another database by its SQLAlchemy URL),
``recent.sqlite`` and ``blobs/`` in the coordinator's folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from sqlalchemy import delete, insert, select

from wardround.core.audit import SignedHead
from wardround.runtimes.https.state_principals import KeyRow, Principal, Principals, Role
from wardround.runtimes.https.state_recent import Recent
from wardround.runtimes.https.state_runs import RunRow, Runs, RunState, View
from wardround.runtimes.https.state_tasks import Outcome, Tasks
from wardround.runtimes.https.tables import heads

__all__ = ["KeyRow", "Outcome", "Principal", "Role", "RunRow", "RunState", "Store", "View"]

KEPT = 100  # signed heads of a site


class Store(Principals, Runs, Tasks, Recent):
    """All parts of the state in one."""

    @classmethod
    def open(cls, folder: Path, url: str | None = None) -> Self:
        """The state in a coordinator's folder, made where there is none.

        Args:
            folder: of the coordinator.
            url: SQLAlchemy's name of a database instead of ``state.sqlite``, as ``postgresql+psycopg://...``.

        Raises:
            StorageError: it cannot be opened, or has another format.
        """
        return cls(folder, url)

    def add_head(self, site: str, head: SignedHead, own: bool = False) -> None:
        """Keep a signed head: of a site's log, signed here; or (``own``) of the coordinator's, signed by the site.

        A head vouches for all entries before it: of each kind only the newest `KEPT` stay.
        """
        values = {"length": head.length, "hash": head.hash, "time": head.time, "signature": head.signature}
        with self._write(duties=False) as connection:
            connection.execute(insert(heads).values(site=site, own=int(own), **values))
            here = (heads.c.site == site) & (heads.c.own == int(own))
            newest = select(heads.c.number).where(here).order_by(heads.c.number.desc())
            last = connection.scalar(newest.offset(KEPT).limit(1))
            if last is not None:
                connection.execute(delete(heads).where(here & (heads.c.number <= last)))

    def last_head(self, site: str, own: bool = False) -> SignedHead | None:
        """The newest of `add_head`."""
        here = (heads.c.site == site) & (heads.c.own == int(own))
        with self._state.read() as connection:
            query = select(heads).where(here).order_by(heads.c.number.desc()).limit(1)
            row = connection.execute(query).one_or_none()
        return None if row is None else _signed_head(row)

    def own_heads(self) -> list[tuple[str, SignedHead]]:
        """Heads of the coordinator's own log that sites signed, oldest first, with the site's name."""
        with self._state.read() as connection:
            rows = connection.execute(select(heads).where(heads.c.own == 1).order_by(heads.c.number)).all()
        return [(row.site, _signed_head(row)) for row in rows]


def _signed_head(row: Any) -> SignedHead:
    return SignedHead(length=row.length, hash=row.hash, time=row.time, signature=row.signature)
