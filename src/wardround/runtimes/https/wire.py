"""Every message between a site and its coordinator, its bounds, and where it is sent.

All paths begin with ``/v1``. Bodies are JSON of the types below, at most `MESSAGE` bytes, except for
pieces of blobs. Every request but `FEDERATION` is signed (see `signing`); every response is signed.

=====================================  ======  =============================================================
path                                   method  request -> response
=====================================  ======  =============================================================
/v1/federation                         GET     - -> `Federation`; unsigned request: before a site has joined
/v1/join                               POST    `Join` -> `Joined`; signed with the key that it brings
/v1/rekey                              POST    `Rekey` -> `Joined`; signed with the old key
/v1/next                               POST    `Poll` -> `Next`; held open for up to ``wait`` seconds
/v1/plans/DIGEST                       GET     - -> the plan's canonical JSON, whose SHA-256 is DIGEST
/v1/consent                            POST    `Consent` -> `Done`
/v1/blobs/SHA256?offset=N&count=M      GET     - -> at most M bytes (at most `PIECE`, or all: `WHOLE`) from N on
/v1/tasks/PLAN/ROUND/VERB/STEP/tensors GET     ?sha256=S&size=N -> `Received`
/v1/tasks/PLAN/ROUND/VERB/STEP/tensors PUT     ?sha256=S&size=N&offset=O, bytes -> `Received`
/v1/tasks/PLAN/ROUND/VERB/STEP/reply   POST    `wardround.core.messages.Reply` -> `Done`
/v1/tasks/PLAN/ROUND/VERB/STEP/failure POST    `wardround.core.messages.SiteFailed` -> `Done`
/v1/tasks/PLAN/ROUND/VERB/STEP/moved   POST    `Moved` -> `Going`
/v1/heads                              POST    `OwnHead` -> `Heads`: countersigning of the audit logs
/v1/heads                              GET     - -> `LastSigned`: what a shortened log is found by
/v1/probe                              POST    any bytes (at most `PIECE`) -> `Done`: `site doctor` tries the way
/v1/probe?count=M                      GET     - -> M random bytes (at most `PIECE`)
/v1/people/status                      POST    - -> `Status`; people only: see `PersonRole`
/v1/people/...                         POST    people only: submit, abort, invite, revoke
/healthz                               GET     200 while the database answers; unsigned, says nothing else
=====================================  ======  =============================================================

A refusal is a `Refused` with an HTTP status of 400 or more, signed like everything else.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt

from wardround.core.audit import SignedHead
from wardround.core.frozen import Frozen
from wardround.core.messages import Digest, SiteName, Task

PROTOCOL = 1
MESSAGE = 1 << 20  # most bytes of a JSON body
PIECE = 8 << 20  # most bytes of a blob in one request
WHOLE = (
    1 << 30
)  # or the whole of a blob that is not longer: its SHA-256 is then the body's, and nothing is hashed twice
BLOB = 64 << 30  # most bytes of a blob
WAIT = 30.0  # longest time a poll is held open, in seconds
SKEW = 300  # a request's clock may be off by so many seconds

Key = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # raw Ed25519 public key, hexadecimal
KeyId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]  # first half of the SHA-256 of the raw public key
FederationId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Signature = Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
Token = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{32,64}$")]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,40}$")]
Certificate = Annotated[str, Field(max_length=8192)]  # PEM
Words = Annotated[str, Field(max_length=500)]
PersonRole = Literal["viewer", "researcher", "owner"]
Standing = Literal["pending", "approved", "refused", "revoked"]


class Refused(Frozen):
    """Why a request was not served. ``code`` is for programs, ``message`` for people."""

    kind: Literal["refused"] = "refused"
    code: Literal[
        "signature",  # unsigned, wrongly signed, wrong body digest
        "replayed",  # the nonce was seen before
        "clock",  # created too far from the coordinator's time, which `now` says
        "unknown_key",
        "revoked",
        "expired",
        "federation",  # meant for another federation
        "invitation",  # unknown, expired or used
        "forbidden",  # the key's owner may not do this
        "not_found",
        "conflict",  # another body for what was already given
        "malformed",
        "too_large",
        "incompatible",
        "closed",  # the task was closed: nothing more is taken
        "busy",
    ]
    message: Words
    now: NonNegativeInt = 0  # Unix time
    received: NonNegativeInt | None = None  # of an upload: where to go on


class Done(Frozen):
    """It is durable."""

    kind: Literal["done"] = "done"


class Federation(Frozen):
    """What a site needs to know before it joins; its `fingerprint` is in the invitation."""

    id: FederationId
    name: Words
    protocol: int = PROTOCOL
    software: Version
    key: Key  # of the coordinator
    authority: Certificate  # of the federation's own certificate authority

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what must not be exchanged: identity, key and authority."""
        return self.model_copy(update={"name": "", "software": "0", "protocol": 0}).digest()


class Join(Frozen):
    """A site (or a person) brings its public key and a one-time token."""

    token: Token
    name: SiteName
    key: Key
    software: Version
    protocol: int


class Rekey(Frozen):
    """A new key for the one that signs the request. ``proof`` signs `rekey_proof` with the new one."""

    key: Key
    proof: Signature


class Joined(Frozen):
    """The key was registered."""

    name: SiteName
    certificate: Certificate  # client certificate over the same key, for TLS where the path allows it
    expires: NonNegativeInt  # Unix time


def rekey_proof(federation: str, old: str, new: str) -> bytes:
    """What a new key signs to show that its owner holds it."""
    return f"wardround rekey {federation} {old} {new}".encode()


class Poll(Frozen):
    """Is there anything for me? Says nothing about the site but which software it runs."""

    protocol: int
    software: Version
    wait: float = Field(default=0.0, ge=0, le=WAIT)
    knows: Annotated[tuple[Digest, ...], Field(max_length=200)] = ()  # plans whose offer was received
    fetched: Annotated[tuple[Digest, ...], Field(max_length=200)] = ()  # plans whose results were received


class Offer(Frozen):
    """A plan to consider. Nothing runs before a person at the site approved it."""

    kind: Literal["offer"] = "offer"
    plan: Digest
    size: NonNegativeInt


class Work(Frozen):
    """A task to answer; ``size`` is that of its tensors."""

    kind: Literal["work"] = "work"
    task: Task
    size: NonNegativeInt = 0


class Results(Frozen):
    """A run ended: the final model, and what is told to every site that took part."""

    kind: Literal["results"] = "results"
    plan: Digest
    model: Digest
    size: NonNegativeInt
    outcome: dict[str, Any] = {}


class Nothing(Frozen):
    """Ask again."""

    kind: Literal["nothing"] = "nothing"


class Incompatible(Frozen):
    """This software cannot take part; ``reason`` says what to install."""

    kind: Literal["incompatible"] = "incompatible"
    reason: Words


class Next(Frozen):
    """What a site should do now."""

    do: Annotated[Offer | Work | Results | Nothing | Incompatible, Field(discriminator="kind")]
    stopped: Annotated[tuple[Digest, ...], Field(max_length=200)] = ()  # runs that were aborted


class Consent(Frozen):
    """How a site stands to a plan. Before approval this is all that it says: `pending`."""

    plan: Digest
    standing: Standing
    reason: Words = ""


class Received(Frozen):
    """How much of an upload is on the coordinator's disk."""

    received: NonNegativeInt
    whole: bool = False  # all of it is there and its digest is right


class Moved(Frozen):
    """The task goes on: the stall limit begins anew."""

    what: Annotated[str, Field(pattern=r"^[a-z]{1,20}$")]
    done: NonNegativeInt
    total: NonNegativeInt


class Going(Frozen):
    """Whether the task is still wanted."""

    wanted: bool


class Head(Frozen):
    """The newest entry of an audit log."""

    length: NonNegativeInt  # entries
    hash: Digest


class Seen(Frozen):
    """The coordinator's head as the site saw it, signed by the site (see `head_text`, with an empty owner)."""

    head: Head
    time: NonNegativeInt
    signature: Signature


class OwnHead(Head):
    """A site's head, to be signed; and the coordinator's that came with the last `Heads`, signed by the site."""

    seen: Seen | None = None


class Heads(Frozen):
    """The coordinator signs the site's head (see `head_text`), and shows its own for the site to sign."""

    signature: Signature
    time: NonNegativeInt
    own: Head


class LastSigned(Frozen):
    """The last head of the site's log that the coordinator signed."""

    last: SignedHead | None = None


def head_text(federation: str, owner: str, head: Head, time: int) -> bytes:
    """What is signed about a log's head; ``owner`` is a site's name, or empty for the coordinator."""
    return f"wardround head {federation} {owner} {head.length} {head.hash} {time}".encode()
