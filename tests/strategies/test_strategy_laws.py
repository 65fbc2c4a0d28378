"""Laws that every strategy of the catalog keeps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wardround.aggregation.fold import fold_files
from wardround.core.contracts import Aggregate, Strategy
from wardround.core.weights import Arrays, pack, write_tensors
from wardround.strategies.catalog import STRATEGIES
from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fedprox import FedProx

MEMBERS = [pytest.param(member(), id=member().name) for member in STRATEGIES]


def weights(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {"a": random.normal(size=(3, 2)).astype(np.float32), "b": random.normal(size=5).astype(np.float32)}


def one_round(strategy: Strategy, start: Arrays, results: dict[str, tuple[Arrays, int]], folder: Path) -> Arrays:
    """The strategy's whole round with given local results (weights after, cases), in dict order."""
    shared, files = strategy.begin(start), []
    for site, (after, cases) in results.items():
        kept = strategy.keep(start)
        parts, _ = strategy.report(start, after, shared, kept, steps=3, rate=0.1, cases=cases)
        arrays, metadata = pack(parts)
        write_tensors(folder / f"{site}.safetensors", arrays, metadata)
        files.append(folder / f"{site}.safetensors")
    new, _ = strategy.step(start, shared, Aggregate(fold_files(files)), len(results))
    return new


@pytest.mark.parametrize("strategy", MEMBERS)
def test_one_site_alone_gives_that_sites_training(strategy: Strategy, tmp_path: Path) -> None:
    after = weights(1)
    new = one_round(strategy, weights(0), {"A": (after, 7)}, tmp_path)
    for name, array in after.items():
        assert np.array_equal(new[name], array)


@pytest.mark.parametrize("strategy", MEMBERS)
def test_sites_in_another_order_give_the_same_up_to_rounding(strategy: Strategy, tmp_path: Path) -> None:
    results = {"A": (weights(1), 7), "B": (weights(2), 2), "C": (weights(3), 30)}
    there = one_round(strategy, weights(0), results, tmp_path)
    back = one_round(strategy, weights(0), dict(reversed(results.items())), tmp_path)
    for name in there:
        np.testing.assert_allclose(there[name], back[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("strategy", MEMBERS)
def test_splitting_a_site_into_two_equal_ones_changes_nothing(strategy: Strategy, tmp_path: Path) -> None:
    whole = one_round(strategy, weights(0), {"A": (weights(1), 6), "B": (weights(2), 4)}, tmp_path)
    parts = {"A": (weights(1), 2), "A2": (weights(1), 4), "B": (weights(2), 4)}
    split = one_round(strategy, weights(0), parts, tmp_path)
    for name in whole:
        np.testing.assert_allclose(whole[name], split[name], rtol=1e-6, atol=1e-7)


def test_fedavg_by_hand(tmp_path: Path) -> None:
    # Site A: 1 case, w = 2; site B: 3 cases, w = 6. (1*2 + 3*6) / 4 = 20 / 4 = 5.
    two, six = {"w": np.array([2], np.float32)}, {"w": np.array([6], np.float32)}
    new = one_round(FedAvg(), {"w": np.zeros(1, np.float32)}, {"A": (two, 1), "B": (six, 3)}, tmp_path)
    assert new["w"].tolist() == [5.0]


def test_fedprox_pull_by_hand() -> None:
    # mu (w - w_t) = 0.5 * (3 - 1) = 1; where nothing moved the pull is 0.
    w, anchor = {"w": np.array([3.0, 1.0])}, {"w": np.array([1.0, 1.0])}
    assert FedProx(mu=0.5).pull(w, anchor, {}, {})["w"].tolist() == [1.0, 0.0]


def test_fedprox_with_mu_0_pulls_nothing() -> None:
    pull = FedProx(mu=0).pull(weights(1), weights(2), {}, {})
    assert all(not array.any() for array in pull.values())
