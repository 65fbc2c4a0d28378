"""SCAFFOLD: Karimireddy et al., Stochastic Controlled Averaging for Federated Learning, ICML 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from wardround.core.contracts import Aggregate, Descent, Kept, Shared, Strategy, Work
from wardround.core.weights import Arrays, Part, Parts, parameters
from wardround.strategies.moves import moved

CONTROL = "control/"


class Scaffold(Strategy):
    """Algorithm 1 with option II for the control variates.

    At a site: ``y <- y - eta (g_i(y) - c_i + c)`` (line 10), then
    ``c_i+ = c_i - c + (x - y_i) / (K eta)`` (line 12, ii); it sends ``y_i`` and ``c_i+ - c_i`` (line 13), twice
    the bytes of FedAvg, and keeps ``c_i+``. At the coordinator:
    ``x <- x + eta_g mean(y_i - x)`` and ``c <- c + |S|/N mean(c_i+ - c_i)`` (lines 16, 17). All controls
    begin at 0, so the first round is FedAvg's.

    Differs from the paper: means are weighted by training cases, as the objective of FedAvg is (equal
    cases give the paper's); where rates change within a round ``K eta`` is the sum of the rates of the
    steps taken, so that ``(x - y_i) / (K eta)`` stays the mean of the gradients used; clipping acts on
    ``g_i - c_i + c``, so that controls hold what was used, not the raw gradient; every site is asked.
    Running statistics of batch normalisation have no control and are averaged.
    """

    name: Literal["scaffold"] = "scaffold"
    rate: float = Field(default=1.0, gt=0, le=10, description="server step size, eta_g")

    needs_mean: ClassVar[bool] = True

    def refuses(self, descent: Descent) -> str | None:
        if descent.optimiser == "sgd" and descent.momentum == 0:
            return None
        return (
            "a site's control variate is (x - y) / (K eta), which is its mean gradient only where every step is "
            "w - eta * gradient: set training.optimiser to {name: sgd, momentum: 0}"
        )

    def begin(self, weights: Arrays) -> Shared:
        return {CONTROL + name: np.zeros_like(array) for name, array in parameters(weights).items()}

    def told(self, shared: Shared) -> Shared:
        return shared

    def keep(self, weights: Arrays) -> Kept:
        return self.begin(weights)

    def pull(self, w: Mapping[str, Any], anchor: Mapping[str, Any], shared: Shared, kept: Kept) -> Mapping[str, Any]:
        return {name: shared[CONTROL + name] - kept[CONTROL + name] for name in w if CONTROL + name in shared}

    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        change, distance = {}, work.distance
        for name, y in parameters(after).items():
            key = CONTROL + name
            step = (before[name] - y) / distance - shared[key] if distance > 0 else np.zeros_like(y)
            change[name] = np.asarray(step)
        # The change is added here as the coordinator adds it: one site alone has c_i = c bit for bit, and no pull.
        now = {**kept, **{CONTROL + name: np.asarray(kept[CONTROL + name] + step) for name, step in change.items()}}
        cases = float(work.cases)
        return {"weights": Part(after, cases), "control": Part(change, cases)}, now

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        present = len(aggregate.answers) / sites
        change = aggregate.parts["control"].arrays
        control = {CONTROL + name: np.asarray(shared[CONTROL + name] + present * c) for name, c in change.items()}
        mean = aggregate.parts["weights"].arrays
        return moved(weights, mean, self.rate if sites > 1 else 1), {**shared, **control}
