"""Laws that every strategy of the catalog keeps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from strategy_toys import Federation, Quadratic, Result, aggregate, descend, weights, work

from wardround.core.contracts import Strategy
from wardround.core.weights import Arrays, all_finite, is_statistic, weights_digest
from wardround.strategies.catalog import STRATEGIES
from wardround.strategies.ditto import Ditto
from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fednova import FedNova
from wardround.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from wardround.strategies.fedprox import FedProx
from wardround.strategies.fedval import FedVal
from wardround.strategies.qfedavg import QFedAvg
from wardround.strategies.scaffold import Scaffold

# Settings with which the paper says that a member is FedAvg: in its first round, or always.
FIRST_ROUND = [
    FedAvg(), FedProx(), Scaffold(), FedNova(), FedAvgM(momentum=0.9), FedAvgM(momentum=0), Ditto(), FedVal()
]  # fmt: skip
ALWAYS = [
    FedAvg(), FedProx(mu=0), FedNova(), FedAvgM(momentum=0), Ditto(strength=0), Ditto(strength=5), FedVal(bound=1),
    FedVal(power=0),
]  # fmt: skip
UNWEIGHTED = [QFedAvg(q=0)]  # the mean in which every site counts the same
NEVER = [FedAdagrad(), FedAdam(), FedYogi()]  # each parameter has a step of its own

MEMBERS = [pytest.param(member(), id=member.model_fields["name"].default) for member in STRATEGIES]
SITES = {"A": (weights(1), work(7)), "B": (weights(2), work(2, loss=2.0)), "C": (weights(3), work(30, loss=0.1))}


def one_round(strategy: Strategy, results: Mapping[str, Result], folder: Path) -> Arrays:
    return Federation.begin(strategy, weights(0)).round(results, folder).weights


def close(a: Arrays, b: Arrays) -> None:
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=2e-6, atol=2e-7, err_msg=name)


def frozen(arrays: Arrays) -> Arrays:
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


def test_every_member_says_how_it_relates_to_fedavg() -> None:
    assert {type(member) for member in [*FIRST_ROUND, *UNWEIGHTED, *NEVER]} == set(STRATEGIES)


@pytest.mark.parametrize("strategy", FIRST_ROUND, ids=str)
def test_the_first_round_is_fedavg(strategy: Strategy, tmp_path: Path) -> None:
    close(one_round(strategy, SITES, tmp_path), one_round(FedAvg(), SITES, tmp_path))


@pytest.mark.parametrize("strategy", ALWAYS, ids=str)
def test_every_round_is_fedavg(strategy: Strategy, tmp_path: Path) -> None:
    """Equal steps (FedNova), mu 0 (FedProx), server SGD with rate 1 (FedAvgM without momentum), bound 1 (FedVal).

    Of Ditto it is the shared model, whatever lambda.
    """
    sites = {"A": Quadratic(1, -1, 3, steps=4), "B": Quadratic(2, 5, 1, steps=4)}
    ended = [descend(Federation.begin(s, weights(0)), sites, 3, 0.1, tmp_path).weights for s in (strategy, FedAvg())]
    close(*ended)


@pytest.mark.parametrize("strategy", UNWEIGHTED, ids=str)
def test_where_every_site_counts_the_same_it_is_the_unweighted_mean(strategy: Strategy, tmp_path: Path) -> None:
    equal = {site: (after, work(1)) for site, (after, _) in SITES.items()}
    close(one_round(strategy, SITES, tmp_path), one_round(FedAvg(), equal, tmp_path))


@pytest.mark.parametrize("strategy", NEVER, ids=str)
def test_an_adaptive_server_is_another_step(strategy: Strategy, tmp_path: Path) -> None:
    assert not np.allclose(one_round(strategy, SITES, tmp_path)["a"], one_round(FedAvg(), SITES, tmp_path)["a"])


@pytest.mark.parametrize("strategy", MEMBERS)
def test_one_site_alone_gives_that_sites_training(strategy: Strategy, tmp_path: Path) -> None:
    now = Federation.begin(strategy, weights(0))
    for seed in (1, 2, 3):
        now = now.round({"A": (weights(seed), work(7))}, tmp_path)
        assert weights_digest(now.weights) == weights_digest(weights(seed))
        if not isinstance(strategy, FedProx):
            pull = strategy.pull(now.weights, now.weights, now.shared, now.private("A"))
            assert all(not array.any() for array in pull.values())


@pytest.mark.parametrize("strategy", MEMBERS)
def test_sites_in_another_order_give_the_same_up_to_rounding(strategy: Strategy, tmp_path: Path) -> None:
    close(one_round(strategy, SITES, tmp_path), one_round(strategy, dict(reversed(SITES.items())), tmp_path))


@pytest.mark.parametrize("strategy", [m for m in MEMBERS if not isinstance(m.values[0], QFedAvg)])
def test_splitting_a_site_into_two_changes_nothing(strategy: Strategy, tmp_path: Path) -> None:
    """Three rounds, where cases weigh: in q-FedAvg every site counts, so two count twice."""
    a, b = Quadratic(1, -1, 6, steps=4), Quadratic(2, 5, 4, steps=4)
    parts = {"A": Quadratic(1, -1, 2, steps=4), "A2": Quadratic(1, -1, 4, steps=4), "B": b}
    start = Federation.begin(strategy, weights(0))
    whole, split = (descend(start, sites, 3, 0.1, tmp_path).weights for sites in ({"A": a, "B": b}, parts))
    for name in whole:
        np.testing.assert_allclose(whole[name], split[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strategy", MEMBERS)
def test_state_is_a_value(strategy: Strategy, tmp_path: Path) -> None:
    """The same inputs twice give the same bits, and no input is changed."""
    start = frozen(weights(0))
    now = Federation.begin(strategy, start).round(SITES, tmp_path)
    frozen(now.weights), frozen(now.shared), [frozen(kept) for kept in now.kept.values()]
    results = {site: (frozen(weights(seed)), work(seed)) for seed, site in enumerate("ABC", 4)}
    first, second = now.round(results, tmp_path), now.round(results, tmp_path)
    for one, two in ((first.weights, second.weights), (first.shared, second.shared)):
        assert weights_digest(one) == weights_digest(two)
    assert [weights_digest(first.kept[s]) for s in "ABC"] == [weights_digest(second.kept[s]) for s in "ABC"]


@pytest.mark.parametrize("strategy", MEMBERS)
def test_going_on_from_files_gives_the_same_bits(strategy: Strategy, tmp_path: Path) -> None:
    straight = resumed = Federation.begin(strategy, weights(0))
    sites = {"A": Quadratic(1, -1, 3, steps=4), "B": Quadratic(2, 5, 1, steps=2)}
    for _ in range(3):
        straight = descend(straight, sites, 1, 0.1, tmp_path)
        resumed = descend(resumed.stored(tmp_path), sites, 1, 0.1, tmp_path)
    assert weights_digest(straight.weights) == weights_digest(resumed.weights)
    assert weights_digest(straight.shared) == weights_digest(resumed.shared)
    for site in sites:
        assert weights_digest(straight.private(site)) == weights_digest(resumed.private(site))


@pytest.mark.parametrize("strategy", MEMBERS)
def test_names_shapes_and_types_stay(strategy: Strategy, tmp_path: Path) -> None:
    now = Federation.begin(strategy, weights(0))
    for _ in range(2):
        after = now.round(SITES, tmp_path)
        for old, new in ((now.weights, after.weights), (now.shared, after.shared)):
            form = {name: (array.shape, array.dtype) for name, array in old.items()}
            assert {name: (array.shape, array.dtype) for name, array in new.items()} == form
        now = after


STRONG = [Scaffold(rate=5), FedAvgM(rate=5), FedAdam(rate=10), FedYogi(rate=10), FedAdagrad(rate=10), QFedAvg(q=5)]


@pytest.mark.parametrize("strategy", [*STRONG, FedNova(), FedAvg(), FedProx(), Ditto(), FedVal(power=5)], ids=str)
def test_running_statistics_are_averaged_and_nothing_else(strategy: Strategy, tmp_path: Path) -> None:
    """Moving a variance by a server step could make it negative."""
    now = Federation.begin(strategy, weights(0))
    for _ in range(3):
        parts = {s: strategy.report(now.weights, *_args(now, s))[0] for s in SITES}
        mean = aggregate(parts, tmp_path).parts["weights"].arrays
        now = now.round(SITES, tmp_path)
        for name in filter(is_statistic, mean):
            assert np.array_equal(now.weights[name], mean[name])
    assert not any(is_statistic(name) for arrays in (now.shared, *now.kept.values()) for name in arrays)


def _args(now: Federation, site: str) -> tuple[Arrays, Arrays, Arrays, object]:
    after, done = SITES[site]
    return after, now.shared, now.private(site), done


@pytest.mark.parametrize("strategy", MEMBERS)
def test_a_site_that_took_no_step_does_no_harm(strategy: Strategy, tmp_path: Path) -> None:
    now = Federation.begin(strategy, weights(0)).round(SITES, tmp_path)
    idle = {"A": (now.weights, work(7, steps=0)), "B": (weights(2), work(2))}
    kept = now.private("A")
    after = now.round(idle, tmp_path, size=3)
    assert all_finite(after.weights)
    assert all_finite(after.shared)
    assert weights_digest(after.private("A")) == weights_digest(kept)


@pytest.mark.parametrize("strategy", MEMBERS)
def test_where_nothing_moves_and_nothing_is_lost_all_stays_finite(strategy: Strategy, tmp_path: Path) -> None:
    now = Federation.begin(strategy, weights(0))
    for _ in range(3):
        now = now.round({s: (now.weights, work(3, loss=0.0)) for s in "AB"}, tmp_path)
    close(now.weights, weights(0))
    assert all_finite(now.shared)


@pytest.mark.parametrize("strategy", [Ditto(strength=s) for s in (0.0, 0.5, 5.0)], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_dittos_shared_model_is_fedavgs_bit_for_bit(strategy: Strategy, momentum: float, tmp_path: Path) -> None:
    sites = {"A": Quadratic(1, -1, 3, steps=4, momentum=momentum), "B": Quadratic(2, 5, 1, steps=4)}
    ends = [descend(Federation.begin(s, weights(0)), sites, 3, 0.1, tmp_path).weights for s in (strategy, FedAvg())]
    assert weights_digest(ends[0]) == weights_digest(ends[1])


def test_ditto_without_lambda_is_local_training_and_with_much_of_it_the_shared_model() -> None:
    """The two ends that the paper names (section 3.1): lambda 0 gives local models, lambda to infinity w*.

    Where w stands still, v_k rests where a (v - b) + lambda (v - w) = 0: at (a b + lambda w) / (a + lambda), which is
    a |b - w| / (a + lambda) away from w.
    """
    site = Quadratic(2, 5, steps=40)
    apart = []
    for strength in (0.0, 0.5, 2.0, 8.0, 32.0, 100.0):
        now = Federation.begin(Ditto(strength=strength), weights(0))
        own: Arrays = weights(1)
        for _ in range(40):
            own = site.train_own(now, own, 0.01)
        for name, v in own.items():
            rest = (2 * 5 + strength * now.weights[name].astype(float)) / (2 + strength)
            np.testing.assert_allclose(v, rest, rtol=1e-5, atol=1e-5)
        apart.append(max(float(abs(v - now.weights[name]).max()) for name, v in own.items()))
    assert apart == sorted(apart, reverse=True)
    assert apart[-1] < apart[0] / 45  # 2 / 102
    alone = Federation.begin(FedAvg(), weights(1))
    trained, _ = site.train(alone, "A", 0.01)
    local = site.train_own(Federation.begin(Ditto(strength=0), weights(0)), weights(1), 0.01)
    assert weights_digest(local) == weights_digest(trained)


@pytest.mark.parametrize("bound", [1.0, 1.5, 2.0, 10.0])
@pytest.mark.parametrize("power", [-5.0, -1.0, 0.0, 0.5, 5.0])
def test_no_site_counts_more_or_less_than_the_bound(bound: float, power: float) -> None:
    strategy = FedVal(bound=bound, power=power)
    for reference in (0.0, 1e-12, 0.3, 1.0):
        for score in (None, 0.0, 1e-9, 0.29, 0.31, 1.0):
            factor = strategy.factor(score, np.array([reference]))
            assert 1 / bound <= factor <= bound
            if score is not None and reference == 0.3:
                assert (factor - 1) * (score - reference) * power >= 0


def test_a_site_without_a_score_counts_with_its_cases(tmp_path: Path) -> None:
    strategy = FedVal(bound=10, power=3)
    silent = {site: (after, work(done.cases, score=None)) for site, (after, done) in SITES.items()}
    now = Federation.begin(strategy, weights(0)).round(silent, tmp_path)
    assert now.shared["reference"].tolist() == [0.0]
    close(now.weights, one_round(FedAvg(), SITES, tmp_path))
    scored = now.round({**silent, "A": (weights(1), work(7, score=0.4))}, tmp_path)
    assert scored.shared["reference"].tolist() == [0.4]
    close(scored.weights, one_round(FedAvg(), SITES, tmp_path))
    assert scored.round(silent, tmp_path).shared["reference"].tolist() == [0.4]
