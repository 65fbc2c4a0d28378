"""Geometric median (RFA): Pillutla, Kakade, Harchaoui, Robust Aggregation for Federated Learning, IEEE TSP 2022."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from wardround.aggregation.checked import Checked
from wardround.aggregation.checks import MOST_NORM
from wardround.aggregation.contributions import Folded, Group, Stretch, sweep
from wardround.aggregation.fold import fold, shares_of
from wardround.aggregation.ranked import BUDGET
from wardround.core.weights import Array

ENOUGH = 1e-12  # relative change of the shares


class Geometric(Checked):
    """The point with the least weighted sum of distances to the sites' contributions, each part by itself.

    Smoothed Weiszfeld (Algorithm 2): ``z = sum_k b_k x_k / sum_k b_k`` with ``b_k = a_k / max(nu, ||z - x_k||)``,
    begun at the weighted mean; ``a_k`` are the strategy's weights as shares. Sites whose weights together
    are less than half cannot carry it away.

    The iterates are weighted means, so their distances to the contributions follow from the products
    ``<x_i, x_j>`` of the updates alone: one pass over the files gathers those, in float64, all iterations
    work on them, and a second pass takes the mean. The paper's own setting of 3 iterations is a budget of
    communication, which this does not need.
    """

    name: Literal["geometric"] = "geometric"
    iterations: int = Field(default=100, ge=1, le=10_000, description="at most; ends earlier where nothing changes")
    nu: float = Field(default=1e-6, gt=0, le=1, description="distances below this count as this")

    def combine(self, group: Group) -> Folded:
        given, squares = {}, {}
        for part in group.members[0].weights:
            products = _products(group, part)
            squares[part] = np.diagonal(products).copy()
            if not np.all(squares[part] <= MOST_NORM**2):  # NaN too
                return Folded({}, {name: squares.get(name, squares[part]) for name in group.members[0].weights})
            given[part] = shares(products, shares_of(part, group.weights(part)), self.nu, self.iterations)
        return Folded(fold(replace(group, measured=True), given).parts, squares)


def shares(products: Array, weights: list[float], nu: float, iterations: int) -> list[float]:
    """Each contribution's share of the geometric median.

    Args:
        products: ``<x_i, x_j>``, float64 [sites, sites]; about any origin.
        weights: a_k, which sum to one.
        nu: smoothing.
        iterations: at most so many.
    """
    alpha = np.asarray(weights)
    beta = alpha
    own = np.diagonal(products)
    for _ in range(iterations):
        cross = products @ beta
        distances = np.sqrt(np.maximum(own - 2 * cross + beta @ cross, 0))
        fresh = alpha / np.maximum(nu, distances)
        fresh /= fresh.sum()
        change, beta = np.abs(fresh - beta).max(), fresh
        if change <= ENOUGH:
            break
    return [float(share) for share in beta]


def _products(group: Group, part: str) -> Array:
    """``<u_i, u_j>`` of all updates (in other parts than the model: of what was sent), float64."""
    sites = len(group.members)
    found = sweep(replace(group, measured=True), part, _stretch_products, block=max(1, BUDGET // sites))
    return np.zeros((sites, sites)) if found is None else found


def _stretch_products(stretch: Stretch, _: Array | None) -> Array:
    total = np.zeros((len(stretch), len(stretch)))
    raw = np.empty(stretch.size, stretch.dtype)
    updates = np.empty((len(stretch), stretch.size))
    for where in stretch.blocks():
        block = updates[:, : where.stop - where.start]
        for number, row in enumerate(block):
            stretch.read(number, where, raw[: row.size])
            row[...] = raw[: row.size]
        if not stretch.updates and (anchor := stretch.anchor(where)) is not None:
            block -= anchor
        total += block @ block.T
    return total
