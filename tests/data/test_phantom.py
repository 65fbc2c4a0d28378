"""Synthetic hospitals: repeatable, labelled SYNTHETIC, different from each other, and beyond a threshold."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from wardround.core.errors import InputError, StorageError
from wardround.data.dataset import open_dataset
from wardround.data.phantom import SCANNERS, write_hospitals
from wardround.data.phantom.atlas import load_atlas
from wardround.data.phantom.fields import smooth_noise
from wardround.metrics.threshold import best_threshold_dice

NAMES = [scanner.name for scanner in SCANNERS]
ONE_EACH = dict.fromkeys(NAMES, 1)


@pytest.fixture(scope="module", autouse=True)
def _nilearn() -> None:
    pytest.importorskip("nilearn", reason="needs nilearn, which ships the average brain: pip install 'wardround[demo]'")


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("coarse"), seed=3, cases=ONE_EACH, spacing=4.0)


@pytest.fixture(scope="module")
def fine(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hospitals(tmp_path_factory.mktemp("fine"), seed=5, cases=dict.fromkeys(NAMES, 2))


def _voxels(folder: Path, pattern: str) -> list[np.ndarray]:
    return [np.asarray(nibabel.load(path).dataobj) for path in sorted(folder.glob(pattern))]


def test_four_hospitals_in_the_layout_that_datasets_have(coarse: list[Path]) -> None:
    assert [folder.name for folder in coarse] == [f"site_{name}" for name in NAMES]
    for folder in coarse:
        dataset = open_dataset(folder)
        assert dataset.spec.synthetic
        assert dataset.spec.description.startswith("SYNTHETIC")
        assert dataset.modalities == ("FLAIR", "T1")
        (case,) = dataset.cases
        assert case.mask is not None
        assert case.subject == case.id


def test_every_file_says_synthetic(coarse: list[Path]) -> None:
    for folder in coarse:
        assert "SYNTHETIC" in (folder / "README.md").read_text(encoding="utf-8")
        paths = sorted(folder.rglob("*.nii.gz"))
        assert len(paths) == 3
        for path in paths:
            assert nibabel.load(path).header["descrip"].tobytes().rstrip(b"\0") == b"SYNTHETIC"


def test_masks_are_binary_within_the_brain_and_on_the_grid_of_the_images(coarse: list[Path]) -> None:
    for folder in coarse:
        (mask,), images = _voxels(folder, "masks/*"), _voxels(folder, "images/*")
        assert set(np.unique(mask)) == {0, 1}
        for image in images:
            assert image.shape == mask.shape
            assert image.min() == 0
            assert (image[mask > 0] > 0).all()
        affines = [nibabel.load(path).affine for path in folder.rglob("*.nii.gz")]
        assert all(np.array_equal(affine, affines[0]) for affine in affines)


def test_the_same_seed_gives_the_same_voxels_whatever_else_is_asked_for(coarse: list[Path], tmp_path: Path) -> None:
    (again,) = write_hospitals(tmp_path / "a", seed=3, cases={"hill": 2}, spacing=4.0)
    (other,) = write_hospitals(tmp_path / "b", seed=4, cases={"hill": 1}, spacing=4.0)
    for path in (coarse[NAMES.index("hill")]).rglob("*.nii.gz"):
        relative = path.relative_to(path.parents[1])
        before, after, new = (np.asarray(nibabel.load(p / relative).dataobj) for p in (path.parents[1], again, other))
        assert np.array_equal(before, after)
        assert not np.array_equal(before, new)


def test_patients_differ(fine: list[Path]) -> None:
    for folder in fine:
        first, second = _voxels(folder, "images/*_T1.nii.gz")
        brains = first > 0, second > 0
        overlap = (brains[0] & brains[1]).sum() / (brains[0] | brains[1]).sum()
        assert 0.6 < overlap < 0.97


def test_scanners_differ_in_grid_numbers_and_scale(coarse: list[Path]) -> None:
    kinds, brightest, slices = set(), [], set()
    for folder in coarse:
        path = next(folder.glob("images/*_FLAIR.nii.gz"))
        image = nibabel.load(path)
        kinds.add(image.get_data_dtype())
        slices.add(float(image.header.get_zooms()[2]))
        brightest.append(float(np.percentile(np.asarray(image.dataobj), 99)))
    assert kinds == {np.dtype(t) for t in ("u1", "<i2", "<f4")}
    assert slices == {4.0, 6.0}
    assert max(brightest) > 50 * min(brightest)


def test_lesions_are_bright_in_flair_and_darker_than_white_matter_in_t1(fine: list[Path]) -> None:
    for folder in fine:
        for mask, flair, t1 in zip(
            *(_voxels(folder, p) for p in ("masks/*", "images/*_FLAIR*", "images/*_T1*")), strict=True
        ):
            lesion, brain = mask > 0, flair > 0
            assert 0.003 < lesion.sum() / brain.sum() < 0.04
            assert np.median(flair[lesion]) > 1.3 * np.median(flair[brain])
            white_matter = np.percentile(t1[brain], 80)  # the brightest tissue in T1
            assert np.median(t1[lesion]) < 0.75 * white_matter


def test_no_flair_threshold_finds_the_lesions(fine: list[Path]) -> None:
    for folder in fine:
        _, dice = best_threshold_dice(_voxels(folder, "images/*_FLAIR*"), _voxels(folder, "masks/*"))
        assert dice < 0.30


def test_progress_counts_every_case(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    folders = write_hospitals(
        tmp_path, 1, {"river": 1, "coast": 2}, spacing=8.0, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert [folder.name for folder in folders] == ["site_river", "site_coast"]


def test_all_faults_of_a_request_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_hospitals(tmp_path / "out", 1, {"nowhere": 2, "north": -1}, spacing=0.2)
    assert [fault.field for fault in caught.value.faults] == ["cases.nowhere", "cases.north", "spacing"]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file, where a folder should be")
    with pytest.raises(StorageError):
        write_hospitals(tmp_path / "out", 1, ONE_EACH, spacing=8.0)


def test_without_nilearn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "nilearn", None)
    load_atlas.cache_clear()
    with pytest.raises(InputError, match=r"wardround\[demo\]"):
        write_hospitals(tmp_path / "out", 1, ONE_EACH)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [5.0, 30.0])
def test_smooth_noise_has_unit_variance_and_is_smooth(length: float) -> None:
    rng = np.random.default_rng(0)
    fields = np.stack([smooth_noise(rng, (40, 44, 36), 2.0, length) for _ in range(12)])
    assert abs(float(fields.std()) - 1) < 0.15
    steps = np.abs(np.diff(fields, axis=1)).mean()
    assert steps < 2.5 * 2.0 / length
