"""Trying again: exponential back-off with full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015)."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from wardround.core.errors import RunError
from wardround.runtimes.https.wire import WAIT

SHORTEST = 2.0  # seconds that a poll is held open, at least
T = TypeVar("T")


class Unreachable(RunError):
    """The coordinator cannot be reached now; trying again later may help."""


class Untrusted(Unreachable):
    """What answered is not the coordinator: nothing that it says counts. ``status`` is that of HTTP, if any."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Patience:
    """How often, and how long in between. An agent tries for ever, a command a few times."""

    tries: int | None = None  # None: no upper number
    first: float = 0.5  # seconds; the longest wait after the first failure
    longest: float = 30.0  # seconds
    pause: Callable[[float], None] = time.sleep
    tell: Callable[[Exception, float], None] = lambda _error, _seconds: None

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: anything between 0 and the limit that doubles."""
        limit = min(self.longest, self.first * 2 ** min(failures - 1, 30))
        return random.uniform(0, limit)  # noqa: S311 - spreads load, hides nothing

    def over(self, failures: int) -> bool:
        """No more tries."""
        return self.tries is not None and failures >= self.tries

    def rest(self, error: Exception, failures: int) -> None:
        """Tell of a failure and wait."""
        seconds = self.delay(failures)
        self.tell(error, seconds)
        self.pause(seconds)

    def persist(self, action: Callable[[], T], going: Callable[[], None] = lambda: None) -> T:
        """Do it until it works.

        Args:
            action: raises `Unreachable` where trying again may help.
            going: called before each try; raises to give up.

        Raises:
            Unreachable: the last failure, where `tries` ran out.
        """
        failures = 0
        while True:
            going()
            try:
                return action()
            except Unreachable as error:
                failures += 1
                if self.over(failures):
                    raise
                self.rest(error, failures)


BRIEF = Patience(tries=4, longest=4.0)  # of a command that a person waits for


class Hold:
    """How long to let the coordinator hold a poll open: less than what cuts idle connections on the way."""

    def __init__(self, most: float = WAIT) -> None:
        self.seconds = self._most = most
        self._cuts = 0

    def cut(self, after: float) -> None:
        """A poll broke off after so many seconds. Twice in a row: something cuts idle connections."""
        self._cuts += 1
        if self._cuts >= 2 and after >= SHORTEST:
            self.seconds = max(SHORTEST, min(self.seconds, after) / 2)

    def went(self) -> None:
        """A poll was answered: dare a little more."""
        self._cuts = 0
        self.seconds = min(self._most, self.seconds + 1)
