"""One number worked by hand for each strategy, and what each is for, on quadratics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from strategy_toys import Federation, Quadratic, descend, work

from wardround.core.contracts import Strategy, Work
from wardround.core.weights import Array
from wardround.strategies.ditto import Ditto
from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fednova import FedNova
from wardround.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi, ServerOptimiser
from wardround.strategies.fedprox import FedProx
from wardround.strategies.fedval import FedVal
from wardround.strategies.qfedavg import QFedAvg
from wardround.strategies.scaffold import Scaffold


def at(value: float) -> dict[str, Array]:
    return {"w": np.array([value], np.float64)}


def begin(strategy: Strategy, value: float) -> Federation:
    return Federation.begin(strategy, at(value))


def test_fedavg(tmp_path: Path) -> None:
    """Site A: 1 case, w = 2; site B: 3 cases, w = 6. (1*2 + 3*6) / 4 = 20 / 4 = 5."""
    now = begin(FedAvg(), 0).round({"A": (at(2), work(1)), "B": (at(6), work(3))}, tmp_path)
    assert now.weights["w"].tolist() == [5.0]


def test_fedprox() -> None:
    """mu (w - w_t) = 0.5 * (3 - 1) = 1; where nothing moved the pull is 0."""
    w, anchor = {"w": np.array([3.0, 1.0])}, {"w": np.array([1.0, 1.0])}
    assert FedProx(mu=0.5).pull(w, anchor, {}, {})["w"].tolist() == [1.0, 0.0]


def test_scaffold(tmp_path: Path) -> None:
    """Losses (w - 0)^2 / 2 and (w - 8)^2 / 2, one case each, K = 2, eta = 0.5 (K eta = 1), from x = 2.

    Round 1, c = c_A = c_B = 0. A: 2, 1, 0.5. B: 2, 5, 6.5. x = (0.5 + 6.5) / 2 = 3.5.
    c_A = (2 - 0.5) / 1 = 1.5, c_B = (2 - 6.5) / 1 = -4.5, c = mean = -1.5.

    Round 2. A adds c - c_A = -3: gradient 3.5 - 3 = 0.5, y = 3.25; 3.25 - 3 = 0.25, y = 3.125.
    B adds c - c_B = 3: 3.5 - 8 + 3 = -1.5, y = 4.25; 4.25 - 8 + 3 = -0.75, y = 4.625.
    x = (3.125 + 4.625) / 2 = 3.875. c_A = 1.5 + 1.5 + (3.5 - 3.125) / 1 = 3.375,
    c_B = -4.5 + 1.5 + (3.5 - 4.625) / 1 = -4.125, c = (3.375 - 4.125) / 2 = -0.375.
    """
    sites = {"A": Quadratic(1, 0, steps=2), "B": Quadratic(1, 8, steps=2)}
    one = descend(begin(Scaffold(), 2), sites, 1, 0.5, tmp_path)
    assert (one.weights["w"][0], one.shared["control/w"][0]) == (3.5, -1.5)
    assert [one.kept[s]["control/w"][0] for s in "AB"] == [1.5, -4.5]
    two = descend(one, sites, 1, 0.5, tmp_path)
    assert (two.weights["w"][0], two.shared["control/w"][0]) == (3.875, -0.375)
    assert [two.kept[s]["control/w"][0] for s in "AB"] == [3.375, -4.125]


def test_scaffold_where_a_site_is_missing(tmp_path: Path) -> None:
    """As above but B is away in round 1: x = 0.5 and c = 0 + 1/2 * 1.5 = 0.75, half of c_A: B's c_B is 0."""
    now = begin(Scaffold(), 2)
    now = now.round({"A": Quadratic(1, 0, steps=2).train(now, "A", 0.5)}, tmp_path, size=2)
    assert (now.weights["w"][0], now.shared["control/w"][0]) == (0.5, 0.75)


def test_scaffold_takes_the_server_step(tmp_path: Path) -> None:
    """eta_g = 2: x = 2 + 2 * (3.5 - 2) = 5."""
    sites = {"A": Quadratic(1, 0, steps=2), "B": Quadratic(1, 8, steps=2)}
    assert descend(begin(Scaffold(rate=2), 2), sites, 1, 0.5, tmp_path).weights["w"].tolist() == [5.0]


def test_scaffold_divides_by_the_steps_that_were_taken() -> None:
    """Rates 0.4 and 0.1 taken, whatever was skipped between: (2 - 1) / 0.5 = 2."""
    parts, kept = Scaffold().report(
        at(2), at(1), {"control/w": np.zeros(1)}, {"control/w": np.zeros(1)}, Work(1, (0.4, 0.1))
    )
    assert kept["control/w"].tolist() == [2.0]
    assert parts["control"].arrays["w"].tolist() == [2.0]


def test_fednova(tmp_path: Path) -> None:
    """From x = 0, eta = 1: A (1 case) took 1 step to 2; B (3 cases) took 2 steps to 8.

    d_A = (0 - 2) / 1 = -2, d_B = (0 - 8) / 2 = -4; p = 1/4, 3/4; tau_eff = 1/4 * 1 + 3/4 * 2 = 1.75.
    x = 0 + 1.75 * (1/4 * 2 + 3/4 * 4) = 1.75 * 3.5 = 6.125, where FedAvg gives 6.5.
    """
    results = {"A": (at(2), work(1, steps=1, rate=1)), "B": (at(8), work(3, steps=2, rate=1))}
    assert begin(FedNova(), 0).round(results, tmp_path).weights["w"][0] == pytest.approx(6.125, rel=1e-12)


def test_fednova_counts_momentum(tmp_path: Path) -> None:
    """The same with Nesterov momentum 1/2: a_A = (1.5), a_B = (1.75, 1.5), as (1 - rho^(k+1)) / (1 - rho) says.

    tau_eff = 1/4 * 1.5 + 3/4 * 3.25 = 2.8125; x = 2.8125 * (1/4 * 2/1.5 + 3/4 * 8/3.25).
    """
    assert work(steps=2, rate=1, momentum=0.5).reach == 3.25
    results = {
        "A": (at(2), work(1, steps=1, rate=1, momentum=0.5)),
        "B": (at(8), work(3, steps=2, rate=1, momentum=0.5)),
    }
    expected = 2.8125 * (2 / 1.5 / 4 + 0.75 * 8 / 3.25)
    assert begin(FedNova(), 0).round(results, tmp_path).weights["w"][0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("rho", "steps"), [(0.0, 5), (0.5, 1), (0.9, 30), (0.99, 4)])
def test_reach_is_the_papers_sum_one_gradient_ahead(rho: float, steps: int) -> None:
    """Sum of (1 - rho^(k+1)) / (1 - rho) over k = 1 .. tau is (tau - rho^2 (1 - rho^tau) / (1 - rho)) / (1 - rho)."""
    closed = (steps - rho**2 * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    assert work(steps=steps, rate=0.1, momentum=rho).reach == pytest.approx(0.1 * closed, rel=1e-9)


def one_for_all(strategy: ServerOptimiser, values: list[float], folder: Path) -> list[float]:
    """The weight from 0 after rounds in which both sites say ``value``."""
    now, seen = begin(strategy, 0), []
    for value in values:
        now = now.round({"A": (at(value), work()), "B": (at(value), work())}, folder)
        seen.append(float(now.weights["w"][0]))
    return seen


def test_fedavgm(tmp_path: Path) -> None:
    """beta 1/2, eta 1/2. Delta = 2: m = 2, x = 0 + 1 = 1. Delta = 2 - 1 = 1: m = 1 + 1 = 2, x = 1 + 1 = 2."""
    assert one_for_all(FedAvgM(rate=0.5, momentum=0.5), [2, 2], tmp_path) == [1.0, 2.0]


def test_fedadagrad(tmp_path: Path) -> None:
    """tau 1/2, beta1 0, eta 1, Delta 1.2: v = 0.25 + 1.44 = 1.69, x = 1.2 / (1.3 + 0.5) = 2/3."""
    assert one_for_all(FedAdagrad(rate=1, tau=0.5), [1.2], tmp_path) == [pytest.approx(2 / 3)]


def test_fedadam(tmp_path: Path) -> None:
    """tau 1/2, beta1 = beta2 = 1/2, eta 1, Delta 1: m = 1/2, v = 0.125 + 0.5 = 0.625.

    x = 0.5 / (sqrt(0.625) + 0.5) = 0.5 / 1.2905694 = 0.3874259.
    """
    strategy = FedAdam(rate=1, tau=0.5, beta1=0.5, beta2=0.5)
    assert one_for_all(strategy, [1], tmp_path) == [pytest.approx(0.3874259, abs=1e-7)]


def test_fedyogi(tmp_path: Path) -> None:
    """As Adam's, but v = 0.25 - 0.5 * 1 * sign(0.25 - 1) = 0.75: x = 0.5 / (0.8660254 + 0.5) = 0.3660254."""
    strategy = FedYogi(rate=1, tau=0.5, beta1=0.5, beta2=0.5)
    assert one_for_all(strategy, [1], tmp_path) == [pytest.approx(0.3660254, abs=1e-7)]


def test_qfedavg(tmp_path: Path) -> None:
    """q 1, eta 0.5 so L = 2, from w = 0. A: loss 1, y = 1. B: loss 3, y = 4.

    dw_A = 2 * (0 - 1) = -2, dw_B = 2 * (0 - 4) = -8. Delta_A = 1 * -2 = -2, Delta_B = 3 * -8 = -24.
    h_A = 1 * 1 * 4 + 2 * 1 = 6, h_B = 1 * 1 * 64 + 2 * 3 = 70. w = 0 + 26 / 76 = 0.3421053.
    """
    results = {"A": (at(1), work(9, rate=0.5, loss=1.0)), "B": (at(4), work(1, rate=0.5, loss=3.0))}
    now = begin(QFedAvg(q=1), 0).round(results, tmp_path)
    assert now.weights["w"][0] == pytest.approx(26 / 76, rel=1e-12)
    fixed = begin(QFedAvg(q=1, lipschitz=2.0), 0).round(results, tmp_path)
    assert fixed.weights["w"][0] == now.weights["w"][0]


def test_scaffold_finds_the_optimum_that_fedavg_misses() -> None:
    """Losses (w - 1)^2 / 2 and 4 (w + 1)^2 / 2, one case each, 20 steps of 0.1 a round.

    The optimum of the mean: 1 (w - 1) + 4 (w + 1) = 0, w = -3/5. After K steps site i is at
    b_i + r_i (x - b_i) with r_i = (1 - eta a_i)^K: r_A = 0.9^20 = 0.12158, r_B = 0.6^20 = 0.00004. FedAvg rests
    where x = mean, at x = sum (1 - r_i) b_i / sum (1 - r_i) = (0.87842 - 0.99996) / 1.87839 = -0.06470.
    """
    sites = {"A": Quadratic(1, 1, steps=20), "B": Quadratic(4, -1, steps=20)}
    r = np.array([0.9, 0.6]) ** 20
    biased = float(((1 - r) * [1, -1]).sum() / (1 - r).sum())
    assert biased == pytest.approx(-0.06470, abs=1e-5)
    fedavg = descend(begin(FedAvg(), 0), sites, 60, 0.1)
    assert fedavg.weights["w"][0] == pytest.approx(biased, abs=1e-9)
    scaffold = descend(begin(Scaffold(), 0), sites, 60, 0.1)
    assert scaffold.weights["w"][0] == pytest.approx(-0.6, abs=1e-6)
    # At the optimum each control is its site's gradient there: -1.6 and 1.6.
    assert [scaffold.kept[s]["control/w"][0] for s in "AB"] == pytest.approx([-1.6, 1.6], abs=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_fednova_does_not_favour_the_site_with_more_steps(momentum: float) -> None:
    """Losses (w - 0)^2 / 2 with 2 steps and (w - 1)^2 / 2 with 10: the optimum is 1/2.

    With small eta site i moves by eta ||a_i||_1 times its gradient, so without momentum FedAvg rests near
    10 / (2 + 10) = 0.8333 (exactly: (1 - r_B) / (2 - r_A - r_B), r_i = (1 - eta)^K_i), FedNova near 1/2.
    """
    sites = {
        "A": Quadratic(1, 0, steps=2, momentum=momentum),
        "B": Quadratic(1, 1, steps=10, momentum=momentum),
    }
    fedavg = descend(begin(FedAvg(), 0.5), sites, 200, 0.01).weights["w"][0]
    fednova = descend(begin(FedNova(), 0.5), sites, 200, 0.01).weights["w"][0]
    assert fednova == pytest.approx(0.5, abs=0.03)
    assert fedavg > 0.8
    if momentum == 0:
        r_a, r_b = 0.99**2, 0.99**10
        assert fedavg == pytest.approx((1 - r_b) / (2 - r_a - r_b), abs=1e-3)


def test_qfedavg_is_fairer_the_larger_q_is() -> None:
    """Three sites want 0 and one wants 1: FedAvg's optimum is 1/4; each q more moves towards the one, at most to 1/2.

    At rest sum_k F_k^q g_k = 0 with one step a round, F_k = g_k^2 / 2: 3 w^(2q+1) = (1 - w)^(2q+1), so
    w = 1 / (1 + 3^(1/(2q+1))): 0.25 (q 0), 0.4095 (q 1), 0.4453 (q 2).
    """
    sites = {"A": Quadratic(1, 0), "B": Quadratic(1, 0), "C": Quadratic(1, 0), "D": Quadratic(1, 1)}
    found = [descend(begin(QFedAvg(q=q), 0.2), sites, 150, 0.5).weights["w"][0] for q in (0, 1, 2)]
    assert found == pytest.approx([1 / (1 + 3 ** (1 / (2 * q + 1))) for q in (0, 1, 2)], abs=1e-4)


@pytest.mark.parametrize("strategy", [FedAdagrad(rate=0.1), FedAdam(rate=0.1), FedYogi(rate=0.1), FedAvgM()], ids=str)
def test_server_optimisers_come_to_rest_where_fedavg_does(strategy: Strategy) -> None:
    """At w = 2 the sites' moves cancel (equal curvature, centres 1 and 3), so Delta is 0 there."""
    sites = {"A": Quadratic(1, 1, steps=2), "B": Quadratic(1, 3, steps=2)}
    now = descend(begin(strategy, 1.5), sites, 150, 0.2)
    assert now.weights["w"][0] == pytest.approx(2.0, abs=0.05)


def test_ditto(tmp_path: Path) -> None:
    """Losses (w - 0)^2 / 2 and (w - 8)^2 / 2, one case each, 2 steps of 0.5 a round, lambda 1, from w = v = 4.

    Round 1. w: A 4, 2, 1; B 4, 6, 7; w = 4. v_A: gradient 4 + 1 (4 - 4) = 4, v = 2; 2 + (2 - 4) = 0, v = 2.
    v_B: (4 - 8) + 0 = -4, v = 6; (6 - 8) + (6 - 4) = 0, v = 6. Both rest at (b + lambda w) / (1 + lambda).
    Round 2 with lambda 0.5 from v_A = 2, w = 4: 2 + 0.5 (2 - 4) = 1, v = 1.5; 1.5 + 0.5 (1.5 - 4) = 0.25, v = 1.375.
    """
    sites = {"A": Quadratic(1, 0, steps=2), "B": Quadratic(1, 8, steps=2)}
    now = begin(Ditto(strength=1), 4)
    own = {name: site.train_own(now, now.weights, 0.5)["w"][0] for name, site in sites.items()}
    assert own == {"A": 2.0, "B": 6.0}
    assert descend(now, sites, 1, 0.5, tmp_path).weights["w"].tolist() == [4.0]
    assert sites["A"].train_own(begin(Ditto(strength=0.5), 4), at(2), 0.5)["w"].tolist() == [1.375]


def test_fedval(tmp_path: Path) -> None:
    """bound 2, power 1. Round 1 has no S: A (1 case, w = 2), B (3 cases, w = 6) give (2 + 18) / 4 = 5, as FedAvg.

    Their scores 0.9 and 0.5 make S = (1 * 0.9 + 3 * 0.5) / 4 = 0.6. In round 2 A again reaches 0.9: f_A = 0.9 / 0.6
    = 1.5; B reaches 0.2: 0.2 / 0.6 = 1/3, which the bound makes 1/2. Weights 1.5 and 3 * 1/2 = 1.5, so the mean of
    2 and 6 is 4. S = (0.9 + 3 * 0.2) / 4 = 0.375.
    """
    one = begin(FedVal(), 0).round({"A": (at(2), work(1, score=0.9)), "B": (at(6), work(3, score=0.5))}, tmp_path)
    assert one.weights["w"].tolist() == [5.0]
    assert one.shared["reference"].tolist() == pytest.approx([0.6])
    two = one.round({"A": (at(2), work(1, score=0.9)), "B": (at(6), work(3, score=0.2))}, tmp_path)
    assert two.weights["w"][0] == pytest.approx(4.0)
    assert two.shared["reference"].tolist() == pytest.approx([0.375])


def test_fedval_with_a_negative_power(tmp_path: Path) -> None:
    """S = 0.6 as above, power -1: f_A = 0.6 / 0.9 = 2/3, f_B = 0.6 / 0.5 = 1.2. (2/3 * 2 + 3.6 * 6) / (2/3 + 3.6)."""
    results = {"A": (at(2), work(1, score=0.9)), "B": (at(6), work(3, score=0.5))}
    two = begin(FedVal(power=-1), 0).round(results, tmp_path).round(results, tmp_path)
    assert two.weights["w"][0] == pytest.approx((4 / 3 + 21.6) / (2 / 3 + 3.6), rel=1e-12)
