"""Refusals: what is raised where a request is not served, and the HTTP status that goes with each code."""

from __future__ import annotations

import time

from wardround.core.errors import WardRoundError
from wardround.runtimes.https.wire import Refused

STATUS = {
    "signature": 401,
    "replayed": 401,
    "clock": 401,
    "unknown_key": 401,
    "revoked": 403,
    "expired": 403,
    "federation": 403,
    "invitation": 403,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "malformed": 400,
    "too_large": 413,
    "incompatible": 409,
    "closed": 410,
    "busy": 429,
}


class Refusal(WardRoundError):
    """A request is not served. ``code`` is one of `wire.Refused`'s; ``message`` goes to whoever asked."""

    def __init__(self, code: str, message: str, received: int | None = None) -> None:
        self.code, self.message, self.received = code, message[:500], received
        super().__init__(f"{code}: {message}")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    def value(self) -> Refused:
        """What is sent."""
        fields = {"code": self.code, "message": self.message, "now": int(time.time()), "received": self.received}
        return Refused.model_validate(fields)
