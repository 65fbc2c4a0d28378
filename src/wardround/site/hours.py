"""Hours of the week, as people write them: ``22:00-06:00``, ``Mon-Fri 07:00-19:00``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import AfterValidator

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = "|".join(DAYS)
_TEXT = re.compile(rf"(?:({_DAY})(?:-({_DAY}))? )?([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]|24):([0-5]\d)")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Window:
    """From ``start`` until ``end`` (minutes of the day), beginning on ``days``; over midnight where end <= start."""

    days: frozenset[int]
    start: int
    end: int

    def holds(self, moment: datetime) -> bool:
        """Whether a local time lies in it; the end does not."""
        day, minute = moment.weekday(), moment.hour * 60 + moment.minute
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


def parse_window(text: str) -> Window:
    """A window from its text. Raises ValueError that says how to write one."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError("should be hours such as '22:00-06:00' or 'Mon-Fri 07:00-19:00'")
    first, last, *numbers = match.groups()
    hour, minute, end_hour, end_minute = (int(number) for number in numbers)
    start, end = hour * 60 + minute, end_hour * 60 + end_minute
    if end > _DAY_MINUTES:
        raise ValueError("a day ends at 24:00")
    if start == end:
        raise ValueError("begins and ends at the same time; a whole day is 00:00-24:00")
    if first is None:
        return Window(frozenset(range(7)), start, end)
    begin = DAYS.index(first)
    days = (DAYS.index(last) - begin) % 7 if last else 0
    return Window(frozenset((begin + day) % 7 for day in range(days + 1)), start, end)


def _checked(text: str) -> str:
    parse_window(text)
    return text


Hours = Annotated[str, AfterValidator(_checked)]


def next_moment(after: datetime, wanted: Callable[[datetime], Any]) -> datetime | None:
    """The first full minute after a time at which ``wanted`` holds, within eight days."""
    moment = after.replace(second=0, microsecond=0)
    for _ in range(8 * _DAY_MINUTES):
        moment += timedelta(minutes=1)
        if wanted(moment):
            return moment
    return None
