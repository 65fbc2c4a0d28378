"""Bounded validation-weighted averaging, after Liu et al., Frontiers in Neuroscience 2023."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from wardround.core.contracts import Aggregate, Kept, Shared, Strategy, Work
from wardround.core.weights import Array, Arrays, Part, Parts

LEAST = 1e-6  # of s_k / S: 0 has no negative power
REFERENCE = "reference"  # [mean score of the last round that had one, or 0 before]


class FedVal(Strategy):
    """FedAvg with the cases of site k counted ``f_k`` times, ``f_k = (s_k / S)^power`` kept within [1/bound, bound].

    s_k is the Dice that the model which k trained reaches on k's own validation cases; S is the mean of the
    sites' scores in the last round, weighted by training cases. A site that does better than the federation did
    counts for more; with a negative power one that does worse. The first round, having no S, is FedAvg's, and with
    bound 1 or power 0 every round is.

    From Liu et al., Multiple sclerosis lesion segmentation: revisiting weighting mechanisms for federated
    learning, 2023, is that a site's weight follows its segmentation performance. Differs from the paper: there
    the weights are learned; here they are this ratio, and the bound keeps any site from being silenced or from
    taking over, however few its validation cases. Beside its model the site sends s_k, so S is no more than
    what validation tells. Where it has no score it counts with its cases.
    """

    name: Literal["fedval"] = "fedval"
    bound: float = Field(default=2.0, ge=1, le=10, description="a case counts at most so many times, or a 1/bound-th")
    power: float = Field(default=1.0, ge=-5, le=5, description="how much scores matter; below 0 the worst count most")

    needs_score: ClassVar[bool] = True
    needs_mean: ClassVar[bool] = True

    def begin(self, weights: Arrays) -> Shared:
        return {REFERENCE: np.zeros(1)}

    def told(self, shared: Shared) -> Shared:
        return shared

    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        cases = float(work.cases)
        known = np.zeros(2) if work.score is None else np.array([work.score, 1.0])
        weight = cases * self.factor(work.score, shared[REFERENCE])
        return {"weights": Part(after, weight), "score": Part({"score": known}, cases)}, kept

    def factor(self, score: float | None, reference: Array) -> float:
        """f_k; 1 where there is nothing to compare."""
        if score is None or reference[0] <= 0:
            return 1.0
        ratio = min(max(score / float(reference[0]), LEAST), 1 / LEAST)
        return float(min(max(ratio**self.power, 1 / self.bound), self.bound))

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        total, share = aggregate.parts["score"].arrays["score"]
        reference = np.array([total / share]) if share > 0 else shared[REFERENCE]
        return aggregate.parts["weights"].arrays, {**shared, REFERENCE: reference}
