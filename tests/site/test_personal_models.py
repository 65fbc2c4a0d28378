"""Models of a site's own: Ditto's second model, fine-tuning after the last round, weights by validation."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from real_sites import answer_of, begin, kept, make_site, one_more, small_plan, whole_run

from tiny import write_site
from wardround.coordinator.rounds import Run, run_rounds
from wardround.core.messages import Answer, ScoreFacts, SiteFailed, Task, TrainFacts, TuneFacts
from wardround.core.rundir import RunDir, read_events
from wardround.core.scores import Scores
from wardround.core.weights import file_digest, read_tensors, unpack, weights_digest
from wardround.networks.build import exchange
from wardround.planning.plan import Plan
from wardround.site import finetune
from wardround.site.device import Machine
from wardround.site.finetune import Tuning, fine_tune
from wardround.site.hospital import Source, open_hospital
from wardround.site.patches import Batches
from wardround.site.training import make_network


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_site(folder / "A", seed=1)
    write_site(folder / "B", cases=5, seed=2, scale=4)
    return folder


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def ditto(strength: float, **changes: Any) -> Plan:
    return small_plan(strategy={"name": "ditto", "strength": strength}, **changes)


def own(place: Path, site: str, number: int, verb: str = "train") -> dict[str, Any]:
    prefix = "own/private/"
    return {n.removeprefix(prefix): a for n, a in kept(place, site, number, verb).items() if n.startswith(prefix)}


@pytest.mark.parametrize("optimiser", [{"name": "adamw", "rate": 0.01}, {"name": "sgd", "rate": 0.05, "momentum": 0.9}])
def test_ditto_without_lambda_is_fedavg_beside_local_training_bit_for_bit(
    optimiser: dict[str, Any], data: Path, common: Path, tmp_path: Path
) -> None:
    training = {"optimiser": optimiser}
    run = begin(ditto(0.0, training=training), tmp_path / "ditto", data, common)
    run_rounds(Run(run.plan, run.dir, run.ask, run.sites, (), run.log, fixed=2))
    plain = whole_run(small_plan(training=training), tmp_path / "plain", data, common)
    assert weights_digest(read_tensors(run.dir.root / "last.safetensors")) == weights_digest(
        read_tensors(plain.dir.root / "last.safetensors")
    )
    for site in "AB":
        alone = whole_run(small_plan(training=training), tmp_path / f"alone-{site}", data, common, [site])
        local = read_tensors(alone.dir.root / "last.safetensors")
        assert weights_digest(own(tmp_path / "ditto", site, 1)) == weights_digest(local)


def test_the_larger_lambda_the_nearer_to_the_model_that_was_sent(data: Path, common: Path, tmp_path: Path) -> None:
    apart = []
    for strength in (0.0, 2.0, 15.0):
        place = tmp_path / f"{strength}"
        run = begin(ditto(strength), place, data, common)
        run_rounds(Run(run.plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
        sent = unpack(run.dir.round(1) / "model.safetensors")["weights"].arrays
        one_more(run)
        apart.append(sum(float(((v - sent[name]) ** 2).sum()) for name, v in own(place, "A", 1).items()))
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < apart[0]


def test_a_round_of_ditto_costs_twice_and_says_so(data: Path, common: Path, tmp_path: Path) -> None:
    facts = {}
    for plan in (ditto(0.5), small_plan()):
        run = whole_run(plan, tmp_path / plan.strategy.name, data, common)
        event = next(e for e in read_events(run.dir.events) if e["event"] == "site_replied" and e["verb"] == "train")
        facts[plan.strategy.name] = TrainFacts.model_validate(event["facts"])
    two, one = facts["ditto"], facts["fedavg"]
    assert (one.updates, one.personal_updates, one.samples) == (2, 0, 4)
    assert (two.updates, two.personal_updates, two.samples) == (2, 2, 8)


def test_a_sites_own_model_never_leaves_and_is_scored_beside_the_shared_one(
    data: Path, common: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run"
    run = whole_run(ditto(0.1, training={"steps": 8}), place, data, common)
    written = run.dir.read_json("scores.json")
    assert set(written["sites"]) == set(written["personal"]) == {"A", "B"}
    secrets = [a.tobytes() for site in "AB" for a in own(place, site, 1).values() if a.size > 3]
    outside = [p for p in place.rglob("*") if p.is_file() and "sites" not in p.relative_to(place).parts]
    outside += [answer_of(place, site, 1) / "tensors.safetensors" for site in "AB"]
    assert secrets
    assert not any(secret in path.read_bytes() for path in outside for secret in secrets)
    for event in read_events(run.dir.events):
        if event["event"] == "site_replied" and event["verb"] == "validate":
            assert ScoreFacts.model_validate(event["facts"]).personal is not None
    # What decides which round is best is the model that a site uses.
    validated = [e for e in read_events(run.dir.events) if e["event"] == "site_replied" and e["verb"] == "validate"]
    last = {e["site"]: Scores.model_validate(e["facts"]["personal"]).mean_dice for e in validated if e["round"] == 2}
    ended = [e for e in read_events(run.dir.events) if e["event"] == "round_ended"]
    assert ended[-1]["scores"] == last
    best = written["round"]
    for site in "AB":
        used = read_tensors(place / "sites" / site / "model.safetensors")
        assert weights_digest(used) == weights_digest(own(place, site, best - 1))


def test_a_site_that_missed_rounds_keeps_its_model_as_it_was(data: Path, common: Path, tmp_path: Path) -> None:
    plan, place = ditto(0.1, rounds={"limit": 3, "quorum": 1}), tmp_path / "run"
    run = begin(plan, place, data, common)

    def without_b(task: Task, tensors: Path | None, sites: Sequence[str]) -> Any:
        for site in sites:
            if site == "B" and task.verb == "train" and task.round > 0:
                yield SiteFailed(task=task.id, site="B", kind="late", reason="away")
            else:
                yield from run.ask(task, tensors, [site])

    run_rounds(Run(plan, run.dir, without_b, run.sites, run.testers, run.log))
    used = read_tensors(place / "sites" / "B" / "model.safetensors")
    assert weights_digest(used) == weights_digest(own(place, "B", 0))


def test_weights_by_validation_come_from_the_trained_models_score(data: Path, common: Path, tmp_path: Path) -> None:
    """The score that a site sends is that of the model that it sends, on its validation cases."""
    from wardround.site.scoring import quick_scores

    plan = small_plan(strategy={"name": "fedval"}, training={"steps": 6})
    place = tmp_path / "run"
    run = begin(plan, place, data, common)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    total, cases = 0.0, 0.0
    for site in "AB":
        parts = unpack(answer_of(place, site, 0) / "tensors.safetensors")
        network = make_network(plan, machine(), parts["weights"].arrays)
        held_out = open_hospital(plan, site, [Source(data / site)], common).part("validation")
        dice = quick_scores(plan, machine(), network, held_out).mean_dice
        assert parts["score"].arrays["score"].tolist() == [dice, 1.0]
        assert parts["weights"].weight == parts["score"].weight  # the first round is FedAvg's
        total, cases = total + parts["score"].weight * (dice or 0), cases + parts["score"].weight
    told = unpack(run.dir.round(1) / "model.safetensors")["shared"].arrays["reference"]
    assert told[0] == pytest.approx(total / cases)


def machine() -> Machine:
    return Machine(torch.device("cpu"), "fp32", "test")


def tune(
    plan: Plan, data: Path, common: Path, dice: list[float | None], monkeypatch: pytest.MonkeyPatch, **more: Any
) -> tuple[Any, dict[str, Any]]:
    """Fine-tune the plan's first weights at A, where validation says what it is told to."""
    said = iter(dice)
    monkeypatch.setattr(finetune, "quick_scores", lambda *_: type("S", (), {"mean_dice": next(said)})())
    hospital = open_hospital(plan, "A", [Source(data / "A")], common)
    start = exchange(make_network(plan, machine(), None))
    batches = Batches(hospital.part("train"), plan.training, plan.seed, "A")
    return fine_tune(plan, machine(), start, batches, hospital.part("validation"), Tuning(2, 0.01, **more)), start


@pytest.mark.parametrize(
    ("dice", "kept_"), [([0.5, 0.6], True), ([0.5, 0.5], False), ([0.5, 0.4], False), ([None, 0.4], False),
                        ([0.5, None], False), ([0.0, 1e-9], True)],
)  # fmt: skip
def test_fine_tuning_is_kept_only_where_validation_improves(
    dice: list[float | None], kept_: bool, data: Path, common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned, start = tune(small_plan(), data, common, dice, monkeypatch)
    assert (tuned.kept, tuned.before, tuned.after, tuned.updates) == (kept_, *dice, 2)
    assert (weights_digest(tuned.model) == weights_digest(start)) is not kept_


@pytest.mark.parametrize(
    ("norm", "only", "changing"),
    [
        ("instance", "norm.affine", "norm.affine"),
        ("batch", "norm", "norm"),
        ("batch", "norm.affine", "norm.affine"),
        ("batch", "norm.statistics", None),
    ],
)
def test_only_the_named_tensors_change(
    norm: str, only: str, changing: str | None, data: Path, common: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running statistics alone have no gradient: then everything may change."""
    plan = small_plan(norm, private={"tensors": [only]})
    tuned, start = tune(plan, data, common, [0.1, 0.2], monkeypatch, only=plan.private_tensors)
    moved = {name for name, array in tuned.model.items() if (array != start[name]).any()}
    assert moved
    if changing is None:
        assert set(tuned.changed) == set(start)
        assert "encoder.0.conv1.weight" in moved
    else:
        assert moved <= set(plan.private_tensors) == set(tuned.changed)


def test_after_the_last_round_sites_fine_tune_on_training_cases_and_decide_on_validation_cases(
    data: Path, common: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(finetune={"steps": 12, "rate": 0.05}, training={"steps": 3})
    place, seen = tmp_path / "run", {"trained": set(), "decided": set()}
    make, judge = Batches.make, finetune.quick_scores

    def making(self: Batches, update: int) -> Any:
        if update >= plan.updates:
            seen["trained"] |= {case.id for case in self.cases}
        return make(self, update)

    def judging(a: Any, b: Any, c: Any, cases: Any) -> Any:
        seen["decided"] |= {case.id for case in cases}
        return judge(a, b, c, cases)

    monkeypatch.setattr(Batches, "make", making)
    monkeypatch.setattr(finetune, "quick_scores", judging)
    run = whole_run(plan, place, data, common)
    hospitals = {s: open_hospital(plan, s, [Source(data / s)], common) for s in "AB"}
    for part, ids in (("train", seen["trained"]), ("validation", seen["decided"])):
        assert ids == {case.id for h in hospitals.values() for case in h.part(part)}
    written = run.dir.read_json("scores.json")
    assert set(written["finetune"]) == {"A", "B"}
    for site, fact in written["finetune"].items():
        assert (fact["updates"], fact["samples"]) == (12, 24)
        assert fact["kept"] == (site in written["personal"])
        assert fact["kept"] == (fact["after"] > fact["before"])
        used = read_tensors(place / "sites" / site / "model.safetensors")
        shared = weights_digest(read_tensors(run.dir.model))
        assert (weights_digest(used) == shared) is not fact["kept"]
        if fact["kept"]:
            assert weights_digest(used) == weights_digest(own(place, site, 2, "finetune"))
            assert not (answer_of(place, site, 2, "finetune") / "tensors.safetensors").exists()
    assert any(fact["kept"] for fact in written["finetune"].values())


def test_killed_between_fine_tuning_and_test_it_goes_on_to_the_same(data: Path, common: Path, tmp_path: Path) -> None:
    plan = small_plan(finetune={"steps": 2, "rate": 0.05})
    whole = whole_run(plan, tmp_path / "whole", data, common)
    for verb in ("finetune", "test"):
        place = tmp_path / verb
        run = begin(plan, place, data, common)

        def dying(task: Task, tensors: Path | None, sites: Sequence[str], run: Run = run, verb: str = verb) -> Any:
            for answer in run.ask(task, tensors, sites):
                if task.verb == verb and answer.reply.site == "B":  # type: ignore[union-attr]
                    raise KeyboardInterrupt
                yield answer

        with pytest.raises(KeyboardInterrupt):
            run_rounds(Run(plan, run.dir, dying, run.sites, run.testers, run.log))
        copy = tmp_path / f"{verb}-again"
        shutil.copytree(place, copy)
        again = begin(plan, copy, data, common)
        run_rounds(again)
        assert again.dir.read_json("scores.json")["finetune"] == whole.dir.read_json("scores.json")["finetune"]
        for site in "AB":
            models = [root / "sites" / site / "model.safetensors" for root in (copy, tmp_path / "whole")]
            assert models[0].read_bytes() == models[1].read_bytes()


def test_a_site_that_cannot_fine_tune_is_tested_all_the_same(data: Path, common: Path, tmp_path: Path) -> None:
    plan = small_plan(finetune={"steps": 2})
    run = begin(plan, tmp_path / "run", data, common)

    def ask(task: Task, tensors: Path | None, sites: Sequence[str]) -> Any:
        for answer in run.ask(task, tensors, sites):
            broken = task.verb == "finetune" and isinstance(answer, Answer) and answer.reply.site == "A"
            yield SiteFailed(task=task.id, site="A", kind="error", reason="out of memory") if broken else answer

    run_rounds(Run(plan, run.dir, ask, run.sites, run.testers, run.log))
    written = run.dir.read_json("scores.json")
    assert set(written["sites"]) == {"A", "B"}
    assert set(written["finetune"]) == {"B"}
    assert [e["site"] for e in read_events(run.dir.events) if e["event"] == "site_failed"] == ["A"]


def test_fine_tuning_that_the_plan_does_not_ask_for_is_refused(data: Path, common: Path, tmp_path: Path) -> None:
    plan = small_plan()
    run = whole_run(plan, tmp_path / "run", data, common)
    sent = run.dir.round(2) / "model.safetensors"
    task = Task(plan=plan.digest(), round=2, verb="finetune", tensors=file_digest(sent))
    failed = make_site(plan, "A", tmp_path / "run", data, common).answer(task, sent)
    assert isinstance(failed, SiteFailed)
    assert failed.reason == "the plan asks for no fine-tuning"
    assert not [e for e in read_events(run.dir.events) if e.get("verb") == "finetune"]
    assert set(run.dir.read_json("scores.json")) == {"model", "round", "sites", "missing"}


def test_private_tensors_and_fine_tuning_go_together(data: Path, common: Path, tmp_path: Path) -> None:
    """Fine-tuning begins at the model with the site's own private tensors; facts say what it did."""
    plan = small_plan(private={"tensors": ["norm.affine"]}, finetune={"steps": 4, "rate": 0.05})
    run = whole_run(plan, tmp_path / "run", data, common)
    for event in read_events(run.dir.events):
        if event["event"] == "site_replied" and event["verb"] == "finetune":
            assert TuneFacts.model_validate(event["facts"]).updates == 4
    for site in "AB":
        assert RunDir(tmp_path / "run" / "sites" / site).model.is_file()
