"""Messages between a run and its worker processes: one JSON object a line. No pickle, no code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any


def send(pipe: IO[bytes], message: dict[str, Any]) -> None:
    """Write one message."""
    pipe.write(json.dumps(message, ensure_ascii=False).encode() + b"\n")
    pipe.flush()


def receive(pipe: IO[bytes]) -> Iterator[dict[str, Any]]:
    """All messages until the other side closes the pipe or dies."""
    for line in pipe:
        if line.endswith(b"\n"):
            yield json.loads(line)
