"""The coordinator's state: who may join, and that what was decided about a task stays decided."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import create_engine, update

from tiny import make_plan
from wardround.core.audit import SignedHead
from wardround.core.errors import InputError, RunError, StorageError
from wardround.core.messages import Answer, Reply, SiteFailed, SiteSummary, Task, TrainFacts
from wardround.planning.plan import Plan
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import key_id, public_hex
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.tables import counters, invitations, recent, state
from wardround.runtimes.https.wire import BLOB, PROTOCOL, Consent, Join

MODEL = bytes(range(256)) * 40
SHA256 = hashlib.sha256(MODEL).hexdigest()
FACTS = TrainFacts(cases=2, updates=3, samples=6, loss=0.5, rate=0.1)


def certify(name: str, key: str, end: int) -> str:
    return f"{name} {key[:8]} {end}"


def request(token: str, name: str, key: Ed25519PrivateKey | None = None) -> Join:
    public = public_hex(key or Ed25519PrivateKey.generate())
    return Join(token=token, name=name, key=public, software="0.1", protocol=PROTOCOL)


def joined(store: Store, *names: str) -> None:
    for name in names:
        store.join(request(store.invite(name, "site", 1), name), certify)


POSTGRES = os.environ.get("WARDROUND_POSTGRES")  # SQLAlchemy's name of a database whose tables may be dropped
DATABASES = [None, *([POSTGRES] if POSTGRES else [])]


@pytest.fixture(params=DATABASES, ids=lambda url: (url or "sqlite").partition(":")[0])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    url: str | None = request.param
    if url is not None:
        engine = create_engine(url)
        for tables in (recent, state):
            tables.drop_all(engine)
        engine.dispose()
    store = Store.open(tmp_path / "coordinator", url)
    store.url = url
    yield store
    store.close()


def reopened(store: Any) -> Store:
    """As after a restart."""
    store.close()
    return Store.open(store.folder, store.url)


@pytest.fixture
def running(store: Store) -> Plan:
    """A run that A, B and C were asked for, and that A and B approved."""
    joined(store, "A", "B", "C")
    plan = make_plan()
    store.add_run(plan, ["B", "A", "C"], "owner")
    for site in ("A", "B"):
        store.set_standing(plan.digest(), site, Consent(plan=plan.digest(), standing="approved"))
    store.set_run(plan.digest(), "running")
    return plan


@pytest.fixture
def task(store: Store, running: Plan) -> Task:
    """Open at all three sites."""
    task = Task(plan=running.digest(), round=0, verb="train", tensors=SHA256)
    model = store.folder / "model"
    model.write_bytes(MODEL)
    store.open_task(task, model, ["B", "A", "C"])
    return task


def given(store: Store, task: Task, site: str, data: bytes = MODEL) -> Reply:
    """An answer whose tensors have come."""
    sha256 = hashlib.sha256(data).hexdigest()
    store.blobs.partial(sha256, site).write_bytes(data)
    store.blobs.settle(sha256, site)
    return Reply(task=task.id, site=site, facts=FACTS, tensors=sha256, size=len(data))


def late(task: Task, site: str) -> SiteFailed:
    return SiteFailed(task=task.id, site=site, kind="late", reason="no progress")


def refused(code: str, *arguments: Any) -> None:
    function, *rest = arguments
    with pytest.raises(Refusal) as caught:
        function(*rest)
    assert caught.value.code == code


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


# tasks


def test_the_first_answer_counts_and_the_same_again_is_no_fault(store: Store, task: Task) -> None:
    reply = given(store, task, "A")
    assert store.give(task.id, "A", reply)
    assert not store.give(task.id, "A", reply)
    refused("conflict", store.give, task.id, "A", given(store, task, "A", b"x"))
    refused("conflict", store.give, task.id, "A", late(task, "A"))
    assert store.decide(task.id, "A", late(task, "A")) == store.outcomes(task.id)["A"]
    answer = store.outcomes(task.id)["A"]
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    assert answer.tensors.read_bytes() == MODEL


def test_a_recorded_failure_closes_the_task_for_that_site(store: Store, task: Task) -> None:
    assert store.decide(task.id, "A", late(task, "A")) == late(task, "A")
    refused("closed", store.give, task.id, "A", given(store, task, "A"))
    refused("closed", store.check_wanted, task.id, "A")
    assert store.check_wanted(task.id, "B") == 32 * len(MODEL) + (64 << 20)


def test_a_closed_task_takes_nothing(store: Store, task: Task) -> None:
    store.close_task(task.id)
    refused("closed", store.give, task.id, "A", given(store, task, "A"))
    assert not store.may_read_blob(SHA256, "A")


def test_an_answer_must_be_one_to_this_task(store: Store, task: Task) -> None:
    reply = given(store, task, "A")
    refused("malformed", store.give, task.id, "B", reply)
    refused("malformed", store.give, task.id, "A", reply.model_copy(update={"facts": SiteSummary(dataset=SHA256)}))
    refused("conflict", store.give, task.id, "A", reply.model_copy(update={"size": 1}))
    refused("conflict", store.give, task.id, "A", reply.model_copy(update={"tensors": "0" * 64}))
    refused("conflict", store.give, task.id, "B", reply.model_copy(update={"site": "B"}))  # A's bytes are not B's
    refused("forbidden", store.give, task.id, "C", given(store, task, "C"))
    refused("not_found", store.give, f"{task.plan}:9:train:0", "A", reply.model_copy(
        update={"task": f"{task.plan}:9:train:0"}
    ))  # fmt: skip
    assert store.outcomes(task.id) == {}


def test_answers_survive_and_are_played_back(store: Store, task: Task) -> None:
    store.give(task.id, "A", given(store, task, "A"))
    store.decide(task.id, "B", late(task, "B"))
    before = store.outcomes(task.id)
    again = reopened(store)
    again.open_task(task, store.folder / "model", ["B", "A", "C"])
    assert again.outcomes(task.id) == before
    again.close()


def test_a_task_id_is_never_used_for_another_question(store: Store, task: Task) -> None:
    with pytest.raises(RunError):
        store.open_task(task.model_copy(update={"tensors": None}), None, ["A"])
    store.close_task(task.id)
    joined(store, "D")
    with pytest.raises(RunError):
        store.open_task(task, store.folder / "model", ["D"])


def test_failures_of_a_lost_task_can_be_forgotten(store: Store, task: Task) -> None:
    store.give(task.id, "A", given(store, task, "A"))
    store.decide(task.id, "B", late(task, "B"))
    store.close_task(task.id)
    store.forget_failures(task.id)
    assert set(store.outcomes(task.id)) == {"A"}
    assert store.give(task.id, "B", given(store, task, "B"))


def test_pruning_deletes_tensors_and_keeps_what_was_answered(store: Store, task: Task) -> None:
    store.give(task.id, "A", given(store, task, "A"))
    later = task.model_copy(update={"round": 1})
    store.open_task(later, store.folder / "model", ["A"])
    assert store.prune(task.plan, 1) == 0
    store.close_task(task.id)
    assert store.prune(task.plan, 1) == len(MODEL)  # A's; the model is still offered by the later task
    assert store.blobs.offered(SHA256).is_file()
    assert set(store.outcomes(task.id)) == {"A"}
    store.close_task(later.id)
    assert store.prune(task.plan, 2) == len(MODEL)


def test_bytes_that_nobody_claims_are_deleted_after_a_week(store: Store, task: Task) -> None:
    store.give(task.id, "A", given(store, task, "A"))
    given(store, task, "B")
    store.blobs.partial("0" * 64, "B").write_bytes(b"half")
    assert store.tidy() == 0
    for path in (*store.blobs.folder.glob("given/*"), *store.blobs.folder.glob("partial/*")):
        os.utime(path, (0, 0))
    assert store.tidy() == len(MODEL) + 4
    assert [path.name for path in store.blobs.folder.glob("*/*")] == [f"{SHA256}.A"]


def test_who_may_read_a_blob(store: Store, task: Task) -> None:
    assert [store.may_read_blob(SHA256, site) for site in "ABC"] == [True, True, False]
    assert not store.may_read_blob("0" * 64, "A")
    store.give(task.id, "A", given(store, task, "A"))
    store.close_task(task.id)
    final = store.folder / "final"
    final.write_bytes(b"final")
    store.finish_run(task.plan, final, {"rounds": 1})
    sha256 = hashlib.sha256(b"final").hexdigest()
    assert [store.may_read_blob(sha256, site) for site in "ABC"] == [True, False, False]


def test_no_answer_is_larger_than_any_blob(store: Store, running: Plan) -> None:
    first = Task(plan=running.digest(), round=0, verb="init")
    asks = Task(plan=running.digest(), round=0, verb="describe")
    for task in (first, asks):
        store.open_task(task, None, ["A"])
    assert 0 < store.check_wanted(first.id, "A") <= BLOB
    assert store.check_wanted(asks.id, "A") == 0


# time


def test_progress_is_that_of_the_site_and_being_told_again_is_none(store: Store, task: Task) -> None:
    begin = store.moved(task.id)
    assert set(begin) == {"A", "B", "C"}
    store.take(task.id, "A")
    told = store.moved(task.id)["A"]
    store.take(task.id, "A")
    assert store.moved(task.id)["A"] == told
    store.touch(task.id, "A")
    store.touch_fetching(SHA256, "B")
    after = store.moved(task.id)
    assert after["A"] > told
    assert after["B"] > begin["B"]
    assert after["C"] == begin["C"]


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


def test_many_threads_decide_a_site_once(store: Store, task: Task) -> None:
    replies = [given(store, task, "A", bytes([n]) * 9) for n in range(8)]
    won: list[Reply] = []

    def give(reply: Reply) -> None:
        try:
            if store.give(task.id, "A", reply):
                won.append(reply)
        except Refusal as refusal:
            assert refusal.code == "conflict"

    threads = [threading.Thread(target=give, args=(reply,)) for reply in replies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    answer = store.outcomes(task.id)["A"]
    assert isinstance(answer, Answer)
    assert answer.reply == won[0]


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
