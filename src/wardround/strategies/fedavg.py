"""FedAvg: McMahan et al., Communication-Efficient Learning of Deep Networks, AISTATS 2017."""

from __future__ import annotations

from typing import Literal

from wardround.core.contracts import Aggregate, Kept, Shared, Strategy, Work
from wardround.core.weights import Arrays, Part, Parts


class FedAvg(Strategy):
    """Algorithm 1: ``w[t+1] = sum_k n_k/n * w_k[t+1]``, with n_k the site's training cases.

    Differs from the paper: local work is a fixed number of optimiser *steps*, the same at every
    site, not a number of epochs; every site of the federation is asked, not a sample.
    """

    name: Literal["fedavg"] = "fedavg"

    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        return {"weights": Part(after, float(work.cases))}, kept

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        return aggregate.parts["weights"].arrays, shared
