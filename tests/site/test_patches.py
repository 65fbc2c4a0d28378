"""Training patches: repeatable, centred where asked, and their labels move with the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tiny import make_plan, plan_dict, write_site
from wardround.core.randomness import rng
from wardround.data.dataset import open_dataset
from wardround.data.store import StoredCase, open_store
from wardround.planning.training import Augmentation
from wardround.site.augment import change_intensity, flip, rotation, warp
from wardround.site.hospital import recipe_of
from wardround.site.patches import Batches, cut

STILL = {"flip": 0, "rotate": 0, "scale": 0, "contrast": 0, "brightness": 0, "gamma": 0, "noise": 0}


@pytest.fixture
def cases(tmp_path: Path) -> tuple[StoredCase, ...]:
    folder = write_site(tmp_path / "data", cases=3)
    return open_store(open_dataset(folder), recipe_of(make_plan()), tmp_path / "store").cases


def training(**changes: object):
    return make_plan(training={**plan_dict()["training"], **changes}).training


def test_a_batch_is_a_function_of_its_update(cases: tuple[StoredCase, ...]) -> None:
    batches = Batches(cases, training(), 7, "A")
    first, again, other = batches.make(5), batches.make(5), batches.make(6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], Batches(cases, training(), 7, "B").make(5)[0])
    assert first[0].shape == (2, 1, 12, 16, 12)
    assert first[1].shape == (2, 1, 12, 16, 12)
    assert first[1].dtype == torch.int64


def test_foreground_patches_hold_foreground(cases: tuple[StoredCase, ...]) -> None:
    for number in range(20):
        _, label = cut(cases[0], (4, 4, 4), 1.0, rng(number, "t"))
        assert label.max() == 1


def test_patches_larger_than_the_image_continue_its_edge(cases: tuple[StoredCase, ...]) -> None:
    image, label = cut(cases[0], (20, 20, 20), 0.0, rng(0, "t"))
    assert image.shape == (1, 20, 20, 20)
    assert label.shape == (1, 20, 20, 20)
    assert torch.equal(image[:, 0], image[:, 1])


def test_2d_patches_come_from_slices(tmp_path: Path) -> None:
    folder = write_site(tmp_path / "data", cases=3)
    plan = make_plan(
        task={"dimensions": 2, "modalities": ["T1"], "labels": {"ball": 1}},
        training={**plan_dict()["training"], "patch": [8, 8]},
    )
    stored = open_store(open_dataset(folder), recipe_of(plan), tmp_path / "store").cases
    assert stored[0].label.shape == (12, 12, 16)  # the slice axis (superior) first
    image, label, _ = Batches(stored, plan.training, 0, "A").make(0)
    assert image.shape == (2, 1, 8, 8)
    assert label.shape == (2, 1, 8, 8)


@pytest.mark.parametrize("patch", [(9, 9), (9, 9, 9)])
def test_warping_by_nothing_is_nothing(patch: tuple[int, ...]) -> None:
    image, label = torch.rand(2, *patch), (torch.rand(1, *patch) > 0.5).float()
    moved, classes = warp(image, label, patch, np.zeros(3), 1.0)
    assert torch.allclose(moved, image, atol=1e-5)
    assert torch.equal(classes, label)


@pytest.mark.parametrize("patch", [(11, 9), (11, 9, 7)])
def test_a_half_turn_is_two_flips(patch: tuple[int, ...]) -> None:
    image, label = torch.rand(1, *patch), (torch.rand(1, *patch) > 0.5).float()
    # 180 degrees: in 2D both axes turn round; in 3D about the third axis, the first two do.
    angles = np.array([180.0, 0, 0]) if len(patch) == 2 else np.array([0, 0, 180.0])
    moved, classes = warp(image, label, patch, angles, 1.0)
    assert torch.allclose(moved, image.flip(1, 2), atol=1e-4)
    assert torch.equal(classes, label.flip(1, 2))


def test_zooming_enlarges() -> None:
    label = torch.zeros(1, 16, 16)
    label[:, 6:10, 6:10] = 1
    _, classes = warp(label, label, (16, 16), np.zeros(3), 2.0)
    assert classes.sum() == 8 * 8


def test_flat_patches_turn_only_within_their_plane() -> None:
    matrix = rotation(np.array([20.0, 30.0, 40.0]), (64, 64, 8))
    assert matrix[2].tolist() == [0, 0, 1]
    assert rotation(np.array([20.0, 30.0, 40.0]), (64, 64, 32))[2, 0] != 0
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)


def test_image_and_label_flip_together() -> None:
    image = torch.arange(8.0).reshape(1, 2, 4)
    flipped, label = flip(image, image.clone(), [1])
    assert torch.equal(flipped, label)
    assert flipped[0, 0].tolist() == [3, 2, 1, 0]


def test_intensity_changes_are_bounded_and_can_be_off() -> None:
    image = torch.randn(2, 8, 8, 8)
    assert torch.equal(change_intensity(image, Augmentation(**STILL), rng(0, "t")), image)
    wild = Augmentation(**{**STILL, "contrast": 1, "brightness": 1, "gamma": 1, "noise": 1})
    changed = change_intensity(image, wild, rng(0, "t"))
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, image)
