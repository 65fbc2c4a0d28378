"""Scores of cases: by hand, the table of empty masks, and the law that sites' scores add up."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from wardround.core.scores import LabelScores, Scores
from wardround.core.stats import Moments, merge_all
from wardround.metrics.case_rows import flat
from wardround.metrics.overlap import Overlap, overlap
from wardround.metrics.score import score_case

Map = NDArray[np.uint8]
UNIT = (1.0, 1.0, 1.0)


def boxed(*boxes: tuple[int, tuple[slice, ...]], shape: tuple[int, ...] = (10, 10, 10)) -> Map:
    mask = np.zeros(shape, np.uint8)
    for value, place in boxes:
        mask[place] = value
    return mask


def one(reference: Map, prediction: Map, **settings: Any) -> LabelScores:
    scores = score_case(reference, prediction, UNIT, ["lesion"], lesions=["lesion"], **settings)
    assert scores.cases == 1
    return scores.labels["lesion"]


FULL = boxed((1, (slice(2, 6),) * 3))
NONE = boxed()


def test_two_labels_by_hand() -> None:
    """4 x 4 x 4 = 64 voxels of 2 mm^3, the prediction moved by one voxel of 2 mm along the last axis.

    Dice 2 * 48 / 128 = 0.75. Each surface has 64 - 8 = 56 voxels. Of the reference's, those at its first
    layer (16 voxels) have their nearest one 2 mm away. In its second layer the 12 border voxels are the
    prediction's first layer; the third and fourth are its second and third, borders again, but the
    reference's fourth layer also has 4 inner voxels, which lie inside the prediction: their nearest surface
    voxel is 1 mm to the side. So 40 - 4 = 36 at 0, 4 at 1 mm, 16 at 2 mm, the same backwards.
    HD95 2 mm; surface Dice (36 + 4) / 56 at 1 mm. The other label is perfect and has no lesion counts.
    """
    reference = boxed((1, (slice(2, 6),) * 3), (2, (slice(0, 1),) * 3))
    prediction = boxed((1, (slice(2, 6), slice(2, 6), slice(3, 7))), (2, (slice(0, 1),) * 3))
    scores = score_case(reference, prediction, (1, 1, 2), ["tumour", "dot"], lesions=["tumour"], tolerance_mm=1)
    rows = flat(scores)
    assert rows["tumour"] == {
        "dice": pytest.approx(0.75),
        "hd95_mm": pytest.approx(2.0),
        "surface_dice": pytest.approx(40 / 56),
        "volume_difference_ml": 0,
        "absolute_volume_difference_ml": 0,
        "lesions_found": 1,
        "lesions_missed": 0,
        "lesions_true": 1,
        "lesions_false": 0,
        "lesion_f1": 1,
        "lesion_sensitivity": 1,
        "lesion_precision": 1,
    }
    assert rows["dot"]["dice"] == rows["dot"]["surface_dice"] == 1
    assert rows["dot"]["hd95_mm"] == 0
    assert "lesion_f1" not in rows["dot"]
    assert scores.labels["tumour"].dice_histogram.counts[15] == 1  # [0.75, 0.8)
    json.dumps(rows, allow_nan=False)


def test_volumes_are_in_ml_and_signed() -> None:
    """500 voxels of 8 mm^3 are 4 ml; 250 are 2 ml."""
    whole, half = boxed((1, np.s_[:5, :, :])), boxed((1, np.s_[:5, :5, :]))
    less = score_case(whole, half, (2, 2, 2), ["organ"]).labels["organ"]
    more = score_case(half, whole, (2, 2, 2), ["organ"]).labels["organ"]
    assert less.volume_difference.mean == pytest.approx(-2)
    assert more.volume_difference.mean == pytest.approx(2)
    assert less.absolute_volume_difference.mean == more.absolute_volume_difference.mean == pytest.approx(2)
    assert less.lesions is None


def test_overlap_by_hand() -> None:
    counts = overlap(np.array([1, 1, 1, 0, 0], bool), np.array([0, 1, 1, 1, 1], bool))
    assert counts == Overlap(reference=3, prediction=4, both=2)
    assert counts.dice == pytest.approx(4 / 7)
    assert counts.jaccard == pytest.approx(2 / 5)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.precision == pytest.approx(1 / 2)
    nothing = Overlap(0, 0, 0)
    assert (nothing.dice, nothing.jaccard, nothing.sensitivity, nothing.precision) == (None,) * 4


def test_table_both_empty() -> None:
    found = one(NONE, NONE)
    assert found.dice.n == found.dice_histogram.n == found.hd95.n == found.surface_dice.n == 0
    assert (found.both_empty, found.prediction_empty, found.reference_empty) == (1, 0, 0)
    assert found.lesions is not None
    assert found.lesions.f1 is None
    assert found.volume_difference == Moments.of([0.0])


@pytest.mark.parametrize(
    ("reference", "prediction", "empty"), [(FULL, NONE, "prediction_empty"), (NONE, FULL, "reference_empty")]
)
def test_table_one_empty(reference: Map, prediction: Map, empty: str) -> None:
    found = one(reference, prediction)
    assert found.dice == found.surface_dice == Moments.of([0.0])
    assert found.dice_histogram.counts[0] == 1
    assert found.hd95.n == 0
    counted = {name: getattr(found, name) for name in ("both_empty", "prediction_empty", "reference_empty")}
    assert counted == {**dict.fromkeys(counted, 0), empty: 1}
    assert found.lesions is not None
    assert (found.lesions.missed, found.lesions.false) == ((1, 0) if empty == "prediction_empty" else (0, 1))


def test_a_picture_scores_as_its_two_axes() -> None:
    random = np.random.default_rng(0)
    a, b = (random.integers(0, 2, (16, 16)).astype(np.uint8) for _ in range(2))
    assert score_case(a[..., None], b[..., None], UNIT, ["x"], lesions=["x"]) == score_case(
        a, b, (1, 1), ["x"], lesions=["x"]
    )


@pytest.mark.parametrize(
    ("reference", "prediction", "settings", "message"),
    [
        (NONE, NONE[1:], {}, "one shape"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros((0, 4, 4), np.uint8), {}, "one shape"),
        (NONE.astype(np.int64), NONE, {}, "reference must be uint8, not int64"),
        (NONE, FULL * np.uint8(3), {}, "prediction holds the value 3, but only 1 labels"),
        (NONE, NONE, {"lesions": ["tumor"]}, r"lesions are to be counted for \['tumor'\]"),
        (NONE, NONE, {"labels": ["a", "a"]}, "labels must differ"),
        (NONE, NONE, {"spacing": (1, 1)}, "3 positive numbers"),
    ],
)
def test_wrong_arguments_are_named(reference: Map, prediction: Map, settings: dict[str, Any], message: str) -> None:
    arguments = {"spacing": UNIT, "labels": ["tumour"], **settings}
    with pytest.raises(ValueError, match=message):
        score_case(reference, prediction, **arguments)


PAIRS = st.lists(
    st.tuples(*[hnp.arrays(np.uint8, (5, 4, 3), elements=st.integers(0, 2), fill=st.just(0))] * 2),
    min_size=1,
    max_size=6,
)


@given(data=st.data(), pairs=PAIRS)
def test_sites_scores_add_up_to_the_pooled_ones(data: st.DataObject, pairs: list[tuple[Map, Map]]) -> None:
    cases = [score_case(a, b, (1, 1, 3), ["a", "b"], lesions=["b"]) for a, b in pairs]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(cases)), max_size=3)))
    order = data.draw(st.permutations(cases))
    sites = [order[i:j] for i, j in zip([0, *cuts], [*cuts, len(cases)], strict=True)]
    merged = merge_all((merge_all(site, Scores()) for site in sites), Scores())
    assert merged.cases == len(cases)
    for name in ("a", "b"):
        assert_pooled(merged.labels[name], [case.labels[name] for case in cases])
    dice = [label.dice.mean for case in cases for label in case.labels.values() if label.dice.mean is not None]
    assert merged.mean_dice == (pytest.approx(sum(dice) / len(dice)) if dice else None)


def assert_pooled(found: LabelScores, cases: list[LabelScores]) -> None:
    """Against sums over the list of cases' own values."""
    for field in ("dice", "hd95", "surface_dice", "volume_difference", "absolute_volume_difference"):
        values = [getattr(case, field).mean for case in cases if getattr(case, field).n]
        pooled, merged = Moments.of(values), getattr(found, field)
        assert merged.n == pooled.n
        assert merged.total == pytest.approx(pooled.total)
        assert merged.squares == pytest.approx(pooled.squares)
    for field in ("both_empty", "prediction_empty", "reference_empty"):
        assert getattr(found, field) == sum(getattr(case, field) for case in cases)
    counts = zip(*(case.dice_histogram.counts for case in cases), strict=True)
    assert found.dice_histogram.counts == tuple(map(sum, counts))
    assert (found.lesions is None) == (cases[0].lesions is None)
    if found.lesions is not None:
        each = [case.lesions.model_dump() for case in cases if case.lesions is not None]
        assert found.lesions.model_dump() == {key: sum(one[key] for one in each) for key in each[0]}


@given(pair=PAIRS.map(lambda pairs: pairs[0]))
def test_a_perfect_answer_is_perfect(pair: tuple[Map, Map]) -> None:
    for label in score_case(pair[0], pair[0], UNIT, ["a", "b"], lesions=["a", "b"]).labels.values():
        assert label.dice.mean in (None, 1)
        assert label.surface_dice.mean in (None, 1)
        assert label.hd95.mean in (None, 0)
        assert label.absolute_volume_difference.mean == 0
        assert label.lesions is not None
        assert label.lesions.f1 in (None, 1)
