"""The coordinator's state: who may join, runs and their rosters, and waiting for changes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import MODEL, certify, joined, refused, reopened, request
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from tiny import make_plan
from wardround.core.audit import SignedHead
from wardround.core.errors import InputError, StorageError
from wardround.planning.plan import Plan
from wardround.runtimes.https.signing import key_id, public_hex
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.tables import counters, invitations
from wardround.runtimes.https.wire import Consent

# who may join


def test_an_invitation_is_good_once_but_the_same_key_may_ask_again(store: Store) -> None:
    mine = request(store.invite("A", "site", 1), "A")
    first = store.join(mine, certify)
    assert store.join(mine, lambda *_: "another") == first
    refused("invitation", store.join, request(mine.token, "A"), certify)
    refused("invitation", store.join, request("x" * 43, "A"), certify)
    assert [(one.name, one.role, one.active) for one in store.principals()] == [("A", "site", True)]


def test_an_invitation_is_for_one_name_and_ends(store: Store) -> None:
    token = store.invite("A", "site", 1)
    refused("invitation", store.join, request(token, "B"), certify)
    with store._state.write() as connection:
        connection.execute(update(invitations).values(expires=int(time.time()) - 1))
    refused("invitation", store.join, request(token, "A"), certify)


def test_a_newer_invitation_takes_the_place_of_an_unused_one(store: Store) -> None:
    old, new = store.invite("A", "site", 1), store.invite("A", "site", 1)
    refused("invitation", store.join, request(old, "A"), certify)
    store.join(request(new, "A"), certify)


@pytest.mark.parametrize("name", ["", "a b", "../x", "pooled", "Pooled", "a" * 65, "-a", "ä"])
def test_names_that_nobody_may_have(store: Store, name: str) -> None:
    with pytest.raises(InputError):
        store.invite(name, "site", 1)


def test_no_two_names_differ_in_case_alone(store: Store) -> None:
    joined(store, "Utrecht")
    with pytest.raises(InputError, match="joined already"):
        store.invite("UTRECHT", "viewer", 1)


def test_another_key_takes_the_place_of_the_old_one_and_the_state_stays(store: Store, running: Plan) -> None:
    old = Ed25519PrivateKey.generate()
    mine = request(store.invite("A", "site", 1, rekey=True), "A", old)
    store.join(mine, certify)
    new = public_hex(Ed25519PrivateKey.generate())
    assert store.rekey(key_id(mine.key), new, certify).name == "A"
    before, after = store.key(key_id(mine.key)), store.key(key_id(new))
    assert before is not None
    assert after is not None
    assert (before.replaced, after.replaced) == (True, False)
    refused("unknown_key", store.rekey, key_id(mine.key), public_hex(Ed25519PrivateKey.generate()), certify)
    refused("invitation", store.join, mine, certify)
    assert store.standings(running.digest())["A"] == "approved"
    assert len(store.keys_of("A")) == 3


def test_a_key_is_registered_once(store: Store) -> None:
    key = Ed25519PrivateKey.generate()
    store.join(request(store.invite("A", "site", 1), "A", key), certify)
    refused("conflict", store.join, request(store.invite("B", "site", 1), "B", key), certify)
    refused("conflict", store.rekey, key_id(public_hex(key)), public_hex(key), certify)


def test_who_was_revoked_comes_back_only_by_an_invitation_for_another_key(store: Store) -> None:
    joined(store, "A")
    store.revoke("A", "left the study")
    assert [(one.active, one.reason) for one in store.sites()] == [(False, "left the study")]
    with pytest.raises(InputError):
        store.invite("A", "site", 1)
    store.join(request(store.invite("A", "site", 1, rekey=True), "A"), certify)
    assert store.sites()[0].active
    with pytest.raises(InputError):
        store.revoke("B", "never came")


def test_revoking_voids_an_open_invitation(store: Store) -> None:
    token = store.invite("A", "site", 1)
    with pytest.raises(InputError):
        store.revoke("A", "no")
    refused("invitation", store.join, request(token, "A"), certify)


def test_tokens_are_nowhere_on_the_disk(store: Store) -> None:
    token = store.invite("A", "site", 1)
    store.join(request(token, "A"), certify)
    with store._state.read() as connection:
        assert token not in str(connection.execute(invitations.select()).all())
    store.close()
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    assert not any(token.encode() in path.read_bytes() for path in files)


# runs


def test_the_roster_is_the_fold_order(store: Store, running: Plan) -> None:
    assert store.run(running.digest()).roster == ("B", "A", "C")
    assert store.standings(running.digest()) == {"A": "approved", "B": "approved", "C": "pending"}


def test_a_plan_is_run_once_and_only_by_active_sites(store: Store, running: Plan) -> None:
    with pytest.raises(InputError, match="submitted before"):
        store.add_run(running, ["A"], "owner")
    store.revoke("C", "left")
    with pytest.raises(InputError) as caught:
        store.add_run(make_plan(seed=1), ["A", "A", "C", "D"], "owner")
    assert len(caught.value.faults) == 3
    with pytest.raises(InputError):
        store.add_run(make_plan(seed=1), [], "owner")


@pytest.mark.parametrize("end", ["aborted", "ended"])
def test_what_is_over_stays_over(store: Store, running: Plan, end: Any) -> None:
    digest = running.digest()
    assert store.set_run(digest, end) == end
    assert store.set_run(digest, "failed", "late news") == end
    model = store.folder / "m"
    model.write_bytes(MODEL)
    assert store.finish_run(digest, model, {"rounds": 1}) == end
    assert store.run(digest).state == end


def test_standings_of_sites_that_were_not_asked_are_refused(store: Store, running: Plan) -> None:
    joined(store, "D")
    said = Consent(plan=running.digest(), standing="approved")
    refused("not_found", store.set_standing, running.digest(), "D", said)
    refused("not_found", store.set_standing, "0" * 64, "A", said)
    assert not store.set_standing(running.digest(), "A", said)


# time


def test_a_nonce_is_good_once_also_after_a_restart(store: Store) -> None:
    now = int(time.time())
    assert store.fresh("a" * 32, "nonce", now)
    assert store.fresh("b" * 32, "nonce", now)
    again = reopened(store)
    assert not again.fresh("a" * 32, "nonce", now)
    assert again.fresh("a" * 32, "old", now - 10_000)
    again.sweep()
    assert not again.fresh("a" * 32, "nonce", now)
    assert again.fresh("a" * 32, "old", now - 10_000)
    again.close()


def test_waiting_ends_with_a_write_of_this_process(store: Store) -> None:
    seen, woken = store.version(), threading.Event()

    def wait() -> None:
        if store.wait(seen, 60) != seen:
            woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    joined(store, "A")
    thread.join(10)
    assert woken.is_set()


def test_waiting_ends_with_a_write_of_another_process(store: Any) -> None:
    script = "import sys, pathlib; from wardround.runtimes.https.store import Store; " \
             "Store.open(pathlib.Path(sys.argv[1]), *sys.argv[2:]).invite('A', 'site', 1)"  # fmt: skip
    seen = store.version()
    other = subprocess.Popen([sys.executable, "-c", script, str(store.folder), *([store.url] if store.url else [])])
    assert store.wait(seen, 60) > seen
    assert other.wait() == 0


def test_waiting_for_nothing_ends_at_its_time(store: Store) -> None:
    seen = store.version()
    assert store.wait(seen, 0.01) == seen


def test_who_called_and_with_which_software(store: Store) -> None:
    store.saw("A", "0.1.2")
    store.saw("A")
    assert store.seen()["A"][1] == "0.1.2"


def test_a_folder_of_another_format_is_not_opened(store: Store) -> None:
    with store._state.write() as connection:
        connection.execute(update(counters).where(counters.c.name == "schema").values(value=99))
    with pytest.raises(StorageError, match="format 99"):
        reopened(store)


def test_a_database_that_is_none_is_told_in_a_line(tmp_path: Path) -> None:
    for url in ("nonsense", "sqlite:////nowhere/at/all.sqlite", "postgresql+nonsense://h/d"):
        with pytest.raises(StorageError):
            Store.open(tmp_path, url)


@pytest.mark.parametrize("name", ["../x", "a" * 63, "A" * 64, "a" * 64 + "/", ""])
def test_no_path_is_made_of_what_is_no_digest(store: Store, name: str) -> None:
    for make in (
        store.blobs.offered,
        lambda one: store.blobs.given(one, "A"),
        lambda one: store.blobs.partial(one, "A"),
    ):
        with pytest.raises(ValueError, match="not a name"):
            make(name)
    for site in ("../x", "a.b", ""):
        with pytest.raises(ValueError, match="not a name"):
            store.blobs.given("0" * 64, site)


def test_of_signed_heads_the_newest_stay(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from wardround.runtimes.https import store as module

    joined(store, "A")
    monkeypatch.setattr(module, "KEPT", 3)
    for own in (False, True):
        for length in range(10):
            store.add_head("A", SignedHead(length=length, hash="0" * 64, time=1, signature="0" * 128), own)
        last = store.last_head("A", own)
        assert last is not None
        assert last.length == 9
    assert [head.length for _, head in store.own_heads()] == [7, 8, 9]
