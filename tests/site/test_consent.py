"""Nothing runs before a person approved this very plan, for this software and this dataset."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from consent_place import DIGEST, PLAN, Place, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tiny import make_plan
from wardround import __version__
from wardround.core.audit import read_entries, verify
from wardround.core.errors import InputError, StorageError
from wardround.site import decisions
from wardround.site.consent import AGAIN, WAITING
from wardround.site.decisions import parse_plan


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_plan_waits_until_a_person_approves(place: Place) -> None:
    consents = place.consents
    unknown = consents.permission(PLAN, task())
    assert (unknown.allowed, unknown.standing, unknown.reason) == (False, "pending", WAITING)
    assert consents.receive(PLAN.canonical().encode()) == PLAN
    assert consents.receive(PLAN.canonical().encode()) == PLAN
    waiting = consents.permission(PLAN, task())
    assert (waiting.allowed, waiting.standing, waiting.reason, waiting.failure) == (
        False,
        "pending",
        WAITING,
        "pending",
    )
    consents.decide(DIGEST, "approved", " Dr. A ", "looks good")
    assert consents.permission(PLAN, task()).allowed
    assert place.open().permission(PLAN, task()).allowed, "another process sees it"
    assert consents.standing(DIGEST) == "approved"
    assert place.events() == ["plan_received", "approved"]
    entry = list(read_entries(place.root / "audit.jsonl"))[-1]
    assert (entry["person"], entry["reason"], entry["plan"], entry["cases"]) == ("Dr. A", "looks good", DIGEST, 8)
    assert verify(place.root / "audit.jsonl").clean


def test_refused_and_revoked(place: Place) -> None:
    consents = place.consents
    consents.receive(PLAN.canonical().encode())
    consents.decide(DIGEST, "refused", "Dr. A", "no ethics vote")
    refused = consents.permission(PLAN, task())
    assert (refused.allowed, refused.standing, refused.reason, refused.failure) == (
        False,
        "refused",
        "no ethics vote",
        "refused",
    )
    consents.decide(DIGEST, "approved", "Dr. A")
    consents.decide(DIGEST, "revoked", "Dr. B", "withdrawn")
    revoked = consents.permission(PLAN, task())
    assert (revoked.allowed, revoked.standing, revoked.reason) == (False, "revoked", "withdrawn")
    assert "Dr. B" not in revoked.reason
    assert place.events() == ["plan_received", "refused", "approved", "revoked"]


@pytest.mark.parametrize(
    ("before", "standing", "person", "reason", "fault"),
    [
        (None, "revoked", "Dr. A", "why", "only an approval can be revoked"),
        ("approved", "refused", "Dr. A", "why", "revoke the approval"),
        ("approved", "revoked", "Dr. A", "  ", "say why"),
        (None, "approved", "  ", "", "who decides"),
        (None, "refused", "a" * 201, "", "at most 200"),
        (None, "refused", "Dr. A", "a" * 501, "at most 500"),
        (None, "pending", "Dr. A", "", "nobody decides"),
    ],
)
def test_what_cannot_be_decided(place: Place, before: Any, standing: Any, person: str, reason: str, fault: str) -> None:
    place.consents.receive(PLAN.canonical().encode())
    if before:
        place.consents.decide(DIGEST, before, "Dr. A")
    with pytest.raises(InputError, match=fault):
        place.consents.decide(DIGEST, standing, person, reason)
    assert place.consents.standing(DIGEST) == (before or "pending")


def test_a_plan_that_was_never_asked_for_cannot_be_approved(place: Place) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        place.consents.decide("a" * 64, "approved", "Dr. A")
    with pytest.raises(InputError, match="not the digest"):
        place.consents.decide("../../etc/passwd", "approved", "Dr. A")
    assert place.events() == []


def test_a_plan_changed_after_approval_is_refused(place: Place) -> None:
    place.approve()
    stored = place.root / "requests" / f"{DIGEST}.json"
    other = make_plan(rounds={"limit": 500})
    stored.write_text(other.canonical())
    for plan, digest in ((PLAN, DIGEST), (other, other.digest())):
        found = place.consents.permission(plan, task(plan=digest))
        assert (found.allowed, found.standing, found.reason) == (False, "pending", WAITING)
    assert "tampered" in place.events()
    with pytest.raises(
        InputError, match=r"was changed after it arrived.*remove the file: `wardround site serve` fetches the plan anew"
    ):
        place.consents.decide(DIGEST, "approved", "Dr. A")
    assert place.consents.all()[0].plan is None
    place.consents.receive(PLAN.canonical().encode())  # the coordinator sends it again
    assert place.consents.permission(PLAN, task()).allowed


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_stored_plan_is_noticed(place: Place, data: st.DataObject) -> None:
    text = PLAN.canonical().encode()
    if place.consents.standing(DIGEST) != "approved":
        place.approve()
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
    (place.root / "requests" / f"{DIGEST}.json").write_bytes(text[:at] + bytes([byte]) + text[at + 1 :])
    assert not place.consents.permission(PLAN, task()).allowed


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"standing":"approved"}', "\0", None],
)
def test_a_damaged_decision_is_none(place: Place, content: str | None) -> None:
    place.approve()
    path = place.root / "approvals" / f"{DIGEST}.json"
    text = path.read_text()
    path.write_text(text.replace(DIGEST, "b" * 64) if content is None else content)
    assert not place.consents.permission(PLAN, task()).allowed
    assert place.consents.standing(DIGEST) in ("pending", "approved")
    place.consents.decide(DIGEST, "approved", "Dr. A") if content is not None else None


@settings(max_examples=150, deadline=None)
@given(
    text=st.binary(max_size=300) | st.sampled_from([b"[" * 100_000, b"1" * 5000, b"{}", b"null", b'{"wardround":1}'])
)
def test_nonsense_is_no_plan(text: bytes) -> None:
    with pytest.raises(InputError):
        parse_plan(text, "the plan that was sent")


def test_plans_are_canonical_bounded_and_known(place: Place) -> None:
    value = json.loads(PLAN.canonical())
    for text, fault in (
        (json.dumps(value).encode(), "canonical"),
        (json.dumps({**value, "extra": 1}, sort_keys=True).encode(), "extra: is not a known field"),
        (b" " * (1 << 20) + PLAN.canonical().encode(), "larger than 1 MiB"),
    ):
        with pytest.raises(InputError, match=fault):
            place.consents.receive(text)
    assert place.consents.desk.digests() == []


def test_prefixes_are_long_enough_and_unique(place: Place) -> None:
    place.consents.receive(PLAN.canonical().encode())
    desk = place.consents.desk
    assert desk.find(DIGEST[:6]) == desk.find(DIGEST.upper()) == DIGEST
    for prefix, fault in ((DIGEST[:5], "too short"), ("f" * 12, "no plan"), ("../../", "no plan")):
        with pytest.raises(InputError, match=fault):
            desk.find(prefix)
    (place.root / "requests" / f"{DIGEST[:63]}{'0' if DIGEST[63] != '0' else '1'}.json").write_text("{}")
    with pytest.raises(InputError, match="several plans"):
        desk.find(DIGEST[:10])


def test_another_minor_version_asks_again_and_a_patch_does_not(place: Place) -> None:
    place.approve()
    major, minor, patch = __version__.split(".")[:3]
    assert place.consents.permission(PLAN, task(), software=f"{major}.{minor}.{patch}9").allowed
    newer = place.consents.permission(PLAN, task(), software=f"{major}.{int(minor) + 1}.0")
    assert (newer.allowed, newer.standing, newer.reason) == (False, "pending", AGAIN)
    assert "the software changed from" in newer.detail


def test_all_lists_what_was_asked_for_oldest_first(place: Place) -> None:
    other = make_plan(seed=2)
    for number, plan in enumerate((PLAN, other)):
        place.consents.receive(plan.canonical().encode())
        os.utime(place.root / "requests" / f"{plan.digest()}.json", (number, number))
    place.consents.decide(other.digest(), "approved", "Dr. A")
    (place.root / "requests" / "notes.txt").write_text("mine")
    found = place.consents.all()
    assert [(one.digest, one.permission.standing, one.since) for one in found] == [
        (DIGEST, "pending", 0.0),
        (other.digest(), "approved", 1.0),
    ]


def test_plans_cannot_fill_the_disk(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MOST_PLANS", 1)
    place.consents.receive(PLAN.canonical().encode())
    with pytest.raises(StorageError, match="holds 1 plans"):
        place.consents.receive(make_plan(seed=3).canonical().encode())
    place.consents.receive(PLAN.canonical().encode())


def test_it_starts_without_torch() -> None:
    code = "import sys, wardround.site.consent; assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
