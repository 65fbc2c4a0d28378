"""What the parts of the store share: transactions that tell whoever waits that something changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from wardround.core.errors import StorageError
from wardround.runtimes.https.blobs import Blobs
from wardround.runtimes.https.database import Database
from wardround.runtimes.https.tables import SCHEMA, counters, recent, state

OTHERS = 1.0  # seconds after which a write by another process is noticed at the latest
_COUNTER = select(counters.c.value).where(counters.c.name == bindparam("n"))
_RAISE = update(counters).where(counters.c.name == bindparam("n")).values(value=counters.c.value + 1)
_RAISE = _RAISE.returning(counters.c.value)


class Base:
    """Holds the databases; see `wardround.runtimes.https.store.Store`."""

    def __init__(self, folder: Path, url: str | None) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.blobs = Blobs(folder / "blobs")
        self._state = Database(url or f"sqlite:///{folder / 'state.sqlite'}", state, "FULL")
        self._recent = Database(url or f"sqlite:///{folder / 'recent.sqlite'}", recent, "NORMAL")
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], object]] = []
        self._begin()
        self._latest = self.version()

    def _begin(self) -> None:
        with suppress(IntegrityError), self._state.write() as connection:  # another process may be first
            if connection.scalar(select(counters.c.value).where(counters.c.name == "schema")) is None:
                values = {"schema": SCHEMA, "version": 0, "duties": 0}
                connection.execute(insert(counters), [{"name": name, "value": v} for name, v in values.items()])
        found = self._counter("schema")
        if found != SCHEMA:
            raise StorageError(f"the state in {self.folder} has format {found}, this software reads format {SCHEMA}")

    def _counter(self, name: str) -> int:
        with self._state.read() as connection:
            return connection.scalar(_COUNTER, {"n": name}) or 0

    @contextmanager
    def _write(self, duties: bool = True) -> Iterator[Connection]:
        """A durable transaction; ``duties``: sites may now have something new to do."""
        with self._state.write() as connection:
            # First of all: on PostgreSQL the row is what makes writers take turns.
            version = _raise(connection, "version")
            if duties:
                _raise(connection, "duties")
            yield connection
        with self._changed:
            self._latest = max(self._latest, version)
            self._changed.notify_all()
        if duties:
            self._tell()

    def version(self) -> int:
        """A number that every write raises, of any process."""
        return self._counter("version")

    def duties(self) -> int:
        """A number that is raised where sites may have something new to do."""
        return self._counter("duties")

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` from any thread after each write of this process that concerns sites' duties.

        Returns a function that ends this.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            with suppress(RuntimeError):  # an event loop that was just closed
                listener()

    def wait(self, seen: int, timeout: float) -> int:
        """Block until the version differs from ``seen``, or for ``timeout`` seconds; returns the version.

        Writes of this process end the wait at once, those of another one within `OTHERS` seconds.
        """
        end = time.monotonic() + timeout
        while (now := self.version()) == seen and (left := end - time.monotonic()) > 0:
            with self._changed:
                if self._latest <= seen:
                    self._changed.wait(min(OTHERS, left))
        return now

    def healthy(self) -> bool:
        """Whether the databases answer."""
        try:
            self.version()
            with self._recent.read() as connection:
                connection.scalar(select(1))
        except (SQLAlchemyError, OSError):
            return False
        return True

    def close(self) -> None:
        """Give the databases back."""
        self._state.close()
        self._recent.close()


def _raise(connection: Connection, name: str) -> int:
    return int(connection.execute(_RAISE, {"n": name}).scalar_one())
