"""FedNova: Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous FL, NeurIPS 2020."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from wardround.core.contracts import Aggregate, Descent, Kept, Shared, Strategy, Work
from wardround.core.weights import Arrays, Part, Parts
from wardround.strategies.moves import moved


class FedNova(Strategy):
    """Normalised averaging (section 5): ``x <- x - tau_eff eta sum_i p_i d_i`` with ``d_i = G_i a_i / ||a_i||_1``.

    ``a_i`` says how much each of the site's gradients counts in ``x - y_i = eta G_i a_i`` (section 4): all ones
    for plain SGD, ``(1 - rho^k) / (1 - rho)`` for k = tau_i .. 1 with momentum rho. ``p_i = n_i / n`` and
    ``tau_eff = sum_i p_i ||a_i||_1``. A site that took more steps so pulls no harder than its cases allow;
    where all took the same steps it is FedAvg.

    With A_i = eta ||a_i||_1 (`Work.reach`) the site sends y_i with weight ``n_i / A_i``, and A_i with weight
    n_i. From the means Y and T and the weights' sums W and n follows ``x + (T W / n) (Y - x)``, the same step.

    Differs from the paper: momentum is Nesterov's, which is one gradient ahead, ``(1 - rho^(k+1)) / (1 - rho)``;
    the learning rate may change within a round, so it is part of A_i; all sites are given equally many steps,
    so they differ in those skipped for non-finite gradients. Running statistics take the mean Y.
    """

    name: Literal["fednova"] = "fednova"

    needs_mean: ClassVar[bool] = True

    def refuses(self, descent: Descent) -> str | None:
        if descent.optimiser != "sgd":
            return (
                "how much each gradient counts (a_i) is known for SGD, not for "
                f"{descent.optimiser}: set training.optimiser to {{name: sgd}}"
            )
        if descent.momentum > 0 and descent.carried:
            return (
                "momenta kept from earlier rounds move the weights by gradients that a_i does not count: set "
                "training.optimiser_state to reset, or training.optimiser.momentum to 0"
            )
        return None

    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        cases, reach = float(work.cases), work.reach
        # Without a step y_i is x, and its weight cancels out: any will do.
        weight = cases / reach if reach > 0 else cases
        return {"weights": Part(after, weight), "reach": Part({"reach": np.array([reach])}, cases)}, kept

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        mean, reach = aggregate.parts["weights"], aggregate.parts["reach"]
        rate = float(reach.arrays["reach"][0]) * mean.weight / reach.weight
        return moved(weights, mean.arrays, rate if sites > 1 else 1), shared
