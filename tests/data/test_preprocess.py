"""Preparing and undoing it: whatever the grid, a prediction comes back to where it was."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.data.case import Case
from wardround.data.preprocess import Geometry, Preprocessing, prepare, resample, resample_label, restore

AXES = [list(order) for order in itertools.permutations(range(3))]


def make_case(order: list[int], signs: list[int], size: tuple[int, int, int], seed: int = 0) -> Case:
    random = np.random.default_rng(seed)
    rotation = np.zeros((3, 3))
    for axis, (target, sign) in enumerate(zip(order, signs, strict=True)):
        rotation[target, axis] = sign * (1.0, 1.5, 3.0)[axis]
    affine = np.eye(4)
    affine[:3, :3] = rotation
    label = np.zeros(size, np.uint8)
    label[2:5, 3:7, 1:4] = 1
    label[5:8, 3:7, 1:4] = 2
    image = random.normal(5, 1, (1, *size)).astype(np.float32)
    image[:, 0] = 0  # something to crop
    return Case(image, label, affine)


def one_hot(label: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.stack([(label == i).astype(np.float32) for i in range(classes)])


@given(st.sampled_from(AXES), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.sampled_from([None, 0, 1, 2]))
@settings(max_examples=60, deadline=None)
def test_restoring_undoes_preparing_exactly_without_resampling(
    order: list[int], signs: tuple[int, int, int], slice_axis: int | None
) -> None:
    case = make_case(order, list(signs), (10, 9, 6))
    prepared = prepare(case, Preprocessing(), slice_axis)
    assert prepared.label is not None
    assert prepared.label.shape == prepared.image.shape[1:]
    assert np.array_equal(restore(one_hot(prepared.label), prepared.geometry), case.label)


@given(st.sampled_from(AXES), st.tuples(*[st.sampled_from([-1, 1])] * 3))
@settings(max_examples=30, deadline=None)
def test_prepared_images_of_one_head_agree_whatever_the_axes(order: list[int], signs: tuple[int, int, int]) -> None:
    """The same head stored along other axes is prepared to the same array."""
    case = make_case([0, 1, 2], [1, 1, 1], (10, 9, 6))
    stored = nib.Nifti1Image(case.image[0], case.affine)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(case.affine), np.array([[o, s] for o, s in zip(order, signs, strict=True)], float)
    )
    turned = stored.as_reoriented(turn)
    other = Case(np.asarray(turned.dataobj, np.float32)[None], None, turned.affine)
    a, b = prepare(case, Preprocessing(spacing=(2, 2, 2))), prepare(other, Preprocessing(spacing=(2, 2, 2)))
    np.testing.assert_allclose(a.image, b.image, atol=1e-5)
    assert a.geometry.spacing == pytest.approx(b.geometry.spacing)


def test_resampled_labels_come_back_nearly_the_same() -> None:
    size = (24, 20, 16)
    label = np.zeros(size, np.uint8)
    label[4:18, 5:15, 4:12] = 1
    case = Case(np.random.default_rng(0).normal(5, 1, (1, *size)).astype(np.float32), label, np.diag([1, 1.2, 2, 1]))
    prepared = prepare(case, Preprocessing(spacing=(1.5, 1.5, 1.5)))
    assert prepared.image.shape == (1, 16, 16, 21)  # 24 * 1 / 1.5, 20 * 1.2 / 1.5, 16 * 2 / 1.5
    assert prepared.label is not None
    back = restore(one_hot(prepared.label, 2), prepared.geometry)
    assert back.shape == size
    dice = 2 * (back & label).sum() / (back.sum() + label.sum())
    assert dice > 0.9


def test_a_picture_keeps_its_own_axes() -> None:
    image = np.arange(24, dtype=np.float32).reshape(1, 4, 6, 1)
    label = (image[0] > 11).astype(np.uint8)
    prepared = prepare(Case(image, label, np.eye(4), picture=True), Preprocessing(normalise="none", crop=False), 2)
    assert prepared.image.shape == (1, 1, 4, 6)
    assert np.array_equal(prepared.image[0, 0], image[0, :, :, 0])
    assert np.array_equal(restore(one_hot(prepared.label, 2), prepared.geometry), label)


@pytest.mark.parametrize("how", ["zscore", "zscore_nonzero", "rescale"])
def test_normalised_images_do_not_depend_on_the_scanners_scale(how: str) -> None:
    case = make_case([0, 1, 2], [1, 1, 1], (10, 9, 6))
    scaled = Case(case.image * 1000, case.label, case.affine)
    settings_ = Preprocessing(normalise=how)  # type: ignore[arg-type]
    np.testing.assert_allclose(prepare(case, settings_).image, prepare(scaled, settings_).image, atol=1e-4)


def test_z_score_by_hand() -> None:
    # 1 and 3 (and a 0 outside): over non-zero voxels mean 2, std 1; the 0 stays 0.
    image = np.array([0.0, 1.0, 3.0], np.float32).reshape(1, 3, 1, 1)
    case = Case(image, None, np.eye(4))
    prepared = prepare(case, Preprocessing(crop=False, normalise="zscore_nonzero"))
    assert prepared.image.reshape(-1).tolist() == [0.0, -1.0, 1.0]


def test_an_image_without_any_voxel_is_prepared_to_zeros() -> None:
    prepared = prepare(Case(np.zeros((1, 3, 3, 3), np.float32), None, np.eye(4)), Preprocessing())
    assert not prepared.image.any()


def test_resampling_keeps_edges_and_invents_no_class() -> None:
    ramp = np.linspace(0, 1, 8, dtype=np.float32)[:, None, None] * np.ones((1, 4, 4), np.float32)
    assert resample(ramp, (8, 4, 4)) is ramp
    fine = resample(ramp, (16, 4, 4), order=1)
    assert fine.min() >= 0
    assert fine.max() <= 1
    label = np.zeros((8, 4, 4), np.uint8)
    label[4:] = 3
    assert set(np.unique(resample_label(label, (13, 4, 4)))) == {0, 3}


def test_geometry_survives_json() -> None:
    geometry = prepare(make_case([2, 0, 1], [1, -1, 1], (10, 9, 6)), Preprocessing(), 1).geometry
    assert Geometry.from_json(geometry.to_json()) == geometry
