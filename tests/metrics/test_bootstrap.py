"""Intervals over patients: laws, and one worked by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.metrics.bootstrap import bootstrap, site_means

VALUES = st.dictionaries(
    st.sampled_from(["A", "B", "C"]),
    st.dictionaries(
        st.text("pq", min_size=1, max_size=3), st.lists(st.floats(0, 1), min_size=1, max_size=3), min_size=1, max_size=5
    ),
    min_size=1,
)


@settings(max_examples=30, deadline=None)
@given(VALUES)
def test_every_interval_lies_within_the_patients_means(values: dict[str, dict[str, list[float]]]) -> None:
    found = bootstrap(values, resamples=200)
    for site, patients in values.items():
        means = [sum(cases) / len(cases) for cases in patients.values()]
        assert min(means) - 1e-12 <= found[site].low <= found[site].high <= max(means) + 1e-12
    assert found["worst"].value == min(site_means(values).values())
    assert found["worst"].high <= found["mean"].high + 1e-12


def test_two_patients_by_hand() -> None:
    """Patients 0 and 1: a resample is 0, 1/2 or 1 with probability 1/4, 1/2, 1/4.

    The 2.5 % quantile is 0 and the 97.5 % quantile 1, since 1/4 of the resamples lies at each end.
    """
    interval = bootstrap({"A": {"p": [0.0], "q": [1.0]}})["A"]
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


def test_a_patients_cases_stay_together() -> None:
    """One patient with scans 0 and 1 has no spread between patients: the interval is the mean itself."""
    interval = bootstrap({"A": {"p": [0.0, 1.0]}})["A"]
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_patients_with_more_scans_weigh_more() -> None:
    """Scans 0, 0, 0 of p and 1 of q: mean 1/4, and a resample of (p, q) is their 4 scans' mean again."""
    values = {"A": {"p": [0.0, 0.0, 0.0], "q": [1.0]}}
    assert site_means(values) == {"A": 0.25}
    assert bootstrap(values)["A"].value == 0.25


def test_nothing_scored_gives_nothing() -> None:
    assert bootstrap({}) == {}
    assert bootstrap({"A": {}}) == {}


def test_the_same_seed_gives_the_same_interval() -> None:
    values = {"A": {str(i): [i / 10] for i in range(10)}}
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
