"""What a site gave is an answer to its task, or a failure of that site; and how many answers a round needs."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_kit import World

from tiny import make_plan
from wardround.core.messages import Answer, InitFacts, Reply, ShareFacts, SiteFailed, Task, TrainFacts, TuneFacts
from wardround.runtimes.https.transport import fault_of, needed


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("verb", ["describe", "init", "train", "validate", "test"])
def test_the_wrong_kind_of_facts_is_an_error_of_that_site(world: World, verb: str) -> None:
    """The application refuses it already; a store that holds it all the same must not bring the run down."""
    world.submit()
    wrong = TrainFacts(cases=1, updates=1, samples=1, loss=0.0, rate=0.1) if verb == "init" else InitFacts(parameters=1)
    number = 2 if verb == "test" else 1 if verb == "validate" else 0

    def fault(answer: Answer) -> str | None:
        task = Task.model_validate({"plan": world.digest, "round": number, "verb": verb})
        return fault_of(task, answer)

    answers: list[Answer] = []
    outcomes = world.office.store.outcomes

    def stored(task_id: str) -> dict[str, Answer | SiteFailed]:
        found = outcomes(task_id)
        if task_id == f"{world.digest}:{number}:{verb}:0" and isinstance(found.get("A"), Answer):
            answers.append(world.change(found["A"], facts=wrong))  # type: ignore[arg-type]
            found["A"] = answers[-1]
        return found

    world.office.store.outcomes = stored  # type: ignore[method-assign]
    world.conduct()
    assert world.state == "ended"
    assert "which is no answer to" in str(fault(answers[0]))
    if verb != "init":
        assert ("A", number, verb, "error") in world.failures()


def test_faults_of_answers(world: World) -> None:
    world.submit()
    train = Task(plan=world.digest, round=0, verb="train")
    model = world.folder / "model"
    good = world.hospitals._answer(train, None, "A")
    assert fault_of(train, good) is None
    assert "another task" in str(fault_of(Task(plan=world.digest, round=1, verb="train"), good))
    assert "no weights" in str(fault_of(train, world.change(good, tensors=None)))
    assert "no longer" in str(fault_of(train, Answer(good.reply, model)))
    describe = Task(plan=world.digest, round=0, verb="describe")
    summary = world.hospitals._answer(describe, None, "A")
    assert fault_of(describe, summary) is None
    assert "unasked" in str(fault_of(describe, world.change(summary, tensors="0" * 64)))


def test_a_rule_that_needs_more_than_the_quorum_waits_for_more() -> None:
    assert needed(make_plan(rounds={"limit": 1}), 3) == 2
    assert needed(make_plan(rounds={"limit": 1, "quorum": 1}), 3) == 1
    assert needed(make_plan(rounds={"limit": 1, "quorum": 1}, aggregation={"name": "trimmed", "trim": 1}), 4) >= 3


def test_answers_after_the_last_round(world: World) -> None:
    """The coordinator takes private tensors with `share` alone, and facts of fine-tuning without any."""
    model = world.folder / "model"
    model.touch()
    facts = {
        "share": ShareFacts(tensors=2),
        "finetune": TuneFacts(kept=False, before=0.5, after=0.4, updates=1, samples=2),
    }
    for verb in ("share", "finetune"):
        task = Task.model_validate({"plan": world.digest, "round": 2, "verb": verb})
        for given, said in facts.items():
            for tensors in (None, "0" * 64):
                reply = Reply(task=task.id, site="A", facts=said, tensors=tensors)
                right = given == verb and (tensors is not None) == (verb == "share")
                assert (fault_of(task, Answer(reply, model if tensors else None)) is None) == right
