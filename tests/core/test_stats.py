from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.stats import Histogram, Moments

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=20)


@given(VALUES, VALUES)
def test_merging_equals_pooling(left: list[float], right: list[float]) -> None:
    merged, pooled = Moments.of(left).merge(Moments.of(right)), Moments.of(left + right)
    assert merged.n == pooled.n
    assert merged.total == pytest.approx(pooled.total, rel=1e-9, abs=1e-6)
    assert merged.squares == pytest.approx(pooled.squares, rel=1e-9, abs=1e-6)
    bins = {"low": -1e6, "high": 1e6, "bins": 13}
    assert Histogram.of(left, **bins).merge(Histogram.of(right, **bins)) == Histogram.of(left + right, **bins)


@given(VALUES)
def test_nothing_is_neutral(values: list[float]) -> None:
    assert Moments.of(values).merge(Moments()) == Moments.of(values)


@given(st.lists(st.floats(0, 10), min_size=1, max_size=50), st.floats(0, 1))
def test_quantile_is_within_a_bin(values: list[float], q: float) -> None:
    histogram = Histogram.of(values, 0, 10, 40)
    found = histogram.quantile(q)
    assert found is not None
    lower, upper = np.quantile(values, q, method="lower"), np.quantile(values, q, method="higher")
    assert lower - 0.2501 <= found <= upper + 0.2501


def test_moments_by_hand() -> None:
    # 1, 3: mean 2, mean of squares 5, variance 5 - 4 = 1
    assert (Moments.of([1, 3]).mean, Moments.of([1, 3]).std) == (2.0, 1.0)
    assert (Moments().mean, Moments().std) == (None, None)


def test_different_bins_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different bins"):
        Histogram.of([], 0, 1, 2).merge(Histogram.of([], 0, 1, 3))
