"""Random requests at a coordinator's endpoints: from strangers, with spoiled signatures, and from a site gone bad.

`Attacker.one` makes, sends and judges one request. Seeded, so that what fails can be repeated.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from desk import Desk, Headers, Response
from hostile import TEXTS, anything, bytes_from, json_bytes
from parsers import examples

from wardround.runtimes.https import signing
from wardround.runtimes.https.wire import PIECE, PROTOCOL

OPEN = ("/healthz", "/v1/federation")
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X" * 300]
NUMBERS = ["0", "1", "-1", "00", "1e3", "9" * 40, "", "0x10", "1.5", " 1", "\u0663", str(PIECE), str(2**63)]
KINDS = ["stranger", "spoiled", "spoiled", "body", "body", "path", "key", "upload", "viewer", "again"]
PEOPLE = ("status", "submit", "abort", "resume", "invite", "revoke", "nothing")


MESSAGES = {
    "join": "Join", "rekey": "Rekey", "next": "Poll", "consent": "Consent", "heads": "Head", "reply": "Reply",
    "failure": "SiteFailed", "moved": "Moved",
}  # fmt: skip
EXAMPLES = examples()
STRETCH = 200  # requests in the name of one site: sooner or later it has answered and is heard no more


@dataclass
class Shot:
    """One request."""

    kind: str
    method: str
    target: str
    headers: dict[str, str] | Headers
    chunks: list[bytes]
    hang_up: bool = False

    def __str__(self) -> str:
        body = b"".join(self.chunks)
        return f"{self.kind}: {self.method} {self.target[:300]!r} {dict(self.headers)!r} body {body[:600]!r}"


class Attacker:
    """Sends what nobody should send; where a signature is wanted, as A0, A1, ... in turn. B must not notice."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk, self.rng = desk, random.Random(seed)  # noqa: S311 - can be repeated
        self.statuses: Counter[str] = Counter()
        self.refused, self.gone, self.sent, self.me = 0, 0, 0, "A0"
        self.unknown = Ed25519PrivateKey.generate()
        self.other = hashlib.sha256(b"another federation").hexdigest()[:32]
        self._sound: list[Shot] = []

    def targets(self) -> list[tuple[str, str]]:
        """Every endpoint, with a method that it takes."""
        desk, sha = self.desk, self.desk.sha256
        found = [("GET", path) for path in OPEN]
        found += [("POST", f"/v1/{name}") for name in ("join", "rekey", "next", "consent", "heads")]
        found += [("POST", f"{desk.place}/{name}") for name in ("reply", "failure", "moved")]
        found += [("POST", f"/v1/people/{name}") for name in PEOPLE]
        found += [("GET", f"/v1/plans/{desk.digest}"), ("GET", f"/v1/blobs/{sha}?offset=0&count=100")]
        found += [("GET", f"{desk.place}/tensors?sha256={'a' * 64}&size=100")]
        return [*found, ("PUT", f"{desk.place}/tensors?sha256={'a' * 64}&size=100&offset=0")]

    def message(self, target: str = "") -> bytes:
        """A broken body: mostly of the message that is taken there, where there is one, else of any."""
        name = MESSAGES.get(target.rpartition("/")[2])
        fitting = [value for key, value in EXAMPLES.items() if key.partition("-")[0] == name]
        wanted = fitting if fitting and self.rng.random() < 0.8 else list(EXAMPLES.values())
        value = json.loads(self.rng.choice(wanted).canonical())
        if isinstance(value, dict):
            value = {k: self.desk.task.id if k == "task" and isinstance(v, str) else v for k, v in value.items()}
            if "wait" in value:
                value["wait"] = 0
            if "plan" in value and self.rng.random() < 0.8:
                value["plan"] = self.desk.digest
        return json_bytes(self.rng, value) if self.rng.random() < 0.8 else json.dumps(value).encode()

    def strange(self, target: str) -> str:
        """A target that is somewhat, or entirely, something else."""
        rng, parts = self.rng, target.split("/")
        kind = rng.randrange(5)
        if kind == 0:
            return bytes_from(rng, target.encode()).decode("latin-1")
        if kind == 1:
            parts[rng.randrange(len(parts))] = rng.choice(TEXTS)[:2000]
            return "/".join(parts)
        if kind == 2:
            query = "&".join(
                f"{rng.choice(['offset', 'count', 'size', 'sha256', 'x'])}={self.number()}" for _ in range(3)
            )
            return f"{target.partition('?')[0]}?{query}"
        if kind == 3:
            return target.replace("train", rng.choice(["TRAIN", "init", "..", "tr%61in"])).replace(
                "/1/", f"/{self.number()}/"
            )
        return target + rng.choice(["/", "?", "#x", "/../../state.sqlite", "%00", "//", ";x", "?sha256=" + "A" * 64])

    def number(self) -> str:
        """Where a number is expected."""
        return self.rng.choice(NUMBERS)

    def shot(self) -> Shot:
        """The next request."""
        kind = self.rng.choice(KINDS)
        method, target = self.rng.choice(self.targets())
        return getattr(self, f"_{kind}")(kind, method, target)

    def _stranger(self, kind: str, method: str, target: str) -> Shot:
        rng = self.rng
        method = rng.choice(METHODS) if rng.random() < 0.5 else method
        target = self.strange(target) if rng.random() < 0.5 else target
        body = self.message()
        headers = {"content-length": str(len(body)) if rng.random() < 0.8 else rng.choice(TEXTS)[:100]}
        for name in ("signature", "signature-input", "content-digest", signing.FEDERATION_HEADER):
            if rng.random() < 0.5:
                headers[name] = rng.choice([*TEXTS[:2], *TEXTS[4:], self.desk.federation])[:5000]
        return Shot(kind, method, target, headers, [body])

    def _spoiled(self, kind: str, method: str, target: str) -> Shot:
        """A sound request in which something is changed afterwards."""
        rng, body = self.rng, self.message(target)
        headers = self.desk.signed(self.me, method, target, body)
        what = rng.randrange(6)
        if what == 0:
            name = rng.choice(list(headers))
            spoiled = bytes_from(rng, headers[name].encode()).decode("latin-1")
            headers[name] = spoiled if spoiled.strip() != headers[name] else "x" + spoiled
        elif what == 1:
            del headers[rng.choice([name for name in headers if name != "content-length"])]
        elif what == 2:
            changed = bytes_from(rng, body) if body else b"x"
            body = changed if changed != body else body + b" "
            headers["content-length"] = str(len(body))
        elif what == 3:
            method, target = rng.choice([pair for pair in self.targets() if pair != (method, target)])
        elif what == 4:
            headers = {**headers, **self.desk.signed("B", method, "/v1/elsewhere", body)}
        else:
            rows = [(name.encode(), value.encode()) for name, value in headers.items()]
            return Shot(kind, method, target, [*rows, rng.choice(rows)], [body])
        return Shot(kind, method, target, headers, [body])

    def _body(self, kind: str, method: str, target: str) -> Shot:
        """Soundly signed, and the body is not what it must be."""
        method, target = self.rng.choice([pair for pair in self.targets() if pair[0] == "POST"])
        body = self.message(target)
        return Shot(kind, method, target, self.desk.signed(self.me, method, target, body), [body])

    def _path(self, kind: str, method: str, target: str) -> Shot:
        target, body = self.strange(target), self.message()
        try:
            headers = self.desk.signed(self.me, method, target, body)
        except Exception:  # noqa: BLE001 - what cannot be signed is sent unsigned
            headers = {"content-length": str(len(body))}
        return Shot(kind, method, target, headers, [body])

    def _key(self, kind: str, method: str, target: str) -> Shot:
        """By a key that nobody knows, for another federation, or at another time."""
        rng, body = self.rng, self.message()
        now = signing.datetime.now(signing.UTC).timestamp()
        changes: list[dict[str, Any]] = [
            {"who": self.unknown},
            {"who": self.me, "federation": self.other},
            {"who": self.me, "created": int(now + rng.choice([-1, 1]) * rng.choice([301, 3600, 10**9]))},
        ]
        change = rng.choice(changes)
        return Shot(kind, method, target, self.desk.signed(change.pop("who"), method, target, body, **change), [body])

    def _upload(self, kind: str, method: str, target: str) -> Shot:
        """Pieces that are too long, too short, at the wrong place, not what was signed, or break off."""
        rng = self.rng
        data = rng.randbytes(rng.choice([1, 100, 5000]))
        claimed = data if rng.random() < 0.5 else rng.randbytes(5)
        size = rng.choice([len(data), 100, 10**12, 1])
        sha = rng.choice([hashlib.sha256(data).hexdigest(), "b" * 64, self.desk.sha256])
        target = f"{self.desk.place}/tensors?sha256={sha}&size={size}&offset={rng.choice([0, 1, len(data), 10**12])}"
        headers = self.desk.signed(self.me, "PUT", target, claimed)
        headers["content-length"] = str(rng.choice([len(data), len(data), len(data) + 1, 0, PIECE + 1]))
        cut = rng.randint(0, len(data))
        return Shot(kind, "PUT", target, headers, [data[:cut], data[cut:]], hang_up=rng.random() < 0.3)

    def _viewer(self, kind: str, method: str, target: str) -> Shot:
        """A person who may only look tries to do more."""
        if self.rng.random() < 0.5:
            method, target = "POST", f"/v1/people/{self.rng.choice(PEOPLE[1:])}"
        body = self.message() if self.rng.random() < 0.7 else json.dumps(anything(self.rng)).encode("utf-8", "replace")
        return Shot(kind, method, target, self.desk.signed("V", method, target, body), [body])

    def _again(self, kind: str, method: str, target: str) -> Shot:
        """A request that was taken before, once more."""
        if self._sound and self.rng.random() < 0.8:
            return self.rng.choice(self._sound)
        body = json.dumps({"protocol": PROTOCOL, "software": "0.1", "wait": 0}).encode()
        shot = Shot(kind, "POST", "/v1/next", self.desk.signed(self.me, "POST", "/v1/next", body), [body])
        self._sound = [*self._sound[-20:], shot]
        return Shot("first", shot.method, shot.target, shot.headers, shot.chunks)

    async def one(self) -> tuple[Shot, Response]:
        """Send one and judge what comes back. Raises AssertionError."""
        self.me = f"A{self.sent // STRETCH}"
        self.sent += 1
        shot = self.shot()
        response = await self.desk.ask(shot.method, shot.target, shot.headers, shot.chunks, shot.hang_up)
        self.statuses[f"{shot.kind} {response.status}"] += 1
        assert response.status < 500, f"{response.status} for {shot}\n{''.join(self.desk.log.traces[-1:])}"
        self.gone += response.status == 0
        if response.status >= 400:
            self.refused += 1
            assert response.refused.code, shot
        elif shot.kind in ("stranger", "spoiled", "key", "again") and shot.target.partition("?")[0] not in OPEN:
            assert response.status == 0, f"served: {response.status} {response.body[:200]!r} for {shot}"
        return shot, response
