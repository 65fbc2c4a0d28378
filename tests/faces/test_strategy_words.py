"""Every strategy of the catalog is said in plain words, with what more it sends."""

from __future__ import annotations

from typing import Any

import pytest
import report_fixtures as made

from wardround.faces.report.strategy_words import more_leaves, strategy_words
from wardround.faces.report.words import leaves, plan_words
from wardround.strategies.catalog import STRATEGIES

SAID = {
    "fedavg": "average of the sites’ models, weighted by their numbers of training cases (FedAvg)",
    "fedprox": "held near the model it received (FedProx, μ = 0.01)",
    "scaffold": "corrects every step by how its own direction differs",
    "fednova": "a site that took more steps does not count more (FedNova)",
    "fedavgm": "part of the directions of earlier rounds (FedAvgM, server learning rate 1.0)",
    "fedadagrad": "a step of its own for every parameter (FedAdagrad, server learning rate 0.01)",
    "fedadam": "(FedAdam, server learning rate 0.01)",
    "fedyogi": "(FedYogi, server learning rate 0.01)",
    "qfedavg": "the more the worse the model it received is there, whatever its number of cases (q-FedAvg, q = 1.0)",
    "ditto": "trains a model of its own, in as many steps again",
    "fedval": "better counts for more, up to 2.0 times",
}
MORE = {
    "scaffold": "twice the bytes",
    "fednova": "one number",
    "qfedavg": "loss of the received model",
    "fedval": "mean Dice",
}


def plan_of(strategy: dict[str, Any]) -> dict[str, Any]:
    return {**made.PLAN, "strategy": strategy}


@pytest.mark.parametrize("member", STRATEGIES, ids=lambda member: member.__name__)
def test_each_strategy_is_said(member: type) -> None:
    settings = member().model_dump(mode="json")
    plan = plan_of(settings)
    assert SAID[settings["name"]] in " ".join(topic.text for topic in plan_words(plan))
    more = more_leaves(plan)
    assert MORE.get(settings["name"], "") in more
    assert bool(more) == (settings["name"] in MORE)
    assert (more in leaves(plan)) == bool(more)
    assert all(leaves(plan))


def test_a_strategy_of_another_version_is_named() -> None:
    assert "the strategy fedfuture" in strategy_words(plan_of({"name": "fedfuture"}))


def test_settings_change_the_words() -> None:
    assert "moves 0.5 times the way to" in strategy_words(plan_of({"name": "scaffold", "rate": 0.5}))
    assert "each site counting the same (q-FedAvg, q = 0)" in strategy_words(plan_of({"name": "qfedavg", "q": 0}))
    assert "worse counts for more" in strategy_words(plan_of({"name": "fedval", "power": -1, "bound": 3}))
