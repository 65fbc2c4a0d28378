"""Lesions as connected components, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wardround.core.scores import LesionCounts
from wardround.metrics.lesions import lesions
from wardround.metrics.masks import Mask

UNIT = (1.0, 1.0, 1.0)


def line(*pieces: tuple[int, int], length: int = 100) -> Mask:
    """Runs (start, end) on a line of voxels through a volume."""
    mask = np.zeros((3, 3, length), bool)
    for start, end in pieces:
        mask[1, 1, start:end] = True
    return mask


def test_found_missed_true_and_false_by_hand() -> None:
    """Reference: 0-9, 20-29, 40-49. Prediction: 5-14 (half of the first), 45-54, 70-79, 90-99.

    The first and third are found, the second is missed; two predictions are true, two false.
    """
    counts = lesions(line((0, 10), (20, 30), (40, 50)), line((5, 15), (45, 55), (70, 80), (90, 100)), UNIT)
    assert counts == LesionCounts(found=2, missed=1, true=2, false=2)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.precision == pytest.approx(1 / 2)
    assert counts.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))  # 4 / 7


@pytest.mark.parametrize(("covered", "found"), [(6, 0), (7, 1), (8, 1)])
def test_ten_percent_is_enough_and_less_is_not(covered: int, found: int) -> None:
    """7 of 70 voxels are exactly 10 %."""
    counts = lesions(line((0, 70)), line((0, covered)), UNIT)
    assert (counts.found, counts.missed) == (found, 1 - found)
    assert (counts.true, counts.false) == (1, 0)  # it lies wholly inside


def test_a_prediction_mostly_elsewhere_is_false_though_it_finds() -> None:
    """The last voxel of a lesion of 5 (20 %) is the first of a prediction of 50 (2 %)."""
    assert lesions(line((0, 5)), line((4, 54)), UNIT) == LesionCounts(found=1, missed=0, true=0, false=1)


def test_one_prediction_may_find_several() -> None:
    assert lesions(line((0, 5), (7, 12)), line((0, 12)), UNIT) == LesionCounts(found=2, missed=0, true=1, false=0)


def test_corners_connect_in_3d_and_in_pictures() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[2, 2, 2] = True
    assert lesions(mask, mask, UNIT) == LesionCounts(found=1, true=1)
    picture = np.eye(4, dtype=bool)
    assert lesions(picture, picture, (1, 1)) == LesionCounts(found=1, true=1)
    assert lesions(picture[..., None], picture[..., None], UNIT) == LesionCounts(found=1, true=1)
    apart = np.zeros((5, 5, 1), bool)
    apart[0, :4] = apart[2, :4] = True  # a row between them
    assert lesions(apart, apart, UNIT) == LesionCounts(found=2, true=2)


@pytest.mark.parametrize(("minimum", "expected"), [(0, 2), (3, 1), (3.1, 0)])
def test_small_components_count_on_neither_side(minimum: float, expected: int) -> None:
    """Runs of 10 and 2 voxels of 0.3 mm^3: 3.0 and 0.6 mm^3; exactly the minimum counts."""
    mask = line((0, 10), (20, 22))
    assert lesions(mask, mask, (0.5, 0.5, 1.2), minimum) == LesionCounts(found=expected, true=expected)


def test_a_small_prediction_still_covers_what_it_covers() -> None:
    assert lesions(line((0, 4)), line((0, 2)), UNIT, 3) == LesionCounts(found=1, missed=0, true=0, false=0)


def test_the_minimum_is_in_mm3_and_not_in_voxels() -> None:
    mask = line((0, 2))
    assert lesions(mask, mask, (1, 1, 1), 3).found == 0
    assert lesions(mask, mask, (1, 1, 2), 3).found == 1


def test_the_minimum_counts_itself_despite_rounding() -> None:
    mask = line((0, 7))
    assert 2.1 / 0.3 > 7
    assert lesions(mask, mask, (0.3, 1, 1), 2.1).found == 1


def test_empty_masks() -> None:
    full, none = line((0, 10), (20, 30)), line()
    assert lesions(none, none, UNIT) == LesionCounts()
    assert lesions(none, none, UNIT).f1 is None
    assert lesions(full, none, UNIT) == LesionCounts(missed=2)
    assert lesions(none, full, UNIT) == LesionCounts(false=2)
    assert lesions(full, none, UNIT).f1 == 0


@given(data=st.data(), shape=hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=6))
def test_laws_of_lesion_counts(data: st.DataObject, shape: tuple[int, ...]) -> None:
    a, b = (data.draw(hnp.arrays(np.bool_, shape)) for _ in range(2))
    counts = lesions(a, b, UNIT, 2)
    swapped = lesions(b, a, UNIT, 2)
    assert (counts.found, counts.missed) == (swapped.true, swapped.false)
    axes = data.draw(st.permutations(range(3)))
    assert lesions(a.transpose(axes), b.transpose(axes), UNIT, 2) == counts
    assert lesions(a[::-1], b[::-1], UNIT, 2) == counts
    perfect = lesions(a, a, UNIT, 2)
    assert perfect.missed == perfect.false == 0
