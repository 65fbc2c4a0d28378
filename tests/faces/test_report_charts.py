"""Charts and words: laws that hold for any numbers."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
import report_fixtures as made
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.stats import Histogram, Moments
from wardround.faces.report import bars, svg
from wardround.faces.report.curves import Curves, Line, curves
from wardround.faces.report.shown import counted, decimal, duration, listed, percent, ranges, signed, size
from wardround.faces.report.spans import spans
from wardround.faces.report.words import plan_words, stop_words

NUMBERS = st.floats(-1e12, 1e12, allow_nan=False)
BROKEN = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


@given(NUMBERS, NUMBERS, st.integers(1, 10))
def test_ticks_are_few_and_inside(low: float, high: float, wanted: int) -> None:
    low, high = min(low, high), max(low, high)
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-6):
        return
    marks = svg.ticks(low, high, wanted)
    slack = (high - low) * 1e-6
    assert all(low - slack <= mark <= high + slack for mark in marks)
    assert len(marks) <= 2 * wanted + 2
    assert all(svg.tick_text(mark, marks) for mark in marks)


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_are_spread_in_order_and_stay_inside(places: list[float]) -> None:
    moved = svg.spread(places, 17, 0, 300)
    assert all(-1e-6 <= place <= 300 + 1e-6 for place in moved)
    ordered = sorted(moved)
    apart = min(17, 300 / max(len(places) - 1, 1))
    assert all(b - a >= apart - 1e-6 for a, b in pairwise(ordered))
    assert [moved[i] for i in sorted(range(len(places)), key=lambda i: places[i])] == ordered


@given(
    st.lists(st.dictionaries(st.integers(1, 80), NUMBERS, max_size=30), max_size=10),
    st.one_of(st.none(), st.integers(0, 90)),
)
def test_curves_never_hold_a_broken_number(series: list[dict[int, float]], best: int | None) -> None:
    lines = [Line(f"site {i}", values, style=i if i < 8 else None) for i, values in enumerate(series)]
    drawn = curves(Curves("words", "axis", lines, best, ceiling=1.0))
    assert (drawn is None) == (not any(series))
    assert not BROKEN.search(drawn or "")


def test_a_gap_is_joined_by_dots_and_marked() -> None:
    full, gap = {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, {1: 0.1, 4: 0.4}
    drawn = str(curves(Curves("w", "a", [Line("A", full, 0), Line("B", gap, 1)])))
    assert drawn.count('class="absent') == 2
    assert drawn.count('class="bridge') == 1
    sparse = {2: 0.1, 4: 0.2}  # validated every second round: nobody is missing
    assert "absent" not in str(curves(Curves("w", "a", [Line("A", sparse, 0), Line("B", sparse, 1)])))


@given(st.lists(st.lists(st.floats(-1e9, 1e9), max_size=5), min_size=1, max_size=6))
def test_ranges_never_hold_a_broken_number(groups: list[list[float]]) -> None:
    drawn = spans("title", "mm", [(f"s{i}", Moments.of(values)) for i, values in enumerate(groups)])
    assert (drawn is None) == (not any(groups))
    assert not BROKEN.search(drawn or "")


def test_values_far_apart_get_a_scale_of_powers() -> None:
    drawn = str(spans("T1", "", [("A", Moments.of([9.0, 11.0])), ("B", Moments.of([2e5, 9e5]))]))
    assert "log scale" in drawn
    assert ">10⁵<" in drawn
    assert "log scale" not in str(spans("T1", "", [("A", Moments.of([10.0])), ("B", Moments.of([90.0]))]))


@given(st.lists(st.floats(-3, 4), min_size=1, max_size=50))
def test_histograms_keep_every_case(values: list[float]) -> None:
    drawn = bars.histogram("lesion", Histogram.of(values, -3, 4, 28), 1.0)
    assert sum(int(n) for n in re.findall(r": (\d+)</title>", drawn)) == len(values)


@pytest.mark.parametrize(
    ("log", "words"),
    [(-3, "1 µl"), (-1, "0.1 ml"), (0, "1 ml"), (2, "100 ml"), (3, "1 l"), (math.log10(3.2), "3.2 ml")],
)
def test_volumes_in_words(log: float, words: str) -> None:
    assert bars.volume(log) == words


def test_numbers_in_words() -> None:
    assert (decimal(0.7421), decimal(None), decimal(-0.5, 1)) == ("0.742", "–", "−0.5")
    assert (signed(0.0312), signed(-0.0312), signed(-0.0001), signed(None)) == ("+0.031", "−0.031", "0.000", "–")
    assert percent(0.9749) == "97.5\u00a0%"
    assert [size(n) for n in (12, 1_540, 3_482_112, 250_000_000)] == [
        "12\u00a0B",
        "1.5\u00a0kB",
        "3.5\u00a0MB",
        "250\u00a0MB",
    ]
    assert [duration(s) for s in (0, 0.42, 38, 60, 725, 12_000)] == [
        "0\u00a0s",
        "0.42\u00a0s",
        "38\u00a0s",
        "1\u00a0min",
        "12\u00a0min 5\u00a0s",
        "3\u00a0h 20\u00a0min",
    ]
    assert (counted(1, "case"), counted(2, "case")) == ("1 case", "2 cases")
    assert listed(["A", "B", "C"]) == "A, B and C"
    assert ranges([7, 3, 5, 6]) == "3, 5–7"


def test_plan_in_words_survives_any_part_missing() -> None:
    for key in made.PLAN:
        less = {name: value for name, value in made.PLAN.items() if name != key}
        assert all(topic.text for topic in plan_words(less, sites=4))
    assert plan_words({})


def test_plan_in_words_says_what_it_must() -> None:
    text = " ".join(
        topic.text for topic in plan_words({**made.PLAN, "strategy": {"name": "fedprox", "mu": 0.1}}, 5, 2e6)
    )
    for words in (
        "30 optimiser steps",
        "FedProx, μ = 0.1",
        "2.0\u00a0MB",
        "at least 3 of the 5 sites",
        "neither adds noise",
    ):
        assert words in text


def test_stop_in_words() -> None:
    assert stop_words(made.PLAN, {"reason": "limit", "rounds": 20}, 20) == (
        "done",
        "Complete: the limit of 20 rounds was reached",
    )
    assert stop_words(made.PLAN, None, None)[0] == "open"
    stopped = {"reason": "aborted", "rounds": 2}
    assert "it can be resumed" in stop_words(made.PLAN, stopped, 2)[1]
    assert stop_words(made.PLAN, stopped, 2, network=True)[1].startswith("Aborted after 2 rounds, for good")
    assert "wardround coordinator resume" in stop_words(made.PLAN, {**stopped, "reason": "failed"}, 2, network=True)[1]
