"""Every strategy through real sites and real rounds: it runs, it resumes, and its algebra matches what torch does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tiny import make_plan, plan_dict, write_site
from wardround.coordinator.checkpoint import load
from wardround.coordinator.rounds import Run, one_round, run_rounds
from wardround.core.contracts import Work
from wardround.core.messages import Answer, SiteFailed, Task, TrainFacts
from wardround.core.rundir import EventLog, RunDir
from wardround.core.weights import file_digest, is_statistic, read_tensors, unpack, weights_digest
from wardround.networks.build import build, roles
from wardround.networks.catalog import AttentionUNet, UNet, UNetPlusPlus
from wardround.planning.plan import Plan
from wardround.site.hospital import Source
from wardround.site.optimiser import make_optimiser
from wardround.site.worker import Setting, Site
from wardround.strategies.catalog import STRATEGIES

NAMES = [member.model_fields["name"].default for member in STRATEGIES]
SGD = {"name": "sgd", "rate": 0.05, "momentum": 0.0, "weight_decay": 0.0}


def plan_of(strategy: str, **changes: Any) -> Plan:
    training = {**plan_dict()["training"], "steps": 2, "optimiser": SGD, **changes.pop("training", {})}
    network = {"name": "unet", "features": [4, 8], "norm": "batch"}
    return make_plan(strategy={"name": strategy}, training=training, network=network, **changes)


def begin(plan: Plan, place: Path, data: Path, store: Path) -> Run:
    """A run whose sites are objects made anew, as after a restart."""
    root = RunDir(place)
    if not place.exists():
        root.make()
    sites = {
        name: Site(plan, Setting(name, (Source(data / name),), place / "sites" / name, store)) for name in ("A", "B")
    }

    def ask(task: Task, tensors: Path | None, names: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        return (sites[name].answer(task, tensors) for name in names)

    return Run(plan, root, ask, ("A", "B"), ("A", "B"), EventLog(root.events))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_site(folder / "A", seed=1)
    write_site(folder / "B", cases=5, seed=2, scale=4)
    return folder


def kept(place: Path, site: str, number: int) -> dict[str, Any]:
    path = place / "sites" / site / "answers" / f"{number:06d}-train-0" / "kept.safetensors"
    return read_tensors(path) if path.is_file() else {}


@pytest.mark.parametrize("strategy", NAMES)
def test_two_rounds_resume_bit_for_bit(strategy: str, data: Path, store: Path, tmp_path: Path) -> None:
    """Straight through, and from a copy of everything on disk after round 1: the same model and private state."""
    plan = plan_of(strategy)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run = begin(plan, straight, data, store)
    state = run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    assert state.round == 1
    shutil.copytree(straight, resumed)
    ends = []
    for place, again in ((straight, run), (resumed, begin(plan, resumed, data, store))):
        point = load(again.dir)
        assert point is not None
        ends.append((one_round(again, point), {site: kept(place, site, 1) for site in "AB"}))
    (one, own), (two, same) = ends
    assert weights_digest(one.weights) == weights_digest(two.weights)
    assert weights_digest(one.shared) == weights_digest(two.shared)
    assert {s: weights_digest(k) for s, k in own.items()} == {s: weights_digest(k) for s, k in same.items()}
    assert all(np.isfinite(array).all() for array in one.weights.values())


def sent(place: Path, site: str, number: int) -> Path:
    return place / "sites" / site / "answers" / f"{number:06d}-train-0" / "tensors.safetensors"


def test_scaffold_controls_are_the_mean_gradients_that_were_used(data: Path, store: Path, tmp_path: Path) -> None:
    """c_i = (x - y_i) / (K eta) after round 1, c their mean by cases; c_i stays, twice the bytes leave."""
    plan = plan_of("scaffold", training={"schedule": "constant"})
    place = tmp_path / "run"
    run = begin(plan, place, data, store)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    before = unpack(run.dir.round(0) / "model.safetensors")["weights"].arrays
    shared = unpack(run.dir.round(1) / "model.safetensors")["shared"].arrays
    own = {site: kept(place, site, 0) for site in "AB"}
    cases = {}
    for site in "AB":
        parts = unpack(sent(place, site, 0))
        cases[site] = parts["weights"].weight
        for name, y in parts["weights"].arrays.items():
            if not is_statistic(name):
                np.testing.assert_allclose(
                    own[site][f"strategy/control/{name}"], (before[name] - y) / 0.1, rtol=1e-4, atol=1e-6
                )
    for name, c in shared.items():
        mean = sum(cases[s] * own[s][f"strategy/{name}"] for s in "AB") / sum(cases.values())
        np.testing.assert_allclose(c, mean, rtol=1e-4, atol=1e-6)
    plain = begin(plan_of("fedavg"), tmp_path / "plain", data, store)
    run_rounds(Run(plain.plan, plain.dir, plain.ask, plain.sites, (), plain.log, fixed=1))
    ratio = sent(place, "A", 0).stat().st_size / sent(tmp_path / "plain", "A", 0).stat().st_size
    assert 1.7 < ratio < 2.1


def one_task(plan: Plan, site: Site, folder: Path) -> Answer:
    """Round 0 of one site from the plan's own weights."""
    from wardround.coordinator.checkpoint import write_model

    init = site.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
    assert isinstance(init, Answer)
    assert init.tensors is not None
    first = unpack(init.tensors)["weights"].arrays
    path = write_model(folder, first, plan.strategy.begin(first))
    task = Task(plan=plan.digest(), round=0, verb="train", tensors=file_digest(path))
    answer = site.answer(task, path)
    assert isinstance(answer, Answer), answer.reason
    return answer


def skipping(monkeypatch: pytest.MonkeyPatch, bad: set[int]) -> None:
    """Gradients of these steps (counted over the test) are not finite."""
    from wardround.site import training

    clip, count = nn.utils.clip_grad_norm_, iter(range(1000))

    def norm(*given: Any) -> torch.Tensor:
        return torch.tensor(torch.inf) if next(count) in bad else clip(*given)

    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", norm)


@pytest.mark.parametrize("strategy", NAMES)
def test_a_skipped_step_counts_as_not_taken(
    strategy: str, data: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipping(monkeypatch, {1})
    plan = plan_of(strategy, training={"steps": 4, "most_skipped": 0.5, "schedule": "constant"})
    site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / "A", store))
    answer = one_task(plan, site, tmp_path / "model")
    facts = answer.reply.facts
    assert isinstance(facts, TrainFacts)
    assert (facts.updates, facts.skipped) == (3, 1)
    assert answer.tensors is not None
    parts = unpack(answer.tensors)
    if strategy == "fednova":  # 3 steps of 0.05
        assert parts["reach"].arrays["reach"][0] == pytest.approx(0.15)
        assert parts["weights"].weight == pytest.approx(facts.cases / 0.15)


def test_a_site_without_any_step_fails(
    data: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing to say, even where the plan lets every step be skipped."""
    skipping(monkeypatch, set(range(1000)))
    plan = plan_of("fedavg", training={"most_skipped": 1.0})
    site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / "A", store))
    with pytest.raises(AssertionError, match="none of 2 steps had finite gradients"):
        one_task(plan, site, tmp_path / "model")


def test_the_loss_of_the_received_model_changes_no_bit_of_training(data: Path, store: Path, tmp_path: Path) -> None:
    """q-FedAvg measures it, FedAvg does not: both train alike, dropout and batch norm included."""
    models = []
    for name in ("fedavg", "qfedavg"):
        plan = plan_of(name)
        plan = plan.model_copy(update={"network": plan.network.model_copy(update={"dropout": 0.3})})
        site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / name, store))
        answer = one_task(plan, site, tmp_path / f"model-{name}")
        assert answer.tensors is not None
        models.append(unpack(answer.tensors))
    assert weights_digest(models[0]["weights"].arrays) == weights_digest(models[1]["weights"].arrays)
    # Untrained, two classes: cross-entropy and Dice loss are of the order of 1; L is 2 / (0.05 + 0.05 * (1 - 1/4)^0.9).
    distance = 0.05 * (1 + (1 - 1 / 4) ** 0.9)
    assert 0.3 < models[1]["weights"].weight / (2 / distance) < 5


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_reach_is_what_torch_does(momentum: float) -> None:
    """A gradient of 1 in every step, the rate changing as it goes."""
    plan = plan_of("fedavg", training={"optimiser": {**SGD, "momentum": momentum}})
    layer = nn.Linear(1, 1, bias=False).double()
    start, optimiser = float(layer.weight.detach()), make_optimiser(plan, layer)
    rates = (0.1, 0.07, 0.05, 0.01)
    for rate in rates:
        layer.weight.grad = torch.ones_like(layer.weight)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
    assert start - float(layer.weight.detach()) == pytest.approx(Work(1, rates, momentum).reach, rel=1e-12)


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("family", [UNet, UNetPlusPlus, AttentionUNet])
def test_statistics_are_told_by_their_names(family: Any, norm: str) -> None:
    settings = family(features=(4, 8, 8), norm=norm, groups=4)
    module = build(settings, 2, 1, 2)
    found = {name for name in roles(module) if is_statistic(name)}
    assert found == {name for name, role in roles(module).items() if role == "norm.statistics"}
    assert bool(found) == (norm == "batch")


def test_rates_fall_from_round_to_round() -> None:
    """What `Work.rates` is made of: the schedule runs over all rounds."""
    from wardround.site.optimiser import rate_at

    plan = plan_of("fedavg")
    assert all(a > b > 0 for a, b in pairwise(rate_at(plan, update) for update in range(plan.updates)))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
