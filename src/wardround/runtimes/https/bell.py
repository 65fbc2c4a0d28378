"""Wakes long polls when there may be something new to do: event-driven, whichever process wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError

from wardround.runtimes.https.state_base import OTHERS
from wardround.runtimes.https.store import Store


class Bell:
    """Rung by this process's writes at once, and by other processes' within `OTHERS` seconds."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rung = asyncio.Event()
        self._watch: asyncio.Task[None] | None = None
        self._deaf: Callable[[], None] = lambda: None
        self.closed = False

    def start(self) -> None:
        """Begin to listen; called in the server's event loop."""
        loop = asyncio.get_running_loop()
        self._deaf = self._store.listen(lambda: loop.call_soon_threadsafe(self.ring))
        self._watch = asyncio.create_task(self._watch_others(self._store.duties()))

    async def stop(self) -> None:
        """Wake everybody, for good."""
        self.closed = True
        self._deaf()
        self._deaf = lambda: None
        self.ring()
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch

    def ring(self) -> None:
        """Wake everybody who waits now."""
        self._rung.set()
        self._rung = asyncio.Event()

    def next(self) -> asyncio.Event:
        """What the next ring sets. Take it before looking at the state, then wait for it."""
        return self._rung

    async def _watch_others(self, known: int) -> None:
        while True:
            await asyncio.sleep(OTHERS)
            try:
                found = await asyncio.to_thread(self._store.duties)
            except SQLAlchemyError:
                continue  # /healthz tells; polls end by themselves
            if found != known:
                known = found
                self.ring()
