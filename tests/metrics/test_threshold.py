"""The best single brightness threshold, against a search by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.metrics.threshold import best_threshold_dice, standardise


def _dice(prediction: np.ndarray, reference: np.ndarray) -> float:
    return 2 * float((prediction & reference).sum()) / float(prediction.sum() + reference.sum())


def test_a_lesion_that_is_simply_brighter_is_found_whole() -> None:
    image = np.arange(1.0, 101.0).reshape(10, 10)
    threshold, dice = best_threshold_dice([image], [image > 80])
    assert dice == pytest.approx(1.0, abs=0.02)
    assert threshold == pytest.approx(81, abs=1)


def test_a_z_score_rescues_cases_on_different_scales() -> None:
    image = np.arange(1.0, 101.0)
    _, dice = best_threshold_dice([image, image * 1000], [image > 80, image > 80])
    assert dice > 0.95


def test_noise_is_not_found() -> None:
    rng = np.random.default_rng(1)
    images = [rng.uniform(1, 2, 4000) for _ in range(3)]
    masks = [rng.uniform(size=4000) < 0.02 for _ in range(3)]
    assert best_threshold_dice(images, masks)[1] < 0.12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_few_values_are_searched_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 30, 200).astype(float)
    mask = rng.uniform(size=200) < image / 60
    mask[0] = True
    by_hand = max(_dice(image >= t, mask) for t in np.unique(image))
    assert best_threshold_dice([image], [mask])[1] == pytest.approx(by_hand)


def test_cases_without_foreground_count_nothing_where_nothing_is_predicted() -> None:
    image = np.arange(1.0, 101.0)
    empty = best_threshold_dice([image, np.ones(100)], [image > 80, np.zeros(100)])[1]
    assert empty == pytest.approx(1.0, abs=0.02)
    assert best_threshold_dice([image], [np.zeros(100)])[1] == 0


def test_what_lies_outside_the_body_is_never_bright() -> None:
    scaled = standardise(np.array([0.0, -3.0, -1.0]))
    assert scaled[0] == -np.inf
    assert scaled[1:].tolist() == [-1.0, 1.0]
    assert np.isneginf(standardise(np.zeros(3))).all()
    assert standardise(np.array([5.0, 5.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("images", "masks"), [([], []), ([np.ones(3)], []), ([np.ones(3)], [np.ones(4)])])
def test_cases_that_do_not_match_are_refused(images: list[np.ndarray], masks: list[np.ndarray]) -> None:
    with pytest.raises(ValueError, match=r"expected one mask|differ in shape"):
        best_threshold_dice(images, masks)
