from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import make_plan, plan_dict
from wardround.core.errors import SiteError
from wardround.planning.plan import Plan
from wardround.site import device
from wardround.site.device import Machine, choose_machine, self_test
from wardround.site.inference import predict_probabilities
from wardround.site.loss import make_loss
from wardround.site.optimiser import load_state, make_optimiser, rate_at, save_state
from wardround.site.training import make_network

CPU = Machine(torch.device("cpu"), "fp32", "test")


def with_training(**changes: object) -> Plan:
    return make_plan(training={**plan_dict()["training"], **changes})


def test_the_self_test_is_done_once_and_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = with_training(precision="auto")
    chosen = choose_machine(plan, "cpu", tmp_path)
    assert chosen.precision in ("fp32", "bf16")
    file = next(tmp_path.glob("selftest-*.json"))
    assert json.loads(file.read_text())["why"] == chosen.why
    monkeypatch.setattr(device, "self_test", lambda *_: pytest.fail("tested again"))
    assert choose_machine(plan, "cpu", tmp_path) == chosen


def test_slow_or_wrong_bf16_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, good = with_training(precision="auto"), torch.ones(8)

    def gradients(results: list[tuple[torch.Tensor, float]]) -> str:
        answers = iter(results)
        monkeypatch.setattr(device, "_gradient", lambda *_: next(answers))
        return self_test(plan, torch.device("cpu"))[0]

    assert gradients([(good, 2.0), (good, 1.0), (good, 1.0)]) == "bf16"
    assert gradients([(good, 1.0), (good, 1.0), (good, 1.0)]) == "fp32"  # not faster
    assert gradients([(good, 2.0), (good * torch.nan, 1.0), (good, 1.0)]) == "fp32"  # not finite
    assert gradients([(good, 2.0), (good, 1.0), (good * 2, 1.0)]) == "fp32"  # not repeatable
    assert gradients([(good, 2.0), (-good, 1.0), (-good, 1.0)]) == "fp32"  # wrong


def test_bf16_on_a_map_two_deep_is_avoided_or_refused(tmp_path: Path) -> None:
    # patch 4 deep, one stride of 2: the deepest map is 2 deep
    assert choose_machine(with_training(precision="auto", patch=[4, 16, 12]), "cpu", tmp_path).precision == "fp32"
    with pytest.raises(SiteError, match="2 deep"):
        choose_machine(with_training(precision="bf16", patch=[4, 16, 12]), "cpu", tmp_path)


def test_learning_rate_by_hand() -> None:
    # 2 rounds x 3 steps = 6 updates; rate 0.01; poly 0.9: at update 3, 0.01 * 0.5 ** 0.9
    assert rate_at(make_plan(), 0) == 0.01
    assert rate_at(make_plan(), 3) == pytest.approx(0.01 * 0.5**0.9)
    assert rate_at(make_plan(), 6) == 0
    assert rate_at(with_training(schedule="constant"), 5) == 0.01


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimiser_state_survives_bit_for_bit(name: str) -> None:
    plan = with_training(optimiser={"name": name, "rate": 0.01})
    results = []
    for interrupted in (False, True):
        network = make_network(plan, CPU, None)
        optimiser = make_optimiser(plan, network)
        for step in range(4):
            if interrupted and step == 2:
                state = save_state(optimiser, network)
                optimiser = make_optimiser(plan, network)
                load_state(optimiser, network, state)
            for number, parameter in enumerate(network.parameters()):
                parameter.grad = torch.full_like(parameter, 0.1 * (number + step))
            optimiser.step()
        results.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.equal(*results)


@pytest.mark.parametrize("mode", ["whole", "sliding", "auto"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_probabilities_lie_on_the_prepared_grid(mode: str, dimensions: int) -> None:
    plan = make_plan(
        task={"dimensions": dimensions, "modalities": ["T1"], "labels": {"ball": 1, "ring": 2}},
        training={"patch": [8] * dimensions},
        evaluation={"inference": mode},
    )
    network = make_network(plan, CPU, None)
    image = np.random.default_rng(0).normal(size=(1, 5, 13, 21)).astype(np.float32)
    probabilities = predict_probabilities(plan, CPU, network, image)
    assert probabilities.shape == (3, 5, 13, 21)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)


def test_loss_by_hand_and_with_deep_supervision() -> None:
    label = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    label[..., 0] = 1
    flat = torch.zeros(1, 2, 2, 2)  # probability 0.5 everywhere
    # cross-entropy: ln 2. Dice of the foreground: 2 * (2 * 0.5) / (4 * 0.5 + 2) = 0.5, so 1 - 0.5.
    loss = make_loss(make_plan().training.loss)
    assert float(loss(flat, label)) == pytest.approx(0.6931472 + 0.5, abs=1e-4)
    # Two equal outputs weigh 2/3 and 1/3: the same loss.
    assert float(loss([flat, flat], label)) == pytest.approx(0.6931472 + 0.5, abs=1e-4)
