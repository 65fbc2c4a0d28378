"""q-FedAvg: Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wardround.core.contracts import Aggregate, Descent, Kept, Shared, Strategy, Work
from wardround.core.weights import Arrays, Part, Parts, parameters
from wardround.strategies.moves import moved

LEAST_LOSS = 1e-10  # F^(q-1) has no value at 0 where q < 1


class QFedAvg(Strategy):
    """Algorithm 2, for the objective ``sum_k F_k^(q+1) / (q+1)`` (eq. 2): the worse a site fares, the more it counts.

    With y_k what the site trained, F_k the loss of the model w it received, and ``dw_k = L (w - y_k)``:
    ``Delta_k = F_k^q dw_k``, ``h_k = q F_k^(q-1) ||dw_k||^2 + L F_k^q``, ``w <- w - sum_k Delta_k / sum_k h_k``.
    With q 0 it is the unweighted mean of the sites.

    The site sends y_k with weight ``L F_k^q``, and h_k with weight 1. The mean Y, the sum W of the weights and
    the sum H of h give ``w + (W / H) (Y - w)``.

    Differs from the paper: every site is asked and counts the same, not drawn by its share of cases; F_k is
    measured on the first batches of the round; L is one over the mean step of the site's training,
    momentum included (`Work.reach` per step), where the plan does not say it. Running statistics take the mean Y.
    """

    name: Literal["qfedavg"] = "qfedavg"
    q: float = Field(default=1.0, ge=0, le=5, description="0: every site counts the same; more: the worst counts most")
    lipschitz: float | None = Field(
        default=None, gt=0, le=1e6, description="L of the paper; null: one over the learning rate"
    )

    needs_loss: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True

    def refuses(self, descent: Descent) -> str | None:
        if descent.optimiser == "sgd" or self.lipschitz is not None:
            return None
        return (
            "one over the learning rate estimates L only for SGD: set training.optimiser to {name: sgd}, or "
            "strategy.lipschitz"
        )

    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        assert work.loss is not None  # noqa: S101 - measured because of needs_loss
        loss = max(work.loss, LEAST_LOSS)
        l_k = self.lipschitz or (work.steps / work.reach if work.reach > 0 else 1.0)
        gap = sum(float(np.square(before[n] - y, dtype=np.float64).sum()) for n, y in parameters(after).items())
        weight = l_k * loss**self.q
        h = self.q * loss ** (self.q - 1) * l_k**2 * gap + weight
        return {"weights": Part(after, weight), "h": Part({"h": np.array([h])}, 1.0)}, kept

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        mean, h = aggregate.parts["weights"], aggregate.parts["h"]
        rate = mean.weight / (float(h.arrays["h"][0]) * h.weight)
        return moved(weights, mean.arrays, rate if sites > 1 else 1), shared
