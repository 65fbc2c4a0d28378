"""What leaves a site is in its audit log before it leaves: kind, bytes, SHA-256. The client cannot send past this."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import Any

from wardround.core.audit import AuditLog
from wardround.core.frozen import canonical_json
from wardround.core.messages import Task

PIECES = "tensors"
SIGNS = "moved"


class Journal:
    """Hook of `Client`: called with every body before it is sent. Threads may share it.

    Entries are ``left`` with ``kind``, ``bytes`` and, where it is about one, ``plan`` and ``task``; their
    bytes add up to what went over the line, also where something was sent twice. A poll that says the same as
    the last one is not written again; signs of life are added up; tensors are written once, before their
    first piece.
    """

    def __init__(self, audit: AuditLog) -> None:
        self._audit, self._lock = audit, threading.Lock()
        self._polled = ""
        self._signs = (0, 0)  # how many, bytes
        self._pieces = 0  # bytes sent beyond those announced; negative: not sent yet

    def __call__(self, kind: str, body: bytes) -> None:
        """Write down that ``body`` is about to leave. Raises StorageError; then it does not leave."""
        with self._lock:
            if kind == SIGNS:
                self._signs = self._signs[0] + 1, self._signs[1] + len(body)
                return
            if kind == PIECES:
                self._pieces += len(body)
                return
            said = json.loads(body)
            if kind == "poll":
                asked = canonical_json({name: value for name, value in said.items() if name != "wait"})
                if asked == self._polled:
                    return
                self._polled = asked
        about = {name: said[name] for name in ("plan", "task", "standing") if name in said}
        if "task" in about:
            about["plan"] = str(about["task"]).partition(":")[0]
        self._audit.append("left", kind=kind, bytes=len(body), sha256=hashlib.sha256(body).hexdigest(), **about)

    def announce(self, task: Task, count: int, sha256: str) -> None:
        """Write down that so many bytes of a task's tensors are about to leave."""
        with self._lock:
            self._pieces -= count
        self._audit.append("left", kind=PIECES, bytes=count, sha256=sha256, plan=task.plan, task=task.id)

    def note(self, event: str, **facts: Any) -> None:
        """Write down anything else."""
        self._audit.append(event, **facts)

    def arrived(self, kind: str, size: int, sha256: str, **about: Any) -> None:
        """Write down what was received."""
        self._audit.append("received", kind=kind, bytes=size, sha256=sha256, **about)

    def settle(self, task: Task) -> None:
        """A task is over: write how its sums ended."""
        with self._lock:
            (count, total), pieces = self._signs, self._pieces
            self._signs, self._pieces = (0, 0), 0
        if count:
            self._audit.append("left", kind=SIGNS, bytes=total, messages=count, plan=task.plan, task=task.id)
        if pieces > 0:
            self._audit.append("left", kind=PIECES, bytes=pieces, again=True, plan=task.plan, task=task.id)
        if pieces < 0:
            self._audit.append("not_sent", kind=PIECES, bytes=-pieces, plan=task.plan, task=task.id)
