"""Things that are noted often, but not each time: bytes that move, calls of a site."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

MOST = 10_000  # things that are remembered


class Beats:
    """When each thing was noted last; for all threads."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[str, ...], float] = OrderedDict()
        self._lock = threading.Lock()

    def due(self, seconds: float, *what: str) -> bool:
        """Whether ``what`` was not noted for so long; if so, it is counted as noted now."""
        now = time.monotonic()
        with self._lock:
            if now - self._last.get(what, -seconds) < seconds:
                return False
            self._last[what] = now
            self._last.move_to_end(what)
            while len(self._last) > MOST:
                self._last.popitem(last=False)
        return True
