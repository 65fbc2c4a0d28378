"""Previews show what is wrong: sides, proportions, outlines."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from wardround.core.errors import StorageError
from wardround.data.case import Case
from wardround.data.overlay import BOTH, PALETTE, PREDICTION, REFERENCE, volume_rows
from wardround.data.preview import render_overlay, write_preview

SHAPE = (20, 24, 8)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(int(part) for part in colour) for colour in np.unique(np.asarray(picture).reshape(-1, 3), axis=0)}


def case(affine: np.ndarray | None = None) -> Case:
    image = np.full((1, *SHAPE), 50, np.float32)
    image[0, 12:18] = 100
    label = np.zeros(SHAPE, np.uint8)
    label[13:17, 8:14, 2:5] = 1
    label[13:17, 14:18, 2:5] = 2
    return Case(image, label, np.diag([1.0, 1, 3, 1]) if affine is None else affine)


def test_each_label_has_a_colour() -> None:
    subject = case()
    shown = render_overlay(subject.image, subject.label, spacing=subject.spacing, title="c", names=("one", "two"))
    assert {PALETTE[0], PALETTE[1]} <= colours(shown)
    bare = render_overlay(subject.image, None, spacing=subject.spacing)
    assert not {PALETTE[0], PALETTE[1]} & colours(bare)


def test_reference_and_prediction_differ() -> None:
    subject = case()
    assert subject.label is not None
    moved = np.roll(subject.label, 3, axis=1)
    shown = render_overlay(subject.image, subject.label, moved, spacing=subject.spacing)
    assert {REFERENCE, PREDICTION, BOTH} <= colours(shown)
    assert PREDICTION in colours(render_overlay(subject.image, None, moved))


def test_proportions_are_physical() -> None:
    subject = case()
    ((axial, coronal, sagittal),) = volume_rows(subject.image, subject.label, None, subject.spacing)
    inner = [(panel.width - 44, panel.height - 44) for panel in (axial, coronal, sagittal)]
    for (width, height), expected in zip(inner, (20 / 24, 20 / 24, 24 / 24), strict=True):
        assert width / height == pytest.approx(expected, rel=0.01)


def test_right_is_shown_left_whatever_the_storage(tmp_path: Path) -> None:
    subject = case()
    write_preview(subject, tmp_path / "a.png")
    turned = nib.Nifti1Image(subject.image[0], subject.affine).as_reoriented([[2, -1], [0, -1], [1, 1]])
    label = nib.Nifti1Image(subject.label, subject.affine).as_reoriented([[2, -1], [0, -1], [1, 1]])
    other = Case(np.asarray(turned.dataobj)[None], np.asarray(label.dataobj), turned.affine)
    assert other.image.shape != subject.image.shape
    write_preview(other, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    axial = np.asarray(volume_rows(subject.image, subject.label, None, subject.spacing)[0][0])[22:-22, 22:-22]
    marked = (axial == PALETTE[0]).all(axis=-1).nonzero()[1]
    assert marked.max() < axial.shape[1] / 2  # high X is the patient's right, which is shown on the left


def test_pictures_and_flat_volumes(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (3, 30, 40, 1)).astype(np.float32)
    label = np.zeros((30, 40, 1), np.uint8)
    label[5:20, 5:20] = 1
    write_preview(Case(image, label, np.eye(4), picture=True), tmp_path / "p.png", title="p")
    with Image.open(tmp_path / "p.png") as shown:
        assert shown.width > 2 * 640
    flat = render_overlay(image[:1], None, picture=True)
    assert flat.width < 700
    assert len(volume_rows(image[:1], label, None, (1, 1, 1))[0]) == 1


def test_odd_voxels_and_texts() -> None:
    for value in (0.0, np.nan, np.inf, -3.0):
        shown = render_overlay(
            np.full((1, *SHAPE), value, np.float32), np.zeros(SHAPE, np.uint8), title="\ud800\x1b[31m"
        )
        assert shown.width > 0
    many = np.arange(np.prod(SHAPE)).reshape(SHAPE) % 250
    assert render_overlay(np.ones((6, *SHAPE), np.float32), many).height < 3000


def test_no_picture_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_preview(case(), tmp_path / "absent" / "a.png")
