"""What the coordinator's signed answers tell: who it is, the time, this site's key, and what the way lets through."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from wardround import __version__
from wardround.runtimes.https import connection
from wardround.runtimes.https.client import stranger
from wardround.runtimes.https.connection import Link
from wardround.runtimes.https.doctor_path import Finding
from wardround.runtimes.https.duties import incompatible
from wardround.runtimes.https.home import LEAST_PIECE
from wardround.runtimes.https.patience import Unreachable, Untrusted
from wardround.runtimes.https.signing import BadSignature, Message, public_from_hex, sign_request, verify_response
from wardround.runtimes.https.wire import (
    MESSAGE,
    PIECE,
    PROTOCOL,
    SKEW,
    WAIT,
    Federation,
    Next,
    Nothing,
    Poll,
    Refused,
)

PROBE = "/v1/probe"
NOTABLE = 30  # seconds by which clocks may differ without a word
SILENCES = (2.0, 5.0, 10.0, 20.0, WAIT)
PIECES = tuple(LEAST_PIECE << n for n in range(6))  # up to wire.PIECE
SLOW = 20.0  # seconds for a piece: larger ones are not tried on such a line
GRACE = 15.0  # seconds after which a held answer is taken as lost
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Said:
    """A signed answer. ``behind`` is how far this machine's clock is behind the coordinator's, in seconds."""

    status: int
    body: bytes
    seconds: float
    behind: float

    @property
    def refused(self) -> Refused | None:
        """Where it is a refusal."""
        return Refused.model_validate_json(self.body) if self.status >= 400 else None


@dataclass
class Asker:
    """Signed requests to the coordinator, one try each."""

    link: Link
    key: Ed25519PrivateKey
    federation: Federation
    offset: int = 0  # seconds to add to this machine's clock
    plans: tuple[str, ...] = ()  # that are known here: the coordinator need not tell of them
    leaving: Callable[[str, bytes], object] = lambda _kind, _body: None  # told of every body before it is sent

    def ask(self, method: str, target: str, body: bytes = b"", read: float = connection.READ) -> Said:
        """Send it and read the answer.

        Raises:
            Unreachable: nothing came back.
            Untrusted: something did that the coordinator did not sign.
        """
        created = int(time.time()) + self.offset
        sha256 = hashlib.sha256(body).digest()
        headers = sign_request(self.key, method, target, self.federation.id, sha256, created)
        headers |= {"cache-control": "no-store, no-transform", "user-agent": "wardround"}
        if body:
            self.leaving("probe" if target.startswith(PROBE) else "poll", body)
        begin = time.time()
        try:
            raw = self.link.send(method, target, headers, body or None, read)
            said = raw.read(MESSAGE + PIECE + 1)
            raw.close()
        except connection.ERRORS as error:
            raise Unreachable(self.link.in_words(error)) from error
        end = time.time()
        try:
            request = Message.of(method, target, headers)
            signed = verify_response(raw.status, dict(raw.headers), request, public_from_hex(self.federation.key))
            if signed.digest != hashlib.sha256(said).digest():
                raise BadSignature("its body is not the one that was signed")
        except BadSignature as error:
            raise Untrusted(stranger(self.link, raw, error)) from error
        return Said(raw.status, said, end - begin, signed.created - (begin + end) / 2)

    def poll(self, wait: float = 0.0) -> Said:
        """Ask what there is to do; nothing that is known here is told again."""
        poll = Poll(protocol=PROTOCOL, software=__version__, wait=wait, knows=self.plans, fetched=self.plans)
        return self.ask("POST", "/v1/next", poll.canonical().encode(), wait + GRACE)


def check_coordinator(asker: Asker) -> list[Finding]:
    """Identity, clock, version, and whether it knows this site. Puts the asker's clock right.

    Raises:
        Unreachable: see `Asker.ask`.
    """
    said = asker.ask("GET", "/v1/federation")
    try:
        found = Federation.model_validate_json(said.body)
    except ValidationError:
        return [Finding("coordinator", "fail", "its answer is not understood", "is its software of another version?")]
    if found.fingerprint != asker.federation.fingerprint:
        remedy = "ask the coordinator's owner what happened before going on; joining anew needs a new invitation"
        return [Finding("coordinator", "fail", "it says that it is another federation than the one joined", remedy)]
    # The answer to a signed request cannot be an old one, but its time has only whole seconds.
    asker.offset = round(said.behind) if abs(said.behind) > NOTABLE else 0
    seen = f"'{found.name}' signed its answer ({1000 * said.seconds:.0f} ms)"
    first = [Finding("coordinator", "ok", seen), check_clock(said.behind), check_version(found)]
    return [*first, check_registration(asker)]


def check_version(coordinator: Federation) -> Finding:
    """Whether this software goes together with the coordinator's."""
    reason = incompatible(Poll(protocol=PROTOCOL, software=__version__), coordinator.software)
    if coordinator.protocol != PROTOCOL:
        reason = f"the coordinator speaks protocol {coordinator.protocol}, this software {PROTOCOL}"
    if reason is not None:
        return Finding("version", "fail", reason, f"install Ward Round {coordinator.software} here, or ask its owner")
    return Finding("version", "ok", f"Ward Round {__version__} here, {coordinator.software} at the coordinator")


def check_clock(behind: float) -> Finding:
    """How far this machine's clock is from the coordinator's."""
    off = abs(behind)
    if off <= NOTABLE:
        return Finding("clock", "ok", "agrees with the coordinator's")
    seen = f"is {off:.0f} s {'behind' if behind > 0 else 'ahead of'} the coordinator's"
    more = f" (it allows {SKEW} s; the coordinator's time is used until then)" if off > SKEW else ""
    return Finding("clock", "warn", seen, f"let IT set this machine's clock by NTP{more}")


def check_registration(asker: Asker) -> Finding:
    """Whether the coordinator knows this site's key.

    Raises:
        Unreachable: see `Asker.ask`.
    """
    refused = asker.ask("POST", PROBE, b"registered?").refused
    if refused is None:
        return Finding("registration", "ok", "the coordinator knows this site's key")
    again = "ask the coordinator's owner for an invitation to re-key, then `wardround site rekey`"
    remedy = {
        "unknown_key": again,
        "expired": again,
        "revoked": "the coordinator's owner took this site out: ask why",
        "clock": "let IT set this machine's clock by NTP",
    }.get(refused.code, "ask the coordinator's owner")
    return Finding("registration", "fail", f"the coordinator refused: {refused.message}", remedy)


def check_silence(asker: Asker, tell: Tell, silences: Sequence[float] = SILENCES) -> Finding:
    """How long a connection may be silent before something on the way cuts it.

    Args:
        asker: asks.
        tell: is told what is being done; it takes a minute.
        silences: seconds, growing; at most `wire.WAIT`.
    """
    held = 0.0
    for wait in silences:
        tell(f"holding a request open for {wait:.0f} s")
        begin = time.monotonic()
        try:
            said = asker.poll(wait)
        except Unreachable:
            lasted = min(time.monotonic() - begin, wait)
            return Finding(
                "idle connections",
                "warn",
                f"a connection that is silent for {lasted:.0f} s is cut on the way (one of {held:.0f} s is not)",
                "the site works all the same, it asks again; it hears of new work later. Ask IT to let connections to "
                "this host be silent for 60 s",
            )
        if said.refused is not None or not isinstance(Next.model_validate_json(said.body).do, Nothing):
            seen = f"the coordinator had something to say at once; a silence of {held:.0f} s passed before"
            return Finding("idle connections", "skipped", seen, "run this again when no task waits for this site")
        held = wait
    return Finding("idle connections", "ok", f"a connection may be silent for {held:.0f} s")


@dataclass(frozen=True)
class Pieces:
    """What of an upload passes in one request."""

    finding: Finding
    largest: int | None  # bytes; None where nothing passes
    speed: float | None  # bytes a second


def check_pieces(asker: Asker, tell: Tell, sizes: Sequence[int] = PIECES) -> Pieces:
    """The largest body that passes, found by sending growing ones; each is given two tries."""
    largest, speed, why = None, None, ""
    for size in sizes:
        tell(f"sending {_size(size)}")
        seconds, why = _passes(asker, size)
        if seconds is None:
            break
        largest, speed = size, size / max(seconds, 1e-3)
        if seconds > SLOW:
            break
    return Pieces(_piece_finding(largest, why, sizes), largest, speed)


def _piece_finding(largest: int | None, why: str, sizes: Sequence[int]) -> Finding:
    name = "size of a request"
    if largest is None:
        remedy = f"ask IT to let requests of {_size(PIECE)} to this host pass, {_size(sizes[0])} at the very least"
        return Finding(name, "fail", f"a request of {_size(sizes[0])} does not pass: {why}", remedy)
    if why:
        seen = f"{_size(largest)} pass, {_size(2 * largest)} do not: {why}"
        remedy = f"nothing: uploads are sent in pieces of {_size(largest)}. Faster: let IT allow {_size(PIECE)}"
        return Finding(name, "warn", seen, remedy)
    return Finding(name, "ok", f"{_size(largest)} pass in one request")


def _passes(asker: Asker, size: int) -> tuple[float | None, str]:
    """Seconds that a body of ``size`` took; None and why where it did not pass."""
    body, why = os.urandom(size), ""
    for _ in range(2):
        try:
            said = asker.ask("POST", PROBE, body)
        except Unreachable as error:
            why = str(error)
            continue
        refused = said.refused
        if refused is None:
            return said.seconds, ""
        why = f"the coordinator refused: {refused.message}"
    return None, why


def check_speed(asker: Asker, up: float | None, tell: Tell, size: int = PIECE) -> Finding:
    """Bytes a second each way; ``up`` as `check_pieces` measured it."""
    tell(f"receiving {_size(size)}")
    try:
        said = asker.ask("GET", f"{PROBE}?count={size}")
    except Unreachable as error:
        return Finding("speed", "fail", str(error), "ask IT what keeps large answers back")
    if said.refused is not None:
        return Finding("speed", "skipped", f"the coordinator refused: {said.refused.message}")
    down = size / max(said.seconds, 1e-3)
    seen = f"up {_mbit(up)}, down {_mbit(down)}"
    slower = min(down, up or down)
    model = 124e6 / slower
    if slower < 125_000:
        remedy = "plan few rounds, or an encoding that is smaller (plan.transfer); ask IT for more"
        return Finding("speed", "warn", f"{seen}: a model of 124 MB takes {model / 60:.0f} min one way", remedy)
    return Finding("speed", "ok", f"{seen}: a model of 124 MB takes {max(model, 1):.0f} s one way")


def _mbit(speed: float | None) -> str:
    rate = None if speed is None else 8 * speed / 1e6
    return "not measured" if rate is None else f"{rate:.0f} Mbit/s" if rate >= 10 else f"{rate:.2g} Mbit/s"


def _size(count: int) -> str:
    return f"{count / (1 << 20):g} MiB" if count >= 1 << 20 else f"{count / 1024:g} KiB"
