"""Tensors that never leave a site: in the bytes, from round to round, after a restart, and for a site never seen."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from real_sites import answer_of, begin, kept, make_site, one_more, small_plan, whole_run

from tiny import write_site
from wardround.coordinator.rounds import Run, run_rounds
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.rundir import RunDir, read_events
from wardround.core.weights import (
    Part,
    file_digest,
    map_tensors,
    pack,
    read_tensors,
    unpack,
    weights_digest,
    write_tensors,
)
from wardround.planning.plan import Plan
from wardround.site.personal import check_outbox
from wardround.site.use import Model
from wardround.strategies.catalog import STRATEGIES

GROUPS = ["norm.affine", "norm.statistics", "norm", "head", "encoder.0.*"]
NAMES = [member.model_fields["name"].default for member in STRATEGIES]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_site(folder / "A", seed=1)
    write_site(folder / "B", cases=5, seed=2, scale=4)
    write_site(folder / "C", cases=3, seed=3, scale=2)
    return folder


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(autouse=True)
def _here(common: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("WARDROUND_STORE", str(common))


def plan_of(group: str | list[str] = "norm.affine", unseen: str = "initial", **changes: Any) -> Plan:
    tensors = [group] if isinstance(group, str) else group
    norm = changes.pop("norm", "batch" if "norm" in tensors or "norm.statistics" in tensors else "instance")
    return small_plan(norm, private={"tensors": tensors, "unseen": unseen}, **changes)


def names_in(path: Path) -> set[str]:
    """Names of tensors in a file, from its very bytes."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return {name.partition("/")[2] for name in json.loads(raw[8 : 8 + length]) if name != "__metadata__"}


def private_bytes(place: Path, site: str, number: int, plan: Plan) -> list[bytes]:
    """The trained values, as they would look in any file; those of a few numbers could occur by chance."""
    own = kept(place, site, number)
    return [own[f"private/{name}"].tobytes() for name in plan.private_tensors if own[f"private/{name}"].size > 3]


@pytest.mark.parametrize("group", GROUPS)
def test_private_tensors_never_leave_a_site(group: str, data: Path, common: Path, tmp_path: Path) -> None:
    plan, place = plan_of(group), tmp_path / "run"
    seen: list[Path] = []
    secrets: list[bytes] = []
    run = begin(plan, place, data, common)

    def watching(task: Task, tensors: Path | None, sites: Any) -> Any:
        if tensors is not None:
            copy = tmp_path / f"down-{len(seen)}"
            shutil.copy(tensors, copy)
            if task.verb in ("train", "validate"):
                assert not names_in(copy) & set(plan.private_tensors)
            seen.append(copy)
        for answer in run.ask(task, tensors, sites):
            assert isinstance(answer, Answer), answer
            if answer.tensors is not None and task.verb == "train":
                copy = tmp_path / f"up-{len(seen)}"
                shutil.copy(answer.tensors, copy)
                assert not names_in(copy) & set(plan.private_tensors)
                seen.append(copy)
                secrets.extend(private_bytes(place, answer.reply.site, task.round, plan))
            yield answer

    run_rounds(Run(plan, run.dir, watching, run.sites, run.testers, run.log))
    assert secrets
    outside = [p for p in place.rglob("*") if p.is_file() and "sites" not in p.relative_to(place).parts]
    for path in [*seen, *outside]:
        raw = path.read_bytes()
        assert not any(secret in raw for secret in secrets), path
    assert len(seen) > 8
    assert names_in(place / "rounds" / "0002" / "model.safetensors").isdisjoint(plan.private_tensors)


def test_sites_train_and_keep_different_values(data: Path, common: Path, tmp_path: Path) -> None:
    plan = plan_of()
    run = begin(plan, tmp_path / "run", data, common)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    one_more(run)
    first, second = (
        {s: {n: kept(tmp_path / "run", s, r)[f"private/{n}"] for n in plan.private_tensors} for s in "AB"}
        for r in (0, 1)
    )
    for site in "AB":
        assert weights_digest(first[site]) != weights_digest(second[site])
    assert weights_digest(second["A"]) != weights_digest(second["B"])


@pytest.mark.parametrize("strategy", ["fedavg", "scaffold", "fedprox"])
def test_a_federation_of_one_is_the_same_with_and_without(
    strategy: str, data: Path, common: Path, tmp_path: Path
) -> None:
    """Of one site nothing is averaged, so what it keeps back changes no bit of its model."""
    more = {"strategy": {"name": strategy}} if strategy != "fedprox" else {"strategy": {"name": "fedprox", "mu": 0}}
    models = []
    for private in (None, {"tensors": ["norm", "head"]}):
        plan = small_plan("batch", private=private, **more)
        place = tmp_path / f"{private is None}"
        run = whole_run(plan, place, data, common, ["A"])
        if private is None:
            models.append((weights_digest(read_tensors(run.dir.model)), scores(run)))
        else:
            models.append((weights_digest(read_tensors(place / "sites" / "A" / "model.safetensors")), scores(run)))
    assert models[0] == models[1]


def scores(run: Run) -> Any:
    return run.dir.read_json("scores.json")["sites"]


@pytest.mark.parametrize("strategy", [name for name in NAMES if name != "ditto"])
def test_every_strategy_works_on_the_rest_and_resumes_bit_for_bit(
    strategy: str, data: Path, common: Path, tmp_path: Path
) -> None:
    plan = plan_of(["norm", "head"], strategy={"name": strategy})
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run = begin(plan, straight, data, common)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    shutil.copytree(straight, resumed)
    ends = []
    for place, again in ((straight, run), (resumed, begin(plan, resumed, data, common))):
        point = one_more(again)
        assert not set(point.weights) & set(plan.private_tensors)
        assert not any(name in key for key in point.shared for name in plan.private_tensors)
        ends.append((weights_digest(point.weights), *(weights_digest(kept(place, s, 1)) for s in "AB")))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("aggregation", ["plain", "median", "geometric"])
def test_sites_in_another_order_give_the_same(aggregation: str, data: Path, common: Path, tmp_path: Path) -> None:
    """Two sites: a sum of two is the same either way, bit for bit."""
    plan = plan_of("norm.affine", "mean", aggregation={"name": aggregation})
    one = whole_run(plan, tmp_path / "one", data, common, ["A", "B"])
    # The first weights follow from the plan's seed, whoever draws them.
    two = whole_run(plan, tmp_path / "two", data, common, ["B", "A"])
    assert weights_digest(read_tensors(one.dir.model)) == weights_digest(read_tensors(two.dir.model))
    for site in "AB":
        models = [place / "sites" / site / "model.safetensors" for place in (one.dir.root, two.dir.root)]
        assert models[0].read_bytes() == models[1].read_bytes()


def lying_low(run: Run, away: Callable[[Task, str], bool]) -> Run:
    def ask(task: Task, tensors: Path | None, sites: Any) -> Any:
        for site in sites:
            if away(task, site):
                yield SiteFailed(task=task.id, site=site, kind="late", reason="away")
            else:
                yield from run.ask(task, tensors, [site])

    return Run(run.plan, run.dir, ask, run.sites, run.testers, run.log)


def test_a_late_answer_does_not_move_private_tensors(data: Path, common: Path, tmp_path: Path) -> None:
    """B trains in round 1 but its answer is lost: it goes on, and is scored, from what it had when it counted."""
    plan, place = plan_of(rounds={"limit": 3, "quorum": 1}), tmp_path / "run"
    run = begin(plan, place, data, common)

    def ask(task: Task, tensors: Path | None, sites: Any) -> Any:
        for answer in run.ask(task, tensors, sites):
            lost = isinstance(answer, Answer) and answer.reply.site == "B" and (task.round, task.verb) == (1, "train")
            yield SiteFailed(task=task.id, site="B", kind="late", reason="lost") if lost else answer

    run_rounds(Run(plan, run.dir, ask, run.sites, run.testers, run.log, fixed=1))
    here, there = kept(place, "B", 0), tmp_path / "other"
    shutil.copytree(place, there)
    point = one_more(Run(plan, run.dir, ask, run.sites, run.testers, run.log))
    assert point.state.accepted == {"A": 1, "B": 0}
    assert weights_digest(kept(place, "B", 0)) == weights_digest(here)
    assert weights_digest(kept(place, "B", 1)) != weights_digest(here)
    # In the other world B was not even asked in round 1; the end is the same.
    never = lying_low(begin(plan, there, data, common), lambda t, s: (s, t.round, t.verb) == ("B", 1, "train"))
    one_more(never)
    ends = [weights_digest(one_more(r).weights) for r in (Run(plan, run.dir, ask, run.sites, (), run.log), never)]
    assert ends[0] == ends[1]
    assert weights_digest(kept(place, "B", 2)) == weights_digest(kept(there, "B", 2))


def test_scores_are_those_of_the_sites_own_tensors(data: Path, common: Path, tmp_path: Path) -> None:
    """The complete model that a site keeps scores as the run says: at its own site on the same test cases."""
    plan = plan_of(["norm", "head"], training={"steps": 12}, rounds={"limit": 3})
    run = whole_run(plan, tmp_path / "run", data, common)
    for site in "AB":
        model = Model.open(RunDir(tmp_path / "run" / "sites" / site), "cpu")
        found = model.evaluate(data / site, lambda items, _: items)
        cases = json.loads((tmp_path / "run" / "sites" / site / "overlays" / "cases.json").read_text())
        said = {row["case"]: row["dice"] for row in cases}
        assert said
        assert {row["case"]: row["dice"] for row in found["per_case"] if row["case"] in said} == said
        assert scores(run)[site]["cases"] == len(said)


def test_the_best_models_private_tensors_are_kept_however_long_ago(
    data: Path, common: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wardround.coordinator import rounds

    plan, place = plan_of(rounds={"limit": 5}), tmp_path / "run"
    judged, curve = rounds.judged, iter([0.2, 0.9, 0.3, 0.4, 0.5])
    monkeypatch.setattr(rounds, "judged", lambda state, _dice, *more: judged(state, next(curve), *more))
    run = whole_run(plan, place, data, common)
    assert run.dir.read_json("scores.json")["round"] == 2
    shared = read_tensors(place / "best.safetensors")
    for site in "AB":
        own = kept(place, site, 1)
        whole = {**shared, **{name: own[f"private/{name}"] for name in plan.private_tensors}}
        assert weights_digest(read_tensors(place / "sites" / site / "model.safetensors")) == weights_digest(whole)
        rounds_left = sorted({path.name[:6] for path in (place / "sites" / site / "answers").iterdir()})
        assert rounds_left == ["000001", "000004", "000005"]


@pytest.mark.parametrize("unseen", ["initial", "mean"])
def test_the_final_model_is_whole_for_a_site_never_seen(unseen: str, data: Path, common: Path, tmp_path: Path) -> None:
    plan = plan_of("norm.affine", unseen)
    run = whole_run(plan, tmp_path / "run", data, common, testers=["A", "B", "C"])
    model = read_tensors(run.dir.model)
    first = read_tensors(run.dir.private)
    assert set(first) == set(plan.private_tensors)
    own = {s: read_tensors(tmp_path / "run" / "sites" / s / "model.safetensors") for s in "AB"}
    told = [e for e in read_events(run.dir.events) if e["event"] == "site_replied" and e["verb"] == "train"]
    cases = {e["site"]: e["facts"]["cases"] for e in told}
    for name in plan.private_tensors:
        if unseen == "initial":
            assert np.array_equal(model[name], first[name])
        else:
            mean = sum(cases[s] * own[s][name] for s in "AB") / sum(cases.values())
            np.testing.assert_allclose(model[name], mean, rtol=1e-5, atol=1e-7)
            assert not np.array_equal(model[name], first[name])
    assert weights_digest(read_tensors(tmp_path / "run/sites/C/model.safetensors")) == weights_digest(model)
    assert set(scores(run)) == {"A", "B", "C"}
    assert Model.open(run.dir, "cpu").evaluate(data / "C", lambda items, _: items)["cases"] == 3


def test_private_tensors_are_shared_only_where_the_plan_says_so(data: Path, common: Path, tmp_path: Path) -> None:
    plan = plan_of()
    place = tmp_path / "run"
    run = whole_run(plan, place, data, common)
    assert not [e for e in read_events(run.dir.events) if e.get("verb") == "share"]
    task = Task(plan=plan.digest(), round=2, verb="share", accepted={"A": 1})
    failed = make_site(plan, "A", place, data, common).answer(task, None)
    assert isinstance(failed, SiteFailed)
    assert failed.reason == "the plan does not let private tensors leave this site"
    assert not answer_of(place, "A", 2, "share").exists()


def test_a_model_that_brings_private_tensors_is_refused(data: Path, common: Path, tmp_path: Path) -> None:
    """A coordinator cannot put its own values in their place."""
    plan = plan_of()
    site = make_site(plan, "A", tmp_path, data, common)
    init = site.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
    assert isinstance(init, Answer)
    assert init.tensors is not None
    parts = unpack(init.tensors)
    assert set(parts["private"].arrays) == set(plan.private_tensors)
    path = tmp_path / "sent"
    write_tensors(path, *pack({"weights": Part({**parts["weights"].arrays, **parts["private"].arrays}, 1.0)}))
    failed = site.answer(Task(plan=plan.digest(), round=0, verb="train", tensors=file_digest(path)), path)
    assert isinstance(failed, SiteFailed)
    assert "which the plan keeps at the sites" in failed.reason


def test_the_outbox_is_checked_once_more() -> None:
    from wardround.core.errors import SiteError

    plan = plan_of("head")
    with pytest.raises(SiteError, match=r"heads.0.bias was about to leave"):
        check_outbox(plan, {"control": Part({"heads.0.bias": np.zeros(2)}, 1.0)})
    check_outbox(plan, {"weights": Part({"encoder.0.conv1.weight": np.zeros(2)}, 1.0)})


def test_a_site_that_lost_its_tensors_says_so(data: Path, common: Path, tmp_path: Path) -> None:
    """It may train anew from first values, but is never scored with values that are not its own."""
    plan, place = plan_of(rounds={"limit": 3}), tmp_path / "run"
    run = begin(plan, place, data, common)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    sent = run.dir.round(1) / "model.safetensors"
    shutil.rmtree(place / "sites" / "A")
    site = make_site(plan, "A", place, data, common)
    task = Task(plan=plan.digest(), round=1, verb="validate", accepted={"A": 0}, tensors=file_digest(sent))
    failed = site.answer(task, sent)
    assert isinstance(failed, SiteFailed)
    assert failed.reason == "this site's own tensors of round 1 are not on its disk any more"
    assert isinstance(site.answer(task.model_copy(update={"verb": "train"}), sent), Answer)


def test_what_is_kept_is_what_the_network_has(data: Path, common: Path, tmp_path: Path) -> None:
    plan = plan_of("norm")
    whole_run(plan, tmp_path / "run", data, common)
    stored = map_tensors(answer_of(tmp_path / "run", "A", 1) / "kept.safetensors")
    assert {name.removeprefix("private/") for name in stored if name.startswith("private/")} == set(
        plan.private_tensors
    )
