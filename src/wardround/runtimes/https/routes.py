"""Which request goes where, who may send it, and how long its body may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from wardround.core.messages import Verb
from wardround.runtimes.https import endpoints
from wardround.runtimes.https.endpoints import Answering
from wardround.runtimes.https.forms import DIGEST, NUMBER
from wardround.runtimes.https.wire import MESSAGE, PIECE, WHOLE

SMALL = 16 << 10  # bytes of messages that hold nothing long
SITE = frozenset({"site"})
PEOPLE = frozenset({"viewer", "researcher", "owner"})
ALL = SITE | PEOPLE

_VERB = "|".join(get_args(Verb))
_TASK = f"/v1/tasks/(?P<plan>{DIGEST})/(?P<round>{NUMBER})/(?P<verb>{_VERB})/(?P<step>{NUMBER})"


def _nothing(*_: object) -> bytes:
    return b""


@dataclass(frozen=True)
class Route:
    """One line of the table in `wardround.runtimes.https.wire`.

    ``kind``: open (no signature), join (signed by the key that it brings), json (a small body, answered at once),
    poll (held open), upload, download, drain (a body of any length that is hashed and let go).
    """

    name: str
    method: Literal["GET", "POST", "PUT"]
    path: str
    kind: Literal["open", "join", "json", "poll", "upload", "download", "drain"] = "json"
    answers: Answering = _nothing
    most: int = 0  # bytes of the body
    roles: frozenset[str] = SITE

    @property
    def pattern(self) -> re.Pattern[str]:
        """Of the whole path."""
        return re.compile(f"{self.path}\\Z")

    def parts(self, path: str) -> Mapping[str, str]:
        """What the path names."""
        found = re.match(self.path, path)
        return {} if found is None else found.groupdict()


ROUTES = (
    Route("healthz", "GET", "/healthz", "open"),
    Route("federation", "GET", "/v1/federation", "open"),
    Route("join", "POST", "/v1/join", "join", endpoints.join, SMALL),
    Route("rekey", "POST", "/v1/rekey", "json", endpoints.rekey, SMALL, ALL),
    Route("next", "POST", "/v1/next", "poll", most=64 << 10),
    Route("plan", "GET", f"/v1/plans/(?P<plan>{DIGEST})", "json", endpoints.plan, roles=ALL),
    Route("consent", "POST", "/v1/consent", "json", endpoints.consent, SMALL),
    Route("blob", "GET", f"/v1/blobs/(?P<sha256>{DIGEST})", "download"),
    Route("received", "GET", f"{_TASK}/tensors", "json", endpoints.received),
    Route("tensors", "PUT", f"{_TASK}/tensors", "upload", most=WHOLE),
    Route("reply", "POST", f"{_TASK}/reply", "json", endpoints.reply, MESSAGE),
    Route("failure", "POST", f"{_TASK}/failure", "json", endpoints.failure, SMALL),
    Route("moved", "POST", f"{_TASK}/moved", "json", endpoints.moved, SMALL),
    Route("heads", "POST", "/v1/heads", "json", endpoints.heads, SMALL),
    Route("last_head", "GET", "/v1/heads", "json", endpoints.last_head),
    Route("probe", "POST", "/v1/probe", "drain", endpoints.probe, PIECE, ALL),
    Route("probe_down", "GET", "/v1/probe", "json", endpoints.probe_down, roles=ALL),
    Route("people", "POST", "/v1/people/(?P<action>[a-z]{1,20})", "json", endpoints.people, MESSAGE, PEOPLE),
)
_PATTERNS = tuple((route, route.pattern) for route in ROUTES)


def find(method: str, path: str) -> Route | None:
    """The route of a request."""
    return next((route for route, pattern in _PATTERNS if route.method == method and pattern.match(path)), None)
