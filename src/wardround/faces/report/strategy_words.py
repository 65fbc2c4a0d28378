"""A plan's strategy in plain words: how the sites' models become one, and what more than a model leaves a site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wardround.faces.report.collect import at

Json = Mapping[str, Any]

_WEIGHTS = {
    "cases": "weighted by their numbers of training cases",
    "equal": "each site counting the same",
}


def strategy_words(plan: Json) -> str:
    """What the plan's strategy does each round, in one or two sentences."""
    name, settings = str(at(plan, "strategy.name", "")), at(plan, "strategy", {})
    average = f"the average of the sites’ models, {_WEIGHTS.get(at(plan, 'aggregation.weights', 'cases'), 'weighted')}"
    if name not in _SAID:
        return f"The sites' models are combined by the strategy {name}."
    return _SAID[name](settings, average)


def more_leaves(plan: Json) -> str:
    """What leaves a site each round beside its weights, for this strategy; empty: nothing."""
    return _MORE.get(str(at(plan, "strategy.name", "")), "")


def _fedavg(_: Json, average: str) -> str:
    return f"The new model is {average} (FedAvg)."


def _fedprox(settings: Json, average: str) -> str:
    return (
        f"The new model is {average}; while training, each site is held near the model it received "
        f"(FedProx, μ = {settings.get('mu')})."
    )


def _scaffold(settings: Json, average: str) -> str:
    rate = settings.get("rate", 1)
    part = "The new model is" if rate == 1 else f"The model moves {rate:g} times the way to"
    return (
        f"{part} {average}. While training, each site corrects every step by how its own direction differs from the "
        "federation's, both remembered from the rounds before (SCAFFOLD)."
    )


def _fednova(_: Json, average: str) -> str:
    return (
        f"The model moves towards {average}, after each site's change was divided by how far its steps could carry it, "
        "so that a site that took more steps does not count more (FedNova)."
    )


def _server(title: str, how: str) -> Callable[[Json, str], str]:
    def said(settings: Json, average: str) -> str:
        return (
            f"The coordinator takes {average}, as a direction in which it moves its own model, {how} "
            f"({title}, server learning rate {settings.get('rate')})."
        )

    return said


def _qfedavg(settings: Json, _: str) -> str:
    q = settings.get("q")
    if q == 0:
        return "The new model is the average of the sites’ models, each site counting the same (q-FedAvg, q = 0)."
    return (
        "The model moves towards the sites' models; a site counts the more the worse the model it received is there, "
        f"whatever its number of cases (q-FedAvg, q = {q})."
    )


def _ditto(settings: Json, average: str) -> str:
    return (
        f"The new model is {average}. Beside it each site trains a model of its own, in as many steps again, which "
        f"is held near the shared one and which the site uses (Ditto, λ = {settings.get('strength')})."
    )


def _fedval(settings: Json, _: str) -> str:
    better = "worse" if settings.get("power", 1) < 0 else "better"
    return (
        "The new model is the average of the sites’ models, weighted by their numbers of training cases and by how "
        f"well each does on its own validation cases: {better} counts for more, up to {settings.get('bound')} times, "
        "and no site for less than the inverse (validation-weighted averaging)."
    )


_ADAPTIVE = "with a step of its own for every parameter"
_SAID: Mapping[str, Callable[[Json, str], str]] = {
    "fedavg": _fedavg,
    "fedprox": _fedprox,
    "scaffold": _scaffold,
    "fednova": _fednova,
    "fedavgm": _server("FedAvgM", "adding part of the directions of earlier rounds"),
    "fedadagrad": _server("FedAdagrad", _ADAPTIVE),
    "fedadam": _server("FedAdam", _ADAPTIVE),
    "fedyogi": _server("FedYogi", _ADAPTIVE),
    "qfedavg": _qfedavg,
    "ditto": _ditto,
    "fedval": _fedval,
}
_MORE = {
    "scaffold": "Each round too: the change of the site's control variate, which is its mean gradient: as many numbers "
    "as the model has, so twice the bytes of FedAvg. Like weights, gradients can keep traces of what was trained on.",
    "fednova": "Each round too: one number, how far the steps that were taken could move the model.",
    "qfedavg": "Each round too: two numbers, from which the loss of the received model on the site's training cases "
    "and the size of its change can be worked out.",
    "fedval": "Each round too: one number, the mean Dice of the trained model on the site's validation cases.",
}
