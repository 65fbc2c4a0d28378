"""Transactions over SQLite or PostgreSQL. All that is particular to SQLite is in `_for_sqlite`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

from sqlalchemy import Connection, Engine, MetaData, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from wardround.core.errors import StorageError

Care = Literal["FULL", "NORMAL"]
BUSY = 30_000  # milliseconds that a writer waits for another process


class Database:
    """Short transactions, from any thread."""

    def __init__(self, url: str, tables: MetaData, care: Care) -> None:
        self._lite = url.startswith("sqlite")
        # Threads of one process queue here: SQLite's own waiting is sleeping in growing steps.
        self._turn: AbstractContextManager[Any] = threading.Lock() if self._lite else nullcontext()
        try:
            self.engine = create_engine(url, pool_size=16, max_overflow=48, pool_pre_ping=not self._lite)
            if self._lite:
                _for_sqlite(self.engine, care)
            tables.create_all(self.engine)
        except (SQLAlchemyError, ImportError) as error:
            raise StorageError(f"the database cannot be opened: {_first_line(error)}") from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Committed when the block ends, undone where it raises."""
        with self._turn, self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()


def _for_sqlite(engine: Engine, care: Care) -> None:
    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # the driver would begin transactions by itself, and too late
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", f"busy_timeout={BUSY}", f"synchronous={care}"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begun(connection: Connection) -> None:
        # A writer takes its turn at once: one that first read could find its view outdated.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
