"""Folders become cases, whichever layout they have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dataset_folders import describe, touch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.core.errors import CaseError, DatasetError, InputError
from wardround.data.case import CaseFiles, Source
from wardround.data.dataset import Dataset, open_dataset, resolve_modalities
from wardround.data.spec import DatasetSpec


def images(dataset: Dataset) -> dict[str, list[str]]:
    return {case.id: sorted(case.images) for case in dataset.cases}


def codes(dataset: Dataset) -> list[tuple[str, str]]:
    return [(note.case, note.code) for note in dataset.notes]


def test_modalities_are_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_1_FLAIR.nii.gz", "images/a_1_T1.nii.gz", "images/a_1_b_FLAIR.nii", "images/a_1_b_T1.nii")
    touch(tmp_path, "masks/a_1_mask.nii.gz", "masks/a_1_b_lesions.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "images + masks"
    assert images(dataset) == {"a_1": ["FLAIR", "T1"], "a_1_b": ["FLAIR", "T1"]}
    assert all(case.mask is not None for case in dataset.cases)
    assert dataset.modalities == ("FLAIR", "T1")
    assert not dataset.subjects_known


def test_names_that_only_look_like_suffixes(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *(f"{folder}/{name}.png" for folder in ("images", "masks") for name in ("hrf_01_h", "hrf_01_dr", "c_2")),
    )
    touch(tmp_path, "images/hrf_01.png", "images/c_2_x.png")
    dataset = open_dataset(tmp_path)
    assert images(dataset) == {name: [""] for name in ("c_2", "c_2_x", "hrf_01", "hrf_01_dr", "hrf_01_h")}
    assert [case.id for case in dataset.cases if case.mask is None] == ["c_2_x", "hrf_01"]


def test_images_without_masks(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_FLAIR.nii.gz", "images/b_flair.nii.gz", "images/b_T1w.nii.gz", "masks/a.nii.gz")
    touch(tmp_path, "masks/z_mask.nii.gz")
    dataset = open_dataset(tmp_path)
    assert images(dataset) == {"a": ["FLAIR"], "b": ["T1w", "flair"]}
    assert codes(dataset) == [("z", "mask_without_image")]
    bare = touch(tmp_path / "bare", "images/x_1_T2.nii", "images/x_2_odd.nii", "images/y_2.nii")
    assert images(open_dataset(bare)) == {"x_1": ["T2"], "x_2_odd": [""], "y_2": [""]}
    known = open_dataset(bare, DatasetSpec(modalities={"odd": "PET"}))
    assert images(known) == {"x_1": ["T2"], "x_2": ["PET"], "y_2": [""]}


def test_ambiguous_and_foreign_files_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a_T1.nii", "images/a_T1.nii.gz", "images/a_T2.nii", "masks/a.nii", "masks/a_mask.nii")
    touch(tmp_path, "images/.DS_Store", "images/._a_T1.nii", "images/a.dcm", "masks/readme.txt")
    dataset = open_dataset(tmp_path)
    assert images(dataset) == {"a": ["T2"]}
    assert dataset.cases[0].mask is None
    assert sorted(codes(dataset)) == [("", "ignored_file")] * 2 + [("a", "ambiguous_file")] * 2


def test_links_may_lead_out_of_the_folder(tmp_path: Path) -> None:
    archive = touch(tmp_path / "archive", "one.nii.gz", "two.nii.gz")
    site = touch(tmp_path / "site", "images/b.nii.gz")
    (site / "images" / "a.nii.gz").symlink_to(archive / "one.nii.gz")
    (site / "images" / "gone.nii.gz").symlink_to(archive / "gone.nii.gz")
    assert sorted(images(open_dataset(site))) == ["a", "b", "gone"]


def test_nnunet_version_2(tmp_path: Path) -> None:
    describe(tmp_path, channel_names={"0": "FLAIR", "1": "T1"}, labels={"background": 0, "lesion": 1, "all": [1, 2]})
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "nnU-Net / Decathlon"
    assert images(dataset) == {"a": ["FLAIR", "T1"], "b": ["FLAIR"]}
    assert dataset.spec.labels == {0: "background", 1: "lesion"}
    assert dataset.cases[0].mask == tmp_path / "labelsTr/a.nii.gz"
    assert open_dataset(tmp_path, DatasetSpec(labels={5: "x"})).spec.labels == {5: "x"}


def test_decathlon_with_channels_in_one_file(tmp_path: Path) -> None:
    describe(tmp_path, modality={"0": "FLAIR", "1": "T1w"}, labels={"0": "background", "1": "edema"}, training=[{}])
    touch(tmp_path, "imagesTr/BRATS_001.nii.gz", "imagesTr/._BRATS_001.nii.gz", "labelsTr/BRATS_001.nii.gz")
    dataset = open_dataset(tmp_path)
    path = tmp_path / "imagesTr/BRATS_001.nii.gz"
    assert dataset.cases[0].images == {"FLAIR": Source(path, 0), "T1w": Source(path, 1)}
    assert dataset.spec.labels == {0: "background", 1: "edema"}


def test_nnunet_variants(tmp_path: Path) -> None:
    colour = describe(tmp_path / "colour", channel_names={"0": "R", "1": "G", "2": "B"}, labels={})
    touch(colour, "imagesTr/a_0000.png", "labelsTr/a.png", "labelsTr/z.png")
    dataset = open_dataset(colour)
    assert [source.channel for source in resolve_modalities(dataset.cases[0], ["R", "G", "B"])] == [0, 1, 2]
    assert codes(dataset) == [("z", "mask_without_image")]
    plain = touch(tmp_path / "plain", "imagesTr/a_0000.nii", "imagesTr/b_0000.nii", "imagesTr/b_0001.nii")
    assert images(open_dataset(plain)) == {"a": [""], "b": ["0000", "0001"]}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "[]",
            "3",
            '{"labels": 3}',
            '{"labels": {"a": {}}}',
            '{"labels": {"a": 1, "b": 1}}',
            '{"modality": []}',
        ),
        *('{"channel_names": {"x": "T1"}}', '{"channel_names": {"-1": "T1"}}', "[" * 100_000, " " * (5 << 20), "\xff"),
        json.dumps({"labels": {"a" * 1000: 1}}),
    ],
)
def test_a_bad_dataset_json_is_refused(tmp_path: Path, text: str) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii")
    (tmp_path / "dataset.json").write_text(text, encoding="latin-1")
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        open_dataset(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(["labels", "channel_names", "modality"]), json_values))
def test_any_dataset_json_is_read_or_refused(tmp_path: Path, content: dict[str, object]) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii")
    describe(tmp_path, **content)
    try:
        dataset = open_dataset(tmp_path)
    except DatasetError:
        return
    assert len(dataset.cases) == 1


def test_bids(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_FLAIR.nii.gz", "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz")
    touch(tmp_path, "sub-01/ses-a/anat/sub-01_ses-a_T1w.json", "sub-02/anat/sub-02_acq-sag_T1w.nii")
    touch(tmp_path, "sub-02/anat/sub-02_acq-ax_T1w.nii", "sub-02/anat/sub-02_FLAIR.nii", "participants.tsv")
    deep = "derivatives/manual/v2"
    touch(tmp_path, f"{deep}/sub-01/ses-a/anat/sub-01_ses-a_label-lesion_mask.nii.gz")
    touch(tmp_path, f"{deep}/sub-01/ses-a/anat/sub-01_ses-a_desc-brain_mask.nii.gz")
    touch(tmp_path, "derivatives/labels/sub-02/anat/sub-02_dseg.nii", "derivatives/labels/sub-03/anat/sub-03_dseg.nii")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "BIDS"
    assert images(dataset) == {"sub-01_ses-a": ["FLAIR", "T1w"], "sub-02": ["FLAIR", "acq-ax_T1w", "acq-sag_T1w"]}
    assert [case.subject for case in dataset.cases] == ["sub-01", "sub-02"]
    assert dataset.subjects_known
    assert dataset.cases[0].mask is not None
    assert dataset.cases[0].mask.name == "sub-01_ses-a_label-lesion_mask.nii.gz"
    assert codes(dataset) == [("sub-03", "mask_without_image")]
    named = open_dataset(tmp_path, DatasetSpec(modalities={"acq-ax_T1w": "T1"}))
    assert images(named)["sub-02"] == ["FLAIR", "T1", "acq-sag_T1w"]
    touch(tmp_path, "derivatives/other/sub-02/anat/sub-02_desc-x_mask.nii")
    assert open_dataset(tmp_path).cases[1].mask is None


def test_the_spec_file_counts_unless_one_is_given(tmp_path: Path) -> None:
    touch(tmp_path, "images/c_01L.png", "images/c_01R.png", "images/other.png")
    (tmp_path / "dataset.yaml").write_text("subject: '(c_[0-9]+)'\nsynthetic: true\n")
    dataset = open_dataset(tmp_path)
    assert [case.subject for case in dataset.cases] == ["c_01", "c_01", None]
    assert codes(dataset) == [("other", "subject_unknown")]
    assert dataset.spec.synthetic
    assert not open_dataset(tmp_path, DatasetSpec()).spec.synthetic
    (tmp_path / "dataset.yaml").write_text("subjekt: bids\n")
    with pytest.raises(InputError, match="did you mean 'subject'"):
        open_dataset(tmp_path)


def test_folders_that_are_no_datasets(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not a folder"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(DatasetError, match="no layout that is known"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="holds no image"):
        open_dataset(touch(tmp_path, "images/x.dcm"))


def files(**sources: Source) -> CaseFiles:
    return CaseFiles("c", sources, None)


HERE = Path("x.nii")


def test_modalities_are_matched_kindly_but_not_loosely() -> None:
    case = files(flair=Source(HERE), T1w=Source(HERE, 1), T1ce=Source(HERE, 2))
    assert [s.channel for s in resolve_modalities(case, ["T1", "FLAIR", "T1CE"])] == [1, None, 2]
    with pytest.raises(CaseError, match="no T2, no PD; there is T1ce, T1w, flair") as caught:
        resolve_modalities(case, ["T2", "FLAIR", "PD"])
    assert caught.value.code == "missing_modality"
    with pytest.raises(CaseError, match="no t-1"):
        resolve_modalities(files(T1=Source(HERE), T1w=Source(HERE)), ["t-1"])
    assert resolve_modalities(files(T1=Source(HERE, 5), T1w=Source(HERE)), ["T1"])[0].channel == 5


def test_an_image_without_a_name_serves() -> None:
    case = CaseFiles("c", {"": Source(HERE)}, None)
    assert resolve_modalities(case, ["T1"]) == (Source(HERE),)
    assert [s.channel for s in resolve_modalities(case, ["red", "green", "blue"])] == [0, 1, 2]
    assert [s.channel for s in resolve_modalities(case, ["green"])] == [1]
    assert [s.channel for s in resolve_modalities(case, ["a", "b"])] == [0, 1]


@pytest.mark.parametrize(
    ("site", "cases", "modalities"),
    [
        ("hippocampus_msd/site_H1_uint8", 39, ("",)),
        ("ms_semisynthetic_4site/site_A_3T_iso", 7, ("FLAIR", "T1")),
        ("retina_vessels_multisite/site_HRF_Erlangen", 31, ("",)),
        ("spinalcord_gm_multicentre/site_Milan_Siemens1p5T", 2, ("",)),
    ],
)
def test_the_shared_sites(shared_data: Path, site: str, cases: int, modalities: tuple[str, ...]) -> None:
    dataset = open_dataset(shared_data / site)
    assert len(dataset.cases) == cases
    assert dataset.modalities == modalities
    assert all(case.mask is not None for case in dataset.cases)
    assert not dataset.notes
