"""Structured logs: one JSON object a line, or a readable line where somebody watches a terminal.

Never logged: keys, tokens, invitations, bodies. What a stranger sent appears only in bounded, plain form.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

ROOT = "wardround.network"
OTHERS = ("uvicorn", "uvicorn.error", "asyncio", "concurrent.futures")  # the server's own voices
LONGEST = 300  # characters of one value


def set_up(stream: TextIO | None = None, level: int = logging.INFO, human: bool | None = None) -> logging.Logger:
    """Send this process's network log to a stream.

    Args:
        stream: None: standard error.
        level: of our own lines; of libraries, only warnings are shown.
        human: readable lines; None: where the stream is a terminal.
    """
    out = stream if stream is not None else sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(Readable() if (out.isatty() if human is None else human) else Json())
    bounded = Bounded()
    for name in (ROOT, *OTHERS):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.filters = [] if name == ROOT else [bounded]
        logger.setLevel(level if name == ROOT else logging.WARNING)
    return logging.getLogger(ROOT)


def say(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """Log one event."""
    logging.getLogger(ROOT).log(level, event, extra={"facts": facts})


class TellOnce:
    """Logs why something is tried again; the same reason once a minute."""

    def __init__(self) -> None:
        self._reason, self._until = "", 0.0

    def __call__(self, error: Exception, seconds: float) -> None:
        """See `patience.Patience.tell`."""
        reason = str(error)
        if reason != self._reason or time.monotonic() >= self._until:
            self._reason, self._until = reason, time.monotonic() + 60
            say("again", level=logging.WARNING, reason=reason, seconds=round(seconds, 1))


class Json(logging.Formatter):
    """``{"time": ..., "level": ..., "event": ..., ...facts}``"""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = {"time": _time(record), "level": record.levelname.lower(), **_content(record)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


class Readable(logging.Formatter):
    """``12:34:56 event fact=value``"""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        content = _content(record)
        event = content.pop("event")
        mark = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        facts = " ".join(f"{name}={value}" for name, value in content.items() if value not in {None, ""})
        line = f"{_time(record)[11:19]} {mark}{event} {facts}".rstrip()
        line = "".join(character if character.isprintable() else "?" for character in line)
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class Throttle:
    """Lets through so much of each kind in a minute, and counts the rest: a flood cannot fill the disk."""

    def __init__(self, each: int = 20, all_: int = 200, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = (each, all_), clock
        self._counts: OrderedDict[str, int] = OrderedDict()
        self._begin, self._total, self._left_out = clock(), 0, 0
        self._lock = threading.Lock()

    def admit(self, who: str) -> bool:
        """Whether one more of ``who`` is let through in this minute."""
        with self._lock:
            if self._clock() - self._begin >= 60:
                self._begin, self._total = self._clock(), 0
                self._counts.clear()
            count = self._counts[who] = self._counts.get(who, 0) + 1
            if len(self._counts) > 10_000:
                self._counts.popitem(last=False)
            if count > self._limits[0] or self._total >= self._limits[1]:
                self._left_out += 1
                return False
            self._total += 1
            return True

    def left_out(self) -> int:
        """How many were not let through since this was last asked."""
        with self._lock:
            count, self._left_out = self._left_out, 0
        return count


class Bounded(logging.Filter):
    """So many lines of libraries a minute: what strangers send may make them speak, as often as it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        return record.levelno >= logging.ERROR or self._throttle.admit(str(record.msg))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _content(record: logging.LogRecord) -> dict[str, Any]:
    facts = getattr(record, "facts", None)
    if facts is None:  # of a library: its words are a message
        return {"event": "server", "message": record.getMessage()[:LONGEST]}
    return {"event": record.getMessage(), **{name: _bounded(value) for name, value in facts.items()}}


def _bounded(value: Any) -> Any:
    return value[:LONGEST] if isinstance(value, str) else value
