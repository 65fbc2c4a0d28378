"""Tasks in the coordinator's state: what was decided about a site stays decided."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest
from coordinator_kit import MODEL, SHA256, given, joined, late, refused, reopened

from wardround.core.errors import RunError
from wardround.core.messages import Answer, Reply, SiteSummary, Task
from wardround.planning.plan import Plan
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import BLOB


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
