"""Laws that every aggregation of the catalog keeps, and each one's arithmetic by hand."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import folded, model

from wardround.aggregation import contributions, geometric, ranked
from wardround.aggregation.catalog import AGGREGATIONS
from wardround.aggregation.checked import Checked
from wardround.aggregation.geometric import Geometric
from wardround.aggregation.median import Median
from wardround.aggregation.plain import Plain
from wardround.aggregation.ranked import comparators
from wardround.aggregation.trimmed import Trimmed
from wardround.core.weights import Part, Parts

MEMBERS = [pytest.param(member(), id=member().name) for member in AGGREGATIONS]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and stretches even in small arrays."""
    monkeypatch.setattr(contributions, "BLOCK", 16)
    monkeypatch.setattr(contributions, "RUN", 2)
    monkeypatch.setattr(contributions, "CHUNK", 5)
    monkeypatch.setattr(ranked, "BUDGET", 40)
    monkeypatch.setattr(geometric, "BUDGET", 40)


def site(seed: int, size: int = 101) -> Parts:
    """A contribution with two parts, several tensors, an empty one and one of a single number."""
    random = np.random.default_rng(seed)
    tensors = {"w": (size,), "v": (3, 5), "none": (0,), "one": (1,)}
    arrays = {name: random.normal(size=shape).astype(np.float32) for name, shape in tensors.items()}
    return {"weights": Part(arrays, 1.0 + seed), "control": Part({"c": arrays["w"] * 2}, 1.0)}


SENT = {**site(99), "shared": Part({}, 1.0)}


def same_bits(one: Parts, two: Parts) -> bool:
    return all(
        one[part].arrays[name].tobytes() == array.tobytes() and one[part].weight == content.weight
        for part, content in two.items()
        for name, array in content.arrays.items()
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", MEMBERS)
@pytest.mark.parametrize("sent", [SENT, None], ids=["model sent", "none sent"])
def test_order_of_replies_changes_no_bit(rule: Checked, sent: Parts | None, tmp_path: Path) -> None:
    sites = {name: site(number) for number, name in enumerate("ABCD")}
    first = folded(rule, tmp_path, sites, sent)
    for order in itertools.islice(itertools.permutations("ABCD"), 1, None, 5):
        assert same_bits(first, folded(rule, tmp_path, sites, sent, order=order))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", MEMBERS)
def test_sites_in_another_order_give_the_same_up_to_rounding(rule: Checked, tmp_path: Path) -> None:
    sites = {name: site(number) for number, name in enumerate("ABCDE")}
    there, back = folded(rule, tmp_path, sites, SENT), folded(rule, tmp_path, dict(reversed(sites.items())), SENT)
    for name in there["weights"].arrays:
        np.testing.assert_allclose(there["weights"].arrays[name], back["weights"].arrays[name], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", MEMBERS)
@pytest.mark.parametrize("count", [3, 4, 7])
def test_equal_contributions_give_that_contribution(rule: Checked, count: int, tmp_path: Path) -> None:
    result = folded(rule, tmp_path, {f"S{number}": site(5) for number in range(count)}, SENT)
    for part, content in site(5).items():
        assert result[part].weight == pytest.approx(count * content.weight)
        for name, array in content.arrays.items():
            np.testing.assert_allclose(result[part].arrays[name], array, rtol=1e-6)
            assert result[part].arrays[name].dtype == np.float32
            assert result[part].arrays[name].shape == array.shape


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rule", MEMBERS)
def test_one_site_is_returned_bit_for_bit(rule: Checked, tmp_path: Path) -> None:
    assert same_bits(folded(rule, tmp_path, {"A": site(3)}, SENT), site(3))


@pytest.mark.parametrize("rule", MEMBERS)
def test_blocks_change_no_bit_but_the_products_rounding(
    rule: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    sites = {name: site(number) for number, name in enumerate("ABCDE")}
    whole = folded(rule, tmp_path, sites, SENT)
    request.getfixturevalue("small_blocks")
    cut = folded(rule, tmp_path, sites, SENT)
    if rule.name == "geometric":  # float64 sums in another order
        np.testing.assert_allclose(cut["weights"].arrays["w"], whole["weights"].arrays["w"], rtol=1e-5, atol=1e-7)
    else:
        assert same_bits(whole, cut)


def weiszfeld(points: np.ndarray, weights: np.ndarray, nu: float = 1e-6, rounds: int = 100) -> np.ndarray:
    """Algorithm 2 of Pillutla et al., on the points themselves."""
    alpha = weights / weights.sum()
    z = alpha @ points
    for _ in range(rounds):
        beta = alpha / np.maximum(nu, np.linalg.norm(points - z, axis=1))
        z = beta @ points / beta.sum()
    return z


@given(st.integers(1, 9), st.integers(1, 120), st.integers(0, 10**6), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_agreement_with_numpy(
    tmp_path_factory: pytest.TempPathFactory, count: int, size: int, seed: int, trim: int
) -> None:
    random, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("numpy")
    points = random.normal(size=(count, size)).astype(np.float32)
    weights = random.integers(1, 9, count).astype(float)
    trim = min(trim, (count - 1) // 2)
    sites = {f"S{n}": model(point, weight) for n, (point, weight) in enumerate(zip(points, weights, strict=True))}
    ordered = np.sort(points.astype(float), axis=0)
    expected = {
        Plain(clip=None): weights @ points / weights.sum(),
        Median(clip=None): np.median(points, axis=0),
        Trimmed(clip=None, trim=trim): ordered[trim : count - trim].mean(axis=0),
        Geometric(clip=None): weiszfeld(points.astype(float), weights),
    }
    before = contributions.BLOCK, contributions.RUN, ranked.BUDGET, geometric.BUDGET
    contributions.BLOCK, contributions.RUN, ranked.BUDGET, geometric.BUDGET = 16, 2, 40, 40
    try:
        for rule, wanted in expected.items():
            found = folded(rule, folder, sites, model(np.zeros(size)))["weights"].arrays["w"]
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5, err_msg=rule.name)
    finally:
        contributions.BLOCK, contributions.RUN, ranked.BUDGET, geometric.BUDGET = before


@pytest.mark.parametrize("trim", [0, 0.0])
def test_no_trimming_is_the_unweighted_mean(trim: float, tmp_path: Path) -> None:
    values = [[1.0, -3.0], [2.0, 5.0], [6.0, 100.0], [0.5, 2.0]]
    sites = {f"S{number}": model(value, number + 1) for number, value in enumerate(values)}
    found = folded(Trimmed(trim=trim, clip=None), tmp_path, sites)["weights"].arrays["w"]
    np.testing.assert_allclose(found, np.mean(values, axis=0), rtol=1e-6)


def test_median_by_hand(tmp_path: Path) -> None:
    # First parameter: 1, 2, 50 -> 2. Second: -9, 4, 5 -> 4. A fourth site with 3 and 6: (2 + 3) / 2, (4 + 5) / 2.
    sites = {"A": model([1, 5], 100), "B": model([2, -9]), "C": model([50, 4])}
    three = folded(Median(), tmp_path, sites)["weights"]
    assert three.arrays["w"].tolist() == [2, 4]
    assert three.weight == 102
    assert folded(Median(), tmp_path, {**sites, "D": model([3, 6])})["weights"].arrays["w"].tolist() == [2.5, 4.5]


def test_trimmed_mean_by_hand(tmp_path: Path) -> None:
    # Sorted 1, 2, 4, 90: without the ends (2 + 4) / 2 = 3. A fraction of 0.2 of four is 0.8, rounded up to one.
    sites = {name: model([value]) for name, value in zip("ABCD", (90, 2, 1, 4), strict=True)}
    assert folded(Trimmed(trim=1), tmp_path, sites)["weights"].arrays["w"].tolist() == [3]
    assert folded(Trimmed(trim=0.2), tmp_path, sites)["weights"].arrays["w"].tolist() == [3]


def test_geometric_median_by_hand(tmp_path: Path) -> None:
    # The corners of a triangle with angles below 120 degrees: the Fermat point sees each pair under 120 degrees.
    # For (0, 0), (2, 0), (1, s) with s = sqrt(3), equilateral, it is the centre (1, s / 3). A collinear triple
    # 0, 1, 10 has its middle point, 1: to the left the sum of distances grows by one a unit, to the right too.
    root = 3**0.5
    corners = {"A": model([0, 0]), "B": model([2, 0]), "C": model([1, root])}
    np.testing.assert_allclose(folded(Geometric(), tmp_path, corners)["weights"].arrays["w"], [1, root / 3], rtol=1e-6)
    line = {"A": model([0]), "B": model([1]), "C": model([10])}
    np.testing.assert_allclose(folded(Geometric(), tmp_path, line)["weights"].arrays["w"], [1], atol=1e-4)
    # With weights 1, 1 and 3 the heavy one has more than half, so it is the median itself.
    heavy = {"A": model([0]), "B": model([1]), "C": model([10], 3)}
    np.testing.assert_allclose(folded(Geometric(), tmp_path, heavy)["weights"].arrays["w"], [10], atol=1e-4)


def test_plain_with_a_clipped_update_by_hand(tmp_path: Path) -> None:
    # Sent 10. Updates 1, 2, 3, 40: median 2.5, limit 3 * 2.5 = 7.5. (1 + 2 + 3 + 7.5) / 4 = 3.375.
    sites = {name: model([10 + step]) for name, step in zip("ABCD", (1, 2, 3, 40), strict=True)}
    assert folded(Plain(), tmp_path, sites, model([10]))["weights"].arrays["w"].tolist() == [13.375]


def test_trim_counts() -> None:
    shares = {4: 1, 5: 1, 6: 2, 10: 2, 2: 0, 1: 0, 3: 1}
    assert {sites: Trimmed(trim=0.2).trimmed(sites) for sites in shares} == shares
    assert Trimmed(trim=0.49).trimmed(4) == 1
    assert Trimmed(trim=0.07).trimmed(100) == 7
    assert (Trimmed(trim=2).trimmed(5), Trimmed(trim=2).trimmed(1)) == (2, 0)
    assert (Trimmed(trim=2).least(9)[0], Trimmed(trim=2).least(1)[0], Trimmed(trim=0.2).least(9)[0]) == (5, 1, 1)


@pytest.mark.parametrize("trim", [-1, 0.5, 1.5, "x", True])
def test_trims_that_make_no_sense_are_refused(trim: object) -> None:
    with pytest.raises(ValueError, match="trim"):
        Trimmed(trim=trim)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", range(1, 11))
def test_comparators_sort(size: int) -> None:
    # The 0-1 principle: what sorts all sequences of zeros and ones sorts everything (Knuth 5.3.4 Z).
    for bits in itertools.product((0, 1), repeat=size):
        values = list(bits)
        for low, high in comparators(size):
            values[low], values[high] = min(values[low], values[high]), max(values[low], values[high])
        assert values == sorted(bits)
