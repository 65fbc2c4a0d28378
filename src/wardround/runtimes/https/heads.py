"""Site and coordinator sign each other's audit logs: neither can change its own later without being found out."""

from __future__ import annotations

from logging import ERROR
from pathlib import Path
from typing import Any

from wardround.core.audit import AuditLog, SignedHead
from wardround.core.errors import WardRoundError
from wardround.runtimes.https.client import Client, Rejected, client_of
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.patience import BRIEF
from wardround.runtimes.https.signing import signature_fits
from wardround.runtimes.https.wire import Head, Heads, LastSigned, OwnHead, Seen, head_text
from wardround.site.heads import add_head

PATH = "/v1/heads"
KEEP = 64  # the newest vouches for all entries before it


def countersign(home: Home, settings: SiteSettings, client: Client, audit: AuditLog) -> None:
    """Have the newest entry signed; give the coordinator its own last head, signed, and sign the one it shows now.

    Raises:
        WardRoundError: the coordinator's signature is wrong.
        Rejected: ``conflict``: this log is not the one whose head was signed before. Or see `Client.call`.
        Unreachable: see `Client.call`.
    """
    mark = audit.head()
    known = home.noted_json(home.heads_seen, [])
    seen = _seen(home, settings, known)
    answer = _exchange(client, OwnHead(length=mark.length, hash=mark.hash, seen=seen), audit)
    ours = SignedHead(length=mark.length, hash=mark.hash, time=answer.time, signature=answer.signature)
    if not signed_by_coordinator(settings, ours):
        raise WardRoundError("the coordinator's signature over the audit log's head is wrong")
    _compare(known, answer.own, audit)
    home.note_json(home.heads_seen, [*known, {**answer.own.model_dump(), "time": answer.time}][-KEEP:])
    add_head(home.heads, ours)
    signed = {"entry": mark.length, "sha256": mark.hash, "signed": answer.time, "signature": answer.signature}
    theirs = {"coordinator_entry": answer.own.length, "coordinator_sha256": answer.own.hash}
    audit.append("head_signed", **signed, **theirs)


def last_signed(folder: Path) -> SignedHead | None:
    """The last head of this site's log that the coordinator says it signed.

    Raises:
        WardRoundError: it cannot be asked, or its signature is wrong.
    """
    home = Home(folder)
    settings = home.settings()
    client = client_of(home, settings, patience=BRIEF)
    try:
        last = client.insist("GET", PATH, None, LastSigned).last
    finally:
        client.close()
    if last is not None and not signed_by_coordinator(settings, last):
        raise WardRoundError("the coordinator's signature over the head that it tells is wrong")
    return last


def signed_by_coordinator(settings: SiteSettings, signed: SignedHead) -> bool:
    """Whether the federation's coordinator signed this head of this site's log."""
    head = Head(length=signed.length, hash=signed.hash)
    text = head_text(settings.federation.id, settings.name, head, signed.time)
    return signature_fits(settings.federation.key, signed.signature, text)


def _seen(home: Home, settings: SiteSettings, theirs: list[dict[str, Any]]) -> Seen | None:
    """The coordinator's last head, signed with the key that counts now."""
    if not theirs:
        return None
    head, when = Head(length=theirs[-1]["length"], hash=theirs[-1]["hash"]), int(theirs[-1]["time"])
    signature = home.key().sign(head_text(settings.federation.id, "", head, when)).hex()
    return Seen(head=head, time=when, signature=signature)


def _exchange(client: Client, head: OwnHead, audit: AuditLog) -> Heads:
    try:
        return client.call("POST", PATH, head, Heads, "head")
    except Rejected as error:
        if error.code != "conflict" or head.seen is None:
            raise
        # Its log has no such entry: was it restored from a backup? This site's own can be signed all the same.
        answer = client.call("POST", PATH, head.model_copy(update={"seen": None}), Heads, "head")
        say("coordinator_log_lacks_entry", level=ERROR, entry=head.seen.head.length)
        audit.append("coordinator_log_lacks_entry", entry=head.seen.head.length, sha256=head.seen.head.hash)
        return answer


def _compare(seen: list[dict[str, Any]], now: Head, audit: AuditLog) -> None:
    """A coordinator's log only grows. One that shrank or differs was restored from a backup, or changed."""
    last = seen[-1] if seen else None
    if last is None or now.length > last["length"] or (now.length, now.hash) == (last["length"], last["hash"]):
        return
    say("coordinator_log_went_back", level=ERROR, from_entry=last["length"], to_entry=now.length)
    audit.append("coordinator_log_went_back", before=last["length"], now=now.length)
