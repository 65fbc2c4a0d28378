"""The policy at every task, and no task beyond what the plan announced."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from consent_place import DIGEST, PLAN, Place, task

from tiny import make_plan
from wardround.core.errors import InputError
from wardround.core.messages import Reply, Task, TrainFacts
from wardround.site.consent import UNREADABLE


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_policy_is_judged_at_every_task(place: Place) -> None:
    place.approve()
    place.policy(tasks=["describe"])
    found = place.consents.permission(PLAN, task())
    assert (found.allowed, found.standing, found.failure) == (False, "approved", "refused")
    assert found.reason == "the site's policy does not allow it now (tasks)"
    place.policy(quiet_hours=["11:00-13:00"])
    quiet = place.consents.permission(PLAN, task())
    assert (quiet.allowed, quiet.failure) == (False, "pending")
    assert quiet.until == datetime(2025, 3, 5, 13, 0).timestamp()
    place.now = datetime(2025, 3, 5, 13, 0)
    assert place.consents.permission(PLAN, task()).allowed
    (place.root / "policy.yaml").write_text("wardround: 2\n")
    assert place.consents.permission(PLAN, task()).reason == UNREADABLE
    (place.root / "policy.yaml").unlink()
    assert not place.consents.permission(PLAN, task()).allowed


def test_what_the_policy_forbids_cannot_be_approved(place: Place) -> None:
    place.policy(minimum_training_cases=7, most_rounds=1)
    with pytest.raises(InputError) as caught:
        place.approve()
    assert [fault.field for fault in caught.value.faults] == ["most_rounds", "minimum_training_cases"]
    assert place.consents.standing(DIGEST) == "pending"


def test_an_answer_is_judged_before_it_leaves(place: Place) -> None:
    place.approve()

    def reply(cases: int, size: int = 10) -> Reply:
        facts = TrainFacts(cases=cases, updates=1, samples=1, loss=0, rate=0)
        return Reply(task=task().id, site="A", facts=facts, size=size)

    assert place.consents.may_leave(PLAN, reply(2)).allowed
    assert not place.consents.may_leave(PLAN, reply(1)).allowed, "unusable cases had been left out"
    assert not place.consents.may_leave(PLAN, reply(2, 2 * 10**9)).allowed
    place.consents.decide(DIGEST, "revoked", "Dr. A", "enough")
    assert not place.consents.may_leave(PLAN, reply(2)).allowed


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (task("describe"), True),
        (task("describe", 1), False),
        (task("init"), True),
        (task("init", 1), False),
        (task("train", 3), True),
        (task("train", 4), False),
        (task("train", 0, step=1), False),
        (task("validate", 0), False),
        (task("validate", 2), True),
        (task("validate", 1), False),
        (task("validate", 4), True),
        (task("validate", 5), False),
        (task("test", 4), True),
        (task("test", 5), False),
    ],
)
def test_no_task_beyond_what_was_approved(place: Place, asked: Task, allowed: bool) -> None:
    plan = make_plan(rounds={"limit": 4}, evaluation={"folds": 3, "every": 2})
    place.approve(plan)
    found = place.consents.permission(plan, asked.model_copy(update={"plan": plan.digest()}))
    assert found.allowed == allowed
    assert allowed or (found.standing, found.failure) == ("approved", "refused")


def test_the_model_is_tested_once(place: Place) -> None:
    place.approve()
    assert place.consents.permission(PLAN, task("test", 1)).allowed
    assert place.open().permission(PLAN, task("test", 1)).allowed, "the same question again"
    assert not place.open().permission(PLAN, task("test", 2)).allowed
    assert not place.consents.permission(PLAN, task("train", plan="a" * 64)).allowed


def test_a_study_that_ended_asks_nothing(place: Place) -> None:
    plan = make_plan(study={"title": "Short", "ends": date(2025, 3, 5)})
    place.approve(plan)
    asked = task(plan=plan.digest())
    assert place.consents.permission(plan, asked).allowed, "its last day"
    place.now = datetime(2025, 3, 6, 0, 0)
    assert "ended" in place.consents.permission(plan, asked).detail


@pytest.mark.parametrize(
    ("sections", "verbs"),
    [
        ({}, set()),
        ({"private": {"tensors": ["norm"], "unseen": "initial"}}, set()),
        ({"private": {"tensors": ["norm"], "unseen": "mean"}}, {"share"}),
        ({"finetune": {"steps": 2}}, {"finetune"}),
        ({"strategy": {"name": "ditto"}}, set()),
    ],
)
def test_what_comes_after_the_last_round_is_asked_only_where_the_plan_says_so(
    place: Place, sections: dict[str, Any], verbs: set[str]
) -> None:
    plan = make_plan(rounds={"limit": 4}, **sections)
    place.approve(plan)
    digest = plan.digest()
    found = {verb for verb in ("share", "finetune") if place.consents.permission(plan, task(verb, 2, digest)).allowed}
    assert found == verbs
    for verb, number in (("share", 0), ("share", 5), ("finetune", 0), ("finetune", 5), ("share", 1), ("finetune", 1)):
        allowed = place.consents.permission(plan, task(verb, number, digest)).allowed
        assert not allowed, (verb, number)


def test_nothing_is_trained_after_what_comes_last(place: Place) -> None:
    """So private tensors leave after the last round and not before, though only the coordinator knows which it is."""
    plan = make_plan(rounds={"limit": 4}, private={"tensors": ["norm"], "unseen": "mean"})
    place.approve(plan)

    def allowed(verb: str, number: int) -> bool:
        return place.open().permission(plan, task(verb, number, plan.digest())).allowed

    assert allowed("train", 2)
    assert allowed("share", 2)
    assert allowed("share", 2), "the same question again"
    assert allowed("test", 2)
    assert allowed("train", 1), "a coordinator that was restored from a backup asks again"
    assert allowed("validate", 2)
    for verb, number in (("train", 2), ("validate", 3), ("share", 1), ("share", 3), ("test", 3)):
        assert not allowed(verb, number), (verb, number)
