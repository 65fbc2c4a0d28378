"""All that is wrong with a case, at once; and what only shows among several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dataset_folders import AFFINE, SHAPE, cube, make_site, save, save_picture, voxels

from wardround.core.errors import InputError
from wardround.data.case import CaseFiles, Source
from wardround.data.checks import CaseTraits, CheckReport, check_dataset, compare, inspect_case
from wardround.data.dataset import open_dataset
from wardround.data.digest import dataset_digest
from wardround.data.findings import CODES, Finding, counts
from wardround.data.spec import DatasetSpec

PLAN = (("FLAIR", "T1"), {"lesion": 1}, 3)


def check(root: Path, plan: bool = True) -> CheckReport:
    report = check_dataset(open_dataset(root), *(PLAN if plan else ()))
    assert {finding.code for finding in report.findings} <= set(CODES)
    return report


def codes(root: Path, case: str = "p1", plan: bool = True) -> set[str]:
    """What is found in one case, while the others stay usable."""
    report = check(root, plan)
    assert set(report.unusable) <= {case}
    return {finding.code for finding in report.findings if finding.case == case}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


def test_a_clean_site(site: Path) -> None:
    for plan in (True, False):
        report = check(site, plan)
        assert report.clean
        assert report.findings == ()
    assert report.labels() == {0: (4, 2688), 1: (4, 192)}
    assert report.traits[0].orientation == "RAS"
    assert report.traits[0].spacing == (1, 1, 2)


def flip(axis: int) -> np.ndarray:
    turn = np.eye(4)
    turn[axis, axis] = -1
    turn[axis, 3] = SHAPE[axis] - 1
    return AFFINE @ turn


def test_damaged_and_missing_files(site: Path) -> None:
    flair = site / "images/p1_FLAIR.nii.gz"
    whole = flair.read_bytes()
    for content in (b"", whole[:-300], b"hello"):
        flair.write_bytes(content)
        assert codes(site) == {"unreadable"}
    flair.unlink()
    assert codes(site) == {"missing_modality"}
    assert codes(site, plan=False) == {"missing_modality"}
    flair.write_bytes(whole)
    (site / "masks/p1_mask.nii.gz").unlink()
    assert codes(site) == {"missing_mask"}
    assert check_dataset(open_dataset(site), *PLAN, need_mask=False).clean


def test_all_faults_of_a_case_at_once(site: Path) -> None:
    (site / "images/p1_FLAIR.nii.gz").write_bytes(b"")
    save(site / "images/p1_T1.nii.gz", voxels(1) * np.nan)
    save(site / "masks/p1_mask.nii.gz", cube(value=9)[:-1])
    assert codes(site) == {"unreadable", "non_finite", "shape_mismatch", "unknown_label"}


@pytest.mark.parametrize("plan", [True, False])
@pytest.mark.parametrize("which", ["masks/p1_mask.nii.gz", "images/p1_T1.nii.gz"])
def test_grids(site: Path, which: str, plan: bool) -> None:
    data = cube() if "mask" in which else voxels(11)
    save(site / which, data[:, :-1])
    assert codes(site, plan=plan) == {"shape_mismatch"}
    moved = AFFINE.copy()
    moved[0, 3] += 0.2
    save(site / which, data, moved)
    assert codes(site, plan=plan) == {"affine_mismatch"}
    rounded = AFFINE.copy()
    rounded[:3, 3] += 0.01
    save(site / which, data, rounded)
    assert codes(site, plan=plan) == set()


@pytest.mark.parametrize(("axis", "name"), [(0, "left-right"), (1, "back-front"), (2, "foot-head")])
def test_a_mask_that_runs_the_other_way(site: Path, axis: int, name: str) -> None:
    save(site / "masks/p1_mask.nii.gz", cube(), flip(axis))
    assert codes(site) == {"flipped_mask"}
    assert name in check(site).findings[0].message
    mirrored = AFFINE.copy()
    mirrored[axis, axis] *= -1  # the same corner, the opposite direction
    save(site / "masks/p1_mask.nii.gz", cube(), mirrored)
    assert codes(site) == {"flipped_mask"}


def test_values(site: Path) -> None:
    broken = voxels(11)
    broken[0, 0, 0] = np.inf
    save(site / "images/p1_T1.nii.gz", broken)
    assert codes(site) == {"non_finite"}
    save(site / "images/p1_T1.nii.gz", voxels(11).astype(np.float64) * 1e300)
    assert codes(site) == {"non_finite"}
    save(site / "images/p1_T1.nii.gz", voxels(11) * 0 + 5)
    assert codes(site) == {"constant_image"}
    save(site / "images/p1_T1.nii.gz", voxels(11) * 50)
    assert codes(site) == {"intensity_outlier"}
    assert check(site).clean


def test_masks(site: Path) -> None:
    mask = site / "masks/p1_mask.nii.gz"
    save(mask, cube(value=0))
    assert codes(site) == {"empty_mask"}
    save(mask, cube(value=4))
    assert codes(site) == {"unknown_label"}
    assert "labels: {4: lesion}" in check(site).findings[0].message
    assert codes(site, plan=False) == set()
    save(mask, cube() * np.float32(0.5))
    assert codes(site) == {"non_integer_label"}
    assert codes(site, plan=False) == {"non_integer_label"}


def test_the_site_s_own_numbers(site: Path) -> None:
    (site / "dataset.yaml").write_text("labels: {4: lesion}\n")
    assert len(check(site).unusable) == 4
    for case in range(4):
        save(site / f"masks/p{case}_mask.nii.gz", cube(value=4))
    assert check(site).clean
    (site / "dataset.yaml").write_text("labels: {4: lesions}\n")
    with pytest.raises(InputError, match="do not fit"):
        check(site)
    assert check(site, plan=False).clean


def test_flat_among_volumes(site: Path) -> None:
    for name in ("images/p1_FLAIR", "images/p1_T1", "masks/p1_mask"):
        (site / f"{name}.nii.gz").unlink()
        flat = np.random.default_rng(len(name)).integers(0, 2, (8, 9), np.uint8)
        save_picture(site / f"{name}.png", flat if "mask" in name else flat * 90)
    assert codes(site) == {"wrong_dimensions"}
    assert codes(site, plan=False) == {"wrong_dimensions"}
    save(site / "images/p1_T1.nii.gz", voxels(3))
    (site / "images/p1_T1.png").unlink()
    assert "wrong_dimensions" in codes(site)


def test_flat_nifti_is_no_volume(tmp_path: Path) -> None:
    site = make_site(tmp_path, cases=3)
    for name in ("images/p1_FLAIR", "images/p1_T1"):
        save(site / f"{name}.nii.gz", voxels(len(name), (8, 9)))
    save(site / "masks/p1_mask.nii.gz", cube()[..., 4])
    assert codes(site) == {"wrong_dimensions"}
    assert check_dataset(open_dataset(site), PLAN[0], PLAN[1], 2).clean


def test_the_same_image_twice(site: Path) -> None:
    save(site / "images/p2_T1.nii", voxels(11))  # the T1 of p1 in another format
    (site / "images/p2_T1.nii.gz").unlink()
    report = check(site)
    assert report.counts() == {"duplicate_image": 1}
    assert report.clean
    assert report.findings[0].case == "p2"
    assert "T1 of p1" in report.findings[0].message
    save(site / "images/p3_T1.nii.gz", voxels(30))
    assert "wrong copy" in next(f.message for f in check(site).findings if f.case == "p3")


def test_outliers_and_orientation() -> None:
    usual = [
        CaseTraits(f"c{i}", shape=SHAPE, spacing=(1, 1, 3), orientation="RAS", scale={"T1": 90.0}) for i in range(4)
    ]
    assert compare(usual) == []
    turned = replace(usual[0], case="t", spacing=(3, 1, 1), orientation="SAR")
    assert [(f.code, f.severity) for f in compare([*usual, turned])] == [("orientation_differs", "note")]
    odd = replace(usual[0], case="o", spacing=(1, 1, 7), scale={"T1": 4000.0})
    assert [f.code for f in compare([*usual, odd])] == ["spacing_outlier", "intensity_outlier"]
    assert compare([usual[0], odd]) == []
    assert compare([CaseTraits("unread")] * 5) == []


def test_decathlon_in_one_file(tmp_path: Path) -> None:
    both = save(tmp_path / "a.nii.gz", np.stack([voxels(1), voxels(2)], axis=-1))
    mask = save(tmp_path / "m.nii.gz", cube())
    named = CaseFiles("a", {"FLAIR": Source(both, 0), "T1": Source(both, 1)}, mask)
    case, found, traits = inspect_case(named, ["T1"], {"lesion": 1}, DatasetSpec())
    assert case is not None
    np.testing.assert_array_equal(case.image[0], voxels(2))
    assert found == []
    case, _, traits = inspect_case(CaseFiles("a", {"": Source(both)}, mask), None, None, DatasetSpec())
    assert case is not None
    assert case.image.shape == (2, *SHAPE)
    assert list(traits.scale) == ["0", "1"]


def test_large_numbers_without_a_plan_become_ranks(tmp_path: Path) -> None:
    mask = cube().astype(np.int32) * 2035
    mask[0, 0, 0] = 70_000
    files = CaseFiles("a", {"": Source(save(tmp_path / "a.nii", voxels()))}, save(tmp_path / "m.nii", mask))
    case, found, traits = inspect_case(files, None, None, DatasetSpec())
    assert case is not None
    assert case.label is not None
    assert sorted(np.unique(case.label)) == [0, 1, 2]
    assert sorted(traits.labels) == [0, 2035, 70_000]
    assert found == []


def test_only_counts_of_cases_leave() -> None:
    findings = [
        Finding("a", "error", "unreadable", "x"),
        Finding("a", "error", "unreadable", "y"),
        Finding("b", "error", "unreadable", "z"),
        Finding("b", "warning", "empty_mask", "z"),
    ]
    assert counts(findings) == {"empty_mask": 1, "unreadable": 2}
    assert counts(findings, "warning") == {"empty_mask": 1}


def test_progress_is_told(site: Path) -> None:
    steps: list[tuple[int, int]] = []
    check_dataset(open_dataset(site), progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_digest_changes_with_any_file(site: Path) -> None:
    secret = b"0123456789abcdef"
    first = dataset_digest(open_dataset(site), secret)
    assert len(first) == 64
    assert dataset_digest(open_dataset(site), secret) == first
    assert dataset_digest(open_dataset(site), b"x" * 16) != first
    assert dataset_digest(open_dataset(site, DatasetSpec(synthetic=True)), secret) != first
    seen = {first}
    for path in sorted(site.rglob("*.nii.gz")):
        whole = path.read_bytes()
        path.write_bytes(whole + b"x")
        seen.add(dataset_digest(open_dataset(site), secret))
        path.write_bytes(whole)
    assert len(seen) == 13
    (site / "images/p0_T1.nii.gz").rename(site / "images/p0_T2.nii.gz")
    assert dataset_digest(open_dataset(site), secret) not in seen
    with pytest.raises(ValueError, match="16 bytes"):
        dataset_digest(open_dataset(site), b"short")


SHARED = (
    *(f"hippocampus_msd/site_{name}" for name in ("H1_uint8", "H2_float_lo", "H3_float_hi", "H4_float_huge")),
    *(f"ms_semisynthetic_4site/site_{name}" for name in ("A_3T_iso", "B_15T_thick", "C_biased", "D_lowcon")),
    *("ms_real_ljubljana/site_ljubljana", "retina_vessels_multisite/site_CHASE_London"),
    "retina_vessels_multisite/site_HRF_Erlangen",
    *(
        f"spinalcord_gm_multicentre/site_{n}"
        for n in ("CHUM_Philips3T", "Milan_Siemens1p5T", "NWU_Siemens3T", "UCL_Philips3T")
    ),
)
TASKS = {
    "hippocampus_msd": (("T1",), {"anterior": 1, "posterior": 2}, 3),
    "ms_semisynthetic_4site": PLAN,
    "ms_real_ljubljana": PLAN,
    "retina_vessels_multisite": (("red", "green", "blue"), {"vessel": 255}, 2),
    "spinalcord_gm_multicentre": (("T2star",), {"white": 1, "grey": 2}, 2),
}


@pytest.mark.parametrize("site_name", SHARED)
def test_the_shared_sites_raise_no_false_alarm(shared_data: Path, site_name: str) -> None:
    modalities, labels, dimensions = TASKS[site_name.split("/", maxsplit=1)[0]]
    report = check_dataset(open_dataset(shared_data / site_name), modalities, labels, dimensions)
    assert report.clean
    assert report.findings == ()
