"""What is done for an admitted request with a small body. Each is a short function that runs in a thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from wardround.core.audit import SignedHead
from wardround.core.errors import WardRoundError
from wardround.core.frozen import Frozen
from wardround.core.messages import Reply, SiteFailed
from wardround.runtimes.https.duties import incompatible
from wardround.runtimes.https.forms import read_json, read_query
from wardround.runtimes.https.guard import Caller
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import signature_fits
from wardround.runtimes.https.wire import (
    PIECE,
    Consent,
    Done,
    Going,
    Head,
    Heads,
    Join,
    Joined,
    LastSigned,
    Moved,
    OwnHead,
    Poll,
    Received,
    Rekey,
    Seen,
    head_text,
    rekey_proof,
)


@dataclass(frozen=True)
class Call:
    """An admitted request whose body has come and is what was signed."""

    caller: Caller
    parts: Mapping[str, str]  # of the path
    query: str = ""
    body: bytes = field(default=b"", repr=False)

    @property
    def task(self) -> str:
        """The id of the task in the path."""
        return f"{self.parts['plan']}:{self.parts['round']}:{self.parts['verb']}:{self.parts['step']}"


Answering = Callable[[Office, Call], Frozen | bytes]


def join(office: Office, call: Call) -> Joined:
    """Register the key that signed this, by an invitation."""
    request = read_json(call.body, Join)
    poll = Poll(protocol=request.protocol, software=request.software)
    if (reason := incompatible(poll, office.federation.software)) is not None:
        raise Refusal("incompatible", reason)
    joined = office.store.join(request, office.certify)
    _note(office, "joined", name=request.name, key=call.caller.key_id)
    return joined


def rekey(office: Office, call: Call) -> Joined:
    """Another key for the one that signed this; the new one must have signed too."""
    request = read_json(call.body, Rekey)
    proof = rekey_proof(office.settings.id, call.caller.key, request.key)
    if not signature_fits(request.key, request.proof, proof):
        raise Refusal("signature", "the new key did not sign this")
    joined = office.store.rekey(call.caller.key_id, request.key, office.certify)
    _note(office, "rekeyed", name=joined.name, old=call.caller.key_id)
    return joined


def plan(office: Office, call: Call) -> bytes:
    """A plan's canonical JSON."""
    read_query(call.query)
    digest = call.parts["plan"]
    text = office.store.plan_text(digest)
    offered = call.caller.role != "site" or office.store.may_read_plan(digest, call.caller.name)
    if text is None or not offered:
        raise Refusal("not_found", "there is no such plan for this site")
    return text


def consent(office: Office, call: Call) -> Done:
    """How a site stands to a plan."""
    said = read_json(call.body, Consent)
    if office.store.set_standing(said.plan, call.caller.name, said):
        _note(office, "standing", site=call.caller.name, plan=said.plan, standing=said.standing, reason=said.reason)
    return Done()


def received(office: Office, call: Call) -> Received:
    """How much of an upload is here."""
    query = read_query(call.query, "sha256", "size")
    office.store.check_wanted(call.task, call.caller.name)
    return arrived(office, call.caller.name, query["sha256"], int(query["size"]))


def arrived(office: Office, site: str, sha256: str, size: int) -> Received:
    """How much of a site's tensors is on the disk."""
    whole = office.store.blobs.given(sha256, site)
    if whole.is_file() and whole.stat().st_size == size:
        return Received(received=size, whole=True)
    partial = office.store.blobs.partial(sha256, site)
    return Received(received=min(size, partial.stat().st_size) if partial.is_file() else 0)


def reply(office: Office, call: Call) -> Done:
    """A site's answer to a task."""
    said = read_json(call.body, Reply)
    if office.store.give(call.task, call.caller.name, said):
        facts = {"site": call.caller.name, "task": said.task, "sha256": said.tensors, "bytes": said.size}
        _note(office, "answered", kind=said.facts.kind, **facts)
    return Done()


def failure(office: Office, call: Call) -> Done:
    """A site cannot answer a task."""
    said = read_json(call.body, SiteFailed)
    if office.store.give(call.task, call.caller.name, said):
        _note(office, "failed", site=call.caller.name, task=said.task, kind=said.kind, reason=said.reason)
    return Done()


def moved(office: Office, call: Call) -> Going:
    """A task goes on at a site."""
    read_json(call.body, Moved)
    try:
        office.store.check_wanted(call.task, call.caller.name)
    except Refusal as refusal:
        if refusal.code == "not_found":
            raise
        return Going(wanted=False)
    office.store.touch(call.task, call.caller.name)
    return Going(wanted=True)


def heads(office: Office, call: Call) -> Heads:
    """Countersign a site's audit log, and take its signature of ours."""
    said, site = read_json(call.body, OwnHead), call.caller.name
    last = office.store.last_head(site)
    if last is not None and (said.length < last.length or (said.length == last.length and said.hash != last.hash)):
        message = f"entry {last.length} of this log was signed before: it must be in it, as it was"
        raise Refusal("conflict", message)
    if said.seen is not None:
        _take_seen(office, call.caller, said.seen)
    now = int(time.time())
    text = head_text(office.settings.id, site, Head(length=said.length, hash=said.hash), now)
    signature = office.key.sign(text).hex()
    if last is None or last.length != said.length:
        signed = SignedHead(length=said.length, hash=said.hash, time=now, signature=signature)
        office.store.add_head(site, signed)
        _note(office, "head_signed", site=site, length=said.length, head=said.hash)
    own = office.audit.head()
    return Heads(signature=signature, time=now, own=Head(length=own.length, hash=own.hash))


def last_head(office: Office, call: Call) -> LastSigned:
    """The last head of a site's log that was signed here."""
    read_query(call.query)
    return LastSigned(last=office.store.last_head(call.caller.name))


def probe(office: Office, call: Call) -> Done:  # noqa: ARG001 - one signature for all
    """The body came as it was signed: that much passes through whatever is on the way."""
    read_query(call.query)
    return Done()


def probe_down(office: Office, call: Call) -> bytes:  # noqa: ARG001 - one signature for all
    """So many bytes that nothing on the way can make smaller."""
    count = int(read_query(call.query, "count")["count"])
    if count > PIECE:
        raise Refusal("too_large", f"at most {PIECE} bytes at once")
    return os.urandom(count)


def people(office: Office, call: Call) -> Frozen:
    """What people ask for: see `wardround.runtimes.https.people`."""
    from wardround.runtimes.https import people as handlers  # noqa: PLC0415 - of no use to a site's requests

    person = office.store.principal(call.caller.name)
    if person is None or person.role == "site":
        raise Refusal("forbidden", "this is for people")
    try:
        return handlers.handle(office, person, call.parts["action"], call.body)
    except Refusal:
        raise
    except WardRoundError as error:
        raise Refusal("conflict", str(error)) from error


def _take_seen(office: Office, caller: Caller, seen: Seen) -> None:
    text = head_text(office.settings.id, "", seen.head, seen.time)
    if not signature_fits(caller.key, seen.signature, text):
        raise Refusal("signature", "the signature of the coordinator's head is not by this key")
    if office.audit.hash_at(seen.head.length) != seen.head.hash:
        raise Refusal("conflict", "the coordinator's log has no such entry")
    last = office.store.last_head(caller.name, own=True)
    if last is None or seen.head.length > last.length:
        head = SignedHead(length=seen.head.length, hash=seen.head.hash, time=seen.time, signature=seen.signature)
        office.store.add_head(caller.name, head, own=True)


def _note(office: Office, event: str, **facts: Any) -> None:
    office.audit.append(event, **facts)
    say(event, **facts)
