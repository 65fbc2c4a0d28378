"""Runs over the store: who takes part, who is waited for, and what is decided once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs_kit import Stuck, World, once

from wardround import __version__
from wardround.core.messages import Task
from wardround.core.weights import file_digest
from wardround.faces.report.page import write_report
from wardround.runtimes.https.duties import next_for
from wardround.runtimes.https.networked import outcome_for, outcome_of
from wardround.runtimes.https.wire import PROTOCOL, Poll, Results

WHOLE = 7.0  # site A draws 0 + 1; each of two rounds adds the mean step (1 + 2 + 6) / 3
STALL = 60


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_run_goes_from_submission_to_results(world: World) -> None:
    world.submit()
    world.conduct()
    row = world.office.store.run(world.digest)
    assert (row.state, row.note, world.reports) == ("ended", "", 1)
    assert world.weights() == [WHOLE, WHOLE]
    assert row.model is not None
    assert world.office.store.blobs.offered(row.model).read_bytes() == world.place.model.read_bytes()
    facts = json.loads((world.place.root / "run.json").read_text())
    assert (facts["simulation"], facts["sites"]) == (False, ["A", "B", "C"])
    assert "folder" not in (world.place.root / "sites.json").read_text()
    assert world.failures() == []
    assert [entry["state"] for entry in world.audited("run_state")] == ["running", "ended"]


def test_when_a_run_has_ended_only_its_model_stays_among_the_blobs(world: World) -> None:
    world.submit()
    world.conduct()
    blobs = world.office.store.blobs
    left = [path for path in blobs.folder.rglob("*") if path.is_file()]
    assert left == [blobs.offered(world.office.store.run(world.digest).model or "")]


def test_every_site_is_told_its_own_scores_alone(world: World) -> None:
    world.submit()
    world.conduct()
    outcome = world.office.store.run(world.digest).outcome
    assert (outcome["rounds"], outcome["best_round"], outcome["reason"]) == (2, 2, "limit")
    assert (outcome["sites"], outcome["asked"], outcome["mean_dice"]) == (3, 3, pytest.approx(0.5))
    assert list(outcome_for(outcome, "B")["own"]) == ["B"]
    assert "A" not in json.dumps(outcome_for(outcome, "B"))
    assert outcome_for(outcome, "D")["own"] == {}


def test_what_a_site_fetches_holds_no_other_sites_scores(world: World) -> None:
    world.submit()
    world.conduct()
    poll = Poll(protocol=PROTOCOL, software=__version__, knows=(world.digest,))
    told = next_for(poll, world.office.store.views("B"), __version__).do
    assert isinstance(told, Results)
    assert list(told.outcome["own"]) == ["B"]


def test_of_own_models_every_site_is_told_its_own_scores_alone(world: World) -> None:
    world.submit()
    world.conduct()
    written = world.place.read_json("scores.json")
    better = {**written["sites"]["A"], "labels": {"b": {"dice": {"n": 1, "total": 0.8, "squares": 0.64}}}}
    tuned = {"A": {"kept": True, "before": 0.5, "after": 0.8}, "B": {"kept": False, "before": 0.5, "after": 0.4}}
    world.place.write_json("scores.json", {**written, "personal": {"A": better}, "finetune": tuned})
    outcome = outcome_of(world.place, world.sites)
    assert outcome["mean_dice"] == pytest.approx((0.8 + 0.5 + 0.5) / 3)  # of what each site uses
    told = outcome_for(outcome, "B")
    assert (list(told["own"]), told["personal"], told["finetune"]) == (["B"], {}, {"B": tuned["B"]})
    assert outcome_for(outcome, "A")["personal"] == {"A": better}


def test_a_contribution_is_as_large_as_what_was_sent_before_allows(world: World) -> None:
    """`share` brings tensors, and nothing is sent with it; the other verbs after the rounds bring none."""
    world.submit()
    store, model = world.office.store, world.folder / "model"
    model.write_bytes(b"x" * 1000)
    store.set_run(world.digest, "running")
    store.open_task(Task(plan=world.digest, round=0, verb="train", tensors=file_digest(model)), model, world.sites)
    for verb, most in (("share", 32_000 + (64 << 20)), ("finetune", 0), ("test", 0), ("validate", 0)):
        task = Task.model_validate({"plan": world.digest, "round": 2, "verb": verb})
        store.open_task(task, None, world.sites)
        assert store.check_wanted(task.id, "A") == most


def test_nothing_is_asked_before_a_quorum_approved(world: World) -> None:
    world.submit(approved="A")
    with pytest.raises(Stuck):
        world.conduct()
    assert world.state == "waiting"
    assert world.hospitals.asked == []
    assert world.events("task_opened") == []


def test_a_late_approval_joins_at_the_next_round(world: World) -> None:
    world.submit(approved="AB")
    once(world, "train", 0, lambda: world.stand("C", "approved"))
    world.conduct()
    assert world.weights() == [1 + 1.5 + 3] * 2
    assert ("C", 0, "train", "pending") in world.failures()
    assert not [f for f in world.failures() if f[1:] == (1, "train", "pending")]
    assert [(e["site"], e["standing"]) for e in world.events("site_standing")][-1] == ("C", "approved")


def test_the_report_shows_who_was_missing_and_why(world: World) -> None:
    world.submit(approved="AB")
    once(world, "train", 0, lambda: world.stand("C", "approved"))
    once(world, "train", 1, lambda: world.stand("B", "revoked", "new ethics vote"))
    world.conduct()
    page = write_report(world.place).read_text()
    assert "C, round 1: not approved yet" in page
    assert "C, round 2: took part" in page
    assert "B, round 2: refused" in page
    assert "revoked its approval: new ethics vote" in page


def test_a_revocation_in_the_middle_of_a_task_counts_the_site_out_at_once(world: World) -> None:
    world.submit()
    once(world, "train", 1, lambda: world.asleep.add("C"))
    waits: list[float] = []

    def revoke() -> None:
        if world.events("task_opened")[-1]["task"] == f"{world.digest}:1:train:0":
            waits.append(world.now)
            if len(waits) == 10:
                world.stand("C", "revoked", "new ethics vote")

    world.hooks.append(revoke)
    world.conduct()
    assert [f for f in world.failures() if f[2] == "train"] == [("C", 1, "train", "refused")]
    assert "new ethics vote" in str(world.events("site_failed")[0]["reason"])
    assert world.now < STALL


def test_a_key_that_the_coordinator_revoked_is_a_refusal(world: World) -> None:
    world.submit()
    world.asleep = {"C"}
    once(world, "describe", 0, lambda: world.office.store.revoke("C", "stolen laptop"))
    world.conduct()
    assert {f for f in world.failures() if f[0] == "C"} >= {("C", 0, "train", "refused"), ("C", 2, "test", "refused")}
    assert world.now < STALL


def test_the_first_weights_do_not_hang_on_one_dead_site(world: World) -> None:
    world.submit()
    world.asleep = {"A"}
    world.conduct()
    assert ("A", 0, "init", "late") not in world.failures()  # `init` is put to one site at a time and logs no failure
    assert ("init", 0, "B") in world.hospitals.asked
    assert world.state == "ended"


def test_the_last_site_that_could_draw_the_weights_is_waited_for(world: World) -> None:
    world.submit()
    world.hooks.append(world.stay)
    opened: list[float] = []

    def hook() -> None:
        if world.events("task_opened")[-1]["task"] == f"{world.digest}:0:init:0":
            opened.append(world.now)
            world.asleep = set("ABC") if world.now < opened[0] + 5 * STALL else set()

    world.hooks.append(hook)
    world.conduct()
    assert world.weights() == [8.0, 8.0] or world.state == "ended"
    assert [e["sites"] for e in world.events("waiting_for") if e["verb"] == "init"] == [["C"]]


def test_too_few_after_revocations_wait_and_go_on_when_one_comes_back(world: World) -> None:
    world.submit()

    def leave() -> None:
        world.stand("B", "revoked")
        world.stand("C", "revoked")

    once(world, "train", 1, leave)
    with pytest.raises(Stuck):
        world.conduct()
    assert world.state == "waiting"
    assert "2 needed" in world.office.store.run(world.digest).note
    world.stand("B", "approved")
    world.restart()
    world.conduct()
    assert world.state == "ended"
    assert world.weights() == [4 + 1.5] * 2
    assert [f for f in world.failures() if f[2] == "train"] == [
        ("B", 1, "train", "refused"),
        ("C", 1, "train", "refused"),
    ]


def test_errors_below_the_quorum_fail_the_run_and_resume_goes_on(world: World) -> None:
    world.submit()
    world.hospitals.failing = {("B", 1): "no memory", ("C", 1): "no disk"}
    world.conduct()
    row = world.office.store.run(world.digest)
    assert row.state == "failed"
    assert row.note.startswith("round 1, train: too few of the 3 sites answered (2 needed)\n  - B: error: no memory\n")
    assert f"wardround coordinator resume {world.office.folder} {world.digest[:12]}" in row.note
    world.hospitals.failing = {}
    world.office.store.set_run(world.digest, "waiting")
    world.conduct()
    assert world.state == "ended"
    assert world.weights() == [WHOLE, WHOLE]


def test_a_site_that_errs_is_asked_again_in_the_next_round(world: World) -> None:
    world.submit()
    world.hospitals.failing = {("C", 0): "no power"}
    world.conduct()
    assert world.weights() == [5.5, 5.5]
    assert world.failures() == [("C", 0, "train", "error")]


def test_an_abort_ends_the_run_at_once_and_for_good(world: World) -> None:
    world.submit()
    once(world, "train", 1, lambda: world.office.store.set_run(world.digest, "aborted", "by the owner"))
    world.conduct()
    assert (world.state, world.reports) == ("aborted", 1)
    assert world.events("run_stopped")[-1]["reason"] == "aborted"
    assert [entry["state"] for entry in world.audited("run_state")] == ["running", "aborted"]
    assert not list(world.office.store.blobs.folder.glob("given/*"))
    world.conduct()
    assert world.state == "aborted"
