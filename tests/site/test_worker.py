"""One site's half: training laws, private state, what is told and what is not."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_plan, plan_dict, write_case, write_site
from wardround.core.messages import Answer, InitFacts, ScoreFacts, SiteFailed, SiteSummary, Task, TrainFacts
from wardround.core.parcels import Packed
from wardround.core.weights import Part, file_digest, pack, read_tensors, unpack, weights_digest, write_tensors
from wardround.planning.plan import Plan
from wardround.site.answers import Answers
from wardround.site.hospital import Source
from wardround.site.worker import Setting, Site


def site(plan: Plan, folder: Path, store: Path, name: str = "A", place: str = "state") -> Site:
    return Site(plan, Setting(name, (Source(folder),), folder.parent / place, store))


def first_weights(plan: Plan, someone: Site) -> dict[str, Any]:
    answer = someone.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    return {name: np.array(array) for name, array in unpack(answer.tensors)["weights"].arrays.items()}


def ask(plan: Plan, someone: Site, weights: Any, round_: int = 0, verb: str = "train", **more: Any) -> Any:
    path = Path(someone._setting.folder) / f"sent-{round_}-{verb}"
    arrays, metadata = pack({"weights": Part(weights, 1.0), "shared": Part({}, 1.0)})
    write_tensors(path, arrays, metadata)
    first = round_ * plan.training.steps
    task = Task(plan=plan.digest(), round=round_, verb=verb, first_update=first, tensors=file_digest(path), **more)
    return someone.answer(task, path)


def trained(answer: Any) -> dict[str, Any]:
    assert isinstance(answer, Answer), answer
    assert answer.tensors is not None
    return {name: np.array(array) for name, array in unpack(answer.tensors)["weights"].arrays.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_site(tmp_path / "data")


def test_rounds_of_one_site_are_plain_training(folder: Path, store: Path) -> None:
    """FedAvg of one site is that site's training: 2 rounds x 3 steps give the bits of 1 round x 6 steps."""
    two, one = make_plan(), make_plan(training={**plan_dict()["training"], "steps": 6}, rounds={"limit": 1})
    a, b = site(two, folder, store), site(one, folder, store, place="other")
    start = first_weights(two, a)
    middle = trained(ask(two, a, start))
    end = trained(ask(two, a, middle, round_=1, accepted={"A": 0}))
    straight = trained(ask(one, b, start))
    assert weights_digest(end) == weights_digest(straight)
    assert weights_digest(end) != weights_digest(middle) != weights_digest(start)


def test_fedprox_with_mu_0_is_fedavg_bit_for_bit(folder: Path, store: Path) -> None:
    results = []
    for strategy in ({"name": "fedavg"}, {"name": "fedprox", "mu": 0}, {"name": "fedprox", "mu": 5}):
        plan = make_plan(strategy=strategy)
        someone = site(plan, folder, store, place=f"{strategy}")
        results.append(weights_digest(trained(ask(plan, someone, first_weights(plan, someone)))))
    assert results[0] == results[1] != results[2]


def test_a_task_is_answered_once(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    start = first_weights(plan, someone)
    first = ask(plan, someone, start)
    before = first.tensors.stat().st_mtime_ns
    again = ask(plan, site(plan, folder, store), start)  # a new process, so to say
    assert again.reply == first.reply
    assert again.tensors.stat().st_mtime_ns == before


def test_a_round_that_did_not_count_leaves_no_trace(folder: Path, store: Path) -> None:
    """Private state is taken from the last round that counted, however many were answered since."""
    plan = make_plan(rounds={"limit": 5})
    one, two = site(plan, folder, store), site(plan, folder, store, place="other")
    start = first_weights(plan, one)
    for someone in (one, two):
        ask(plan, someone, start)
    ask(plan, one, start, round_=1, accepted={"A": 0})  # lost on the way: only round 0 counted
    results = [trained(ask(plan, s, start, round_=2, accepted={"A": 0})) for s in (one, two)]
    assert weights_digest(results[0]) == weights_digest(results[1])


def test_private_state_is_not_among_what_leaves(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    answer = ask(plan, someone, first_weights(plan, someone))
    place = answer.tensors.parent
    assert any(name.startswith("optimiser/") for name in read_tensors(place / "kept.safetensors"))
    assert set(unpack(answer.tensors)) == {"weights"}


def test_facts_count_updates_and_samples(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    facts = ask(plan, someone, first_weights(plan, someone)).reply.facts
    assert isinstance(facts, TrainFacts)
    assert (facts.cases, facts.updates, facts.samples, facts.skipped) == (2, 3, 6, 0)
    # 9 updates in all would be 2 rounds x 3 = 6; the last of round 0 is update 2: 0.01 * (1 - 2/6) ** 0.9
    assert facts.rate == pytest.approx(0.01 * (4 / 6) ** 0.9)


def test_training_learns_and_is_scored_on_the_images_own_grid(folder: Path, store: Path) -> None:
    plan = make_plan(
        training={**plan_dict()["training"], "steps": 60, "foreground": 0.5},
        preprocessing={"spacing": [1.0, 1.0, 1.0]},
        rounds={"limit": 1},
    )
    someone = site(plan, folder, store)
    weights = trained(ask(plan, someone, first_weights(plan, someone)))
    for verb in ("validate", "test"):
        facts = ask(plan, someone, weights, round_=1, verb=verb).reply.facts
        assert isinstance(facts, ScoreFacts)
        assert facts.scores.cases == 1
        assert (facts.scores.mean_dice or 0) > 0.6
    assert facts.scores.labels["ball"].hd95.n == 1
    overlays = Path(someone._setting.folder) / "overlays"
    assert (overlays / "index.json").is_file()
    rows = json.loads((overlays / "cases.json").read_text())
    assert [row["synthetic"] for row in rows] == [False] * facts.scores.cases


def test_a_wrong_model_is_refused(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    path = folder / "x"
    write_tensors(path, {"weights/a": np.zeros(1, np.float32)}, {"weights": '{"weights": 1.0}'})
    task = Task(plan=plan.digest(), round=0, verb="train", tensors="0" * 64)
    failed = someone.answer(task, path)
    assert isinstance(failed, SiteFailed)
    assert "wrong digest" in failed.reason
    failed = someone.answer(task.model_copy(update={"tensors": file_digest(path), "step": 1}), path)
    assert isinstance(failed, SiteFailed)
    assert someone.answer(Task(plan="1" * 64, round=0, verb="init"), None).reason == "the task belongs to another plan"


def test_non_finite_gradients_fail_the_task_and_nothing_is_sent(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    weights = first_weights(plan, someone)
    broken = {**weights, next(iter(weights)): np.full_like(next(iter(weights.values())), np.nan)}
    failed = ask(plan, someone, broken)
    assert isinstance(failed, SiteFailed)
    assert "3 of 3 steps had non-finite gradients" in failed.reason


def test_failures_tell_nothing_private(folder: Path, store: Path, tmp_path: Path) -> None:
    plan = make_plan()
    secret = tmp_path / "Jane_Doe_1970"
    write_case(secret, "Jane_Doe", 1)
    (secret / "images" / "Jane_Doe.nii.gz").write_bytes(b"cut off")
    failed = site(plan, secret, store, place="jane").answer(Task(plan=plan.digest(), round=0, verb="describe"), None)
    assert isinstance(failed, SiteFailed)
    assert "Jane" not in failed.reason
    assert "1 unreadable" in failed.reason
    gone = site(plan, tmp_path / "Jane_gone", store, place="gone")
    failed = gone.answer(Task(plan=plan.digest(), round=0, verb="describe"), None)
    assert isinstance(failed, SiteFailed)
    assert "Jane" not in failed.model_dump_json()


def test_one_bad_case_is_left_out_and_only_counted(folder: Path, store: Path) -> None:
    write_case(folder, "Jane_Doe", 99)
    (folder / "images" / "Jane_Doe.nii.gz").write_bytes(b"")
    plan = make_plan()
    answer = site(plan, folder, store).answer(Task(plan=plan.digest(), round=0, verb="describe"), None)
    assert isinstance(answer, Answer)
    facts = answer.reply.facts
    assert isinstance(facts, SiteSummary)
    assert facts.left_out == {"unreadable": 1}
    assert facts.cases == {"train": 2, "validation": 1, "test": 1}
    assert "Jane" not in answer.reply.model_dump_json()


def test_what_is_private_is_only_for_its_owner(folder: Path, store: Path) -> None:
    plan = make_plan()
    someone = site(plan, folder, store)
    ask(plan, someone, first_weights(plan, someone))
    for place in (store, *[p for p in store.iterdir() if p.is_dir()], Path(someone._setting.folder)):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place


def test_the_store_is_built_once_and_anew_when_an_image_changes(folder: Path, store: Path) -> None:
    plan = make_plan()
    describe = Task(plan=plan.digest(), round=0, verb="describe")
    first = site(plan, folder, store).answer(describe, None)
    site(plan, folder, store, place="again").answer(describe, None)
    assert len([p for p in store.iterdir() if p.is_dir()]) == 1
    write_case(folder, "case_00", 12345)
    changed = site(plan, folder, store, place="third").answer(describe, None)
    assert len([p for p in store.iterdir() if p.is_dir()]) == 2
    assert isinstance(first, Answer)
    assert isinstance(changed, Answer)
    assert first.reply.facts.dataset != changed.reply.facts.dataset


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_an_older_round_is_answered_again_after_the_coordinator_went_back_to_a_backup(tmp_path: Path) -> None:
    """Its model decides: the same one gets the stored answer, another one a new answer, and nothing breaks."""
    answers = Answers(tmp_path / "answers", "A")
    plan = make_plan()
    facts = InitFacts(parameters=1)

    def task(number: int, model: str) -> Task:
        return Task(plan=plan.digest(), round=number, verb="train", tensors=model * 64)

    def packed(value: float) -> Packed:
        return pack({"weights": Part({"w": np.full(2, value, np.float32)}, 1.0)})

    for number in range(5):
        answers.commit(task(number, "a"), facts, packed(number), None)
    again = answers.commit(task(1, "a"), facts, packed(1), None)  # pruned long ago: answered anew, and kept
    assert answers.stored(task(1, "a")) == again
    assert answers.stored(task(4, "a")) is not None
    assert answers.stored(task(1, "b")) is None  # another course of the run
    assert answers.stored(task(4, "a")) is None
    new = answers.commit(task(1, "b"), facts, packed(7), None)
    assert answers.stored(task(1, "b")) == new
