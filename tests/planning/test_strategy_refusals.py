"""What a strategy cannot be combined with is refused with the reason and the way out."""

from __future__ import annotations

from typing import Any

import pytest

from tiny import make_plan, plan_dict
from wardround.strategies.catalog import STRATEGIES

PLAIN_SGD = {"name": "sgd", "rate": 0.01, "momentum": 0}
NESTEROV = {"name": "sgd", "rate": 0.01, "momentum": 0.9}
ADAMW = {"name": "adamw", "rate": 0.01}


def training(optimiser: dict[str, Any], state: str = "keep") -> dict[str, Any]:
    return {**plan_dict()["training"], "optimiser": dict(optimiser), "optimiser_state": state}


REFUSED = [
    ({"name": "scaffold"}, ADAMW, "keep", r"strategy: scaffold: .*\{name: sgd, momentum: 0\}"),
    ({"name": "scaffold"}, NESTEROV, "reset", r"strategy: scaffold: .*\(x - y\) / \(K eta\)"),
    ({"name": "fednova"}, ADAMW, "reset", r"strategy: fednova: .*not for adamw"),
    ({"name": "fednova"}, NESTEROV, "keep", r"strategy: fednova: .*optimiser_state to reset"),
    ({"name": "qfedavg"}, ADAMW, "keep", r"strategy: qfedavg: .*strategy.lipschitz"),
]
ACCEPTED = [
    ({"name": "scaffold"}, PLAIN_SGD, "keep"),
    ({"name": "fednova"}, PLAIN_SGD, "keep"),
    ({"name": "fednova"}, NESTEROV, "reset"),
    ({"name": "qfedavg"}, NESTEROV, "keep"),
    ({"name": "qfedavg", "lipschitz": 10}, ADAMW, "keep"),
    ({"name": "fedadam"}, ADAMW, "keep"),
]


@pytest.mark.parametrize(("strategy", "optimiser", "state", "words"), REFUSED)
def test_training_that_contradicts_the_algebra(
    strategy: dict[str, Any], optimiser: dict[str, Any], state: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(strategy=strategy, training=training(optimiser, state))


@pytest.mark.parametrize(("strategy", "optimiser", "state"), ACCEPTED)
def test_training_that_fits(strategy: dict[str, Any], optimiser: dict[str, Any], state: str) -> None:
    assert make_plan(strategy=strategy, training=training(optimiser, state)).strategy.name == strategy["name"]


@pytest.mark.parametrize("member", STRATEGIES, ids=lambda member: member.__name__)
def test_terms_of_a_sum_need_the_mean(member: Any) -> None:
    changes = {"strategy": member().model_dump(), "training": training(PLAIN_SGD), "aggregation": {"name": "median"}}
    if member.needs_mean:
        with pytest.raises(ValueError, match="needs aggregation plain"):
            make_plan(**changes)
    else:
        assert make_plan(**changes).aggregation.name == "median"


def test_all_reasons_are_given_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)strategy: scaffold: .*strategy: scaffold needs aggregation plain"):
        make_plan(strategy={"name": "scaffold"}, training=training(ADAMW), aggregation={"name": "median"})


@pytest.mark.parametrize(
    "wrong",
    [{"name": "scaffold", "momentum": 0.9}, {"name": "fedavgm", "beta2": 0.9}, {"name": "fedadam", "tau": 0},
     {"name": "qfedavg", "q": -1}, {"name": "fedyogi", "beta1": 1.0}, {"name": "scaffold", "rate": 0}],
)  # fmt: skip
def test_settings_of_another_strategy_or_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"strategy"):
        make_plan(strategy=wrong, training=training(PLAIN_SGD))
