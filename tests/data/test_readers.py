"""Every file is voxels or a `CaseError`, whatever its bytes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dataset_folders import AFFINE, SHAPE, cube, save, save_picture, voxels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from wardround.core.errors import CaseError, InputError, StorageError
from wardround.data.case import CaseFiles, Source
from wardround.data.findings import CODES
from wardround.data.readers import read_case, read_image, read_mask, read_volume
from wardround.data.spec import DatasetSpec
from wardround.data.writers import write_label_map


def code(path: Path, *, mask: bool = False) -> str:
    with pytest.raises(CaseError) as caught:
        read_mask(path) if mask else read_volume(path)
    assert caught.value.code in CODES
    return caught.value.code


def raw_nifti(tmp_path: Path) -> bytes:
    return save(tmp_path / "raw.nii", voxels()).read_bytes()


def patched(tmp_path: Path, field: str, value: Any) -> Path:
    """A NIfTI-1 file with one header field overwritten."""
    data = raw_nifti(tmp_path)
    header = nib.Nifti1Header(data[:348], check=False)
    header[field] = value
    path = tmp_path / "patched.nii"
    path.write_bytes(header.binaryblock + data[348:])
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float64])
def test_nifti(tmp_path: Path, name: str, kind: type) -> None:
    volume = read_volume(save(tmp_path / name, voxels().astype(kind)))
    assert volume.voxels.shape == (*SHAPE, 1)
    assert volume.voxels.dtype == np.float32
    np.testing.assert_allclose(volume.voxels[..., 0], voxels().astype(kind), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, AFFINE)


def test_nifti_2_and_scaling(tmp_path: Path) -> None:
    path = tmp_path / "two.nii.gz"
    image = nib.Nifti2Image(cube().astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, path)
    np.testing.assert_allclose(read_volume(path).voxels[..., 0], np.asarray(nib.load(path).dataobj))
    np.testing.assert_array_equal(np.unique(read_volume(path).voxels), [3, 3.5])


def test_4d_and_5d(tmp_path: Path) -> None:
    assert read_volume(save(tmp_path / "a.nii", voxels(0, (*SHAPE, 3)))).voxels.shape == (*SHAPE, 3)
    assert read_volume(save(tmp_path / "b.nii", voxels(0, (*SHAPE, 1, 1)))).voxels.shape == (*SHAPE, 1)
    assert read_volume(save(tmp_path / "c.nii", voxels(0, SHAPE[:2]))).voxels.shape == (*SHAPE[:2], 1, 1)
    assert code(save(tmp_path / "d.nii", voxels(0, (*SHAPE, 1, 3)))) == "wrong_dimensions"


def test_damaged_files(tmp_path: Path) -> None:
    data = raw_nifti(tmp_path)
    packed = gzip.compress(data)
    contents = {
        "empty.nii": b"",
        "empty.nii.gz": b"",
        "void.nii.gz": gzip.compress(b""),
        "cut.nii": data[:-100],
        "cut.nii.gz": packed[:-200],
        "short.nii": data[:100],
        "text.nii": b"hello" * 200,
        "not_packed.nii.gz": data,
        "long.nii": data + bytes(2 << 20),
        "flipped_bit.nii.gz": packed[:2000] + bytes([packed[2000] ^ 255]) + packed[2001:],
        "empty.png": b"",
        "text.png": b"hello" * 200,
        "text.tif": b"II*\0" + b"\xff" * 100,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert code(tmp_path / name) == "unreadable", name
    assert code(tmp_path / "absent.nii") == "unreadable"
    (tmp_path / "folder.nii").mkdir()
    assert code(tmp_path / "folder.nii") == "unreadable"
    save_picture(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    whole = save_picture(tmp_path / "a.png", np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert code(tmp_path / "cut.png") == "unreadable"


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("dim", [3, 30000, 30000, 30000, 1, 1, 1, 1], "too_large"),
        ("dim", [3, 0, 5, 5, 1, 1, 1, 1], "unreadable"),
        ("dim", [0] * 8, "unreadable"),
        ("dim", [3, -8, 9, 10, 1, 1, 1, 1], "unreadable"),
        ("vox_offset", 2e9, "unreadable"),
        ("vox_offset", np.nan, "unreadable"),
        ("datatype", 32, "unreadable"),  # complex
        ("datatype", 128, "unreadable"),  # RGB
        ("datatype", 9999, "unreadable"),
        ("srow_x", [np.nan] * 4, "bad_affine"),
        ("srow_x", [0] * 4, "bad_affine"),
    ],
)
def test_hostile_headers(tmp_path: Path, field: str, value: Any, expected: str) -> None:
    assert code(patched(tmp_path, field, value)) == expected


def test_a_decompression_bomb_is_not_unpacked(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((1000, 1000, 1001))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    assert code(path) == "too_large"


def test_a_picture_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_picture(tmp_path / "a.png", np.zeros((200, 200), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30_000)
    assert read_volume(path).voxels.shape == (200, 200, 1, 1)  # a warning, below twice the limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert code(path) == "too_large"


def test_pictures(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    colour = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    wide = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    for ending in ("png", "tif", "TIFF"):
        np.testing.assert_array_equal(read_volume(save_picture(tmp_path / f"g.{ending}", grey)).voxels[..., 0, 0], grey)
        np.testing.assert_array_equal(
            read_volume(save_picture(tmp_path / f"c.{ending}", colour)).voxels[:, :, 0], colour
        )
        np.testing.assert_array_equal(read_volume(save_picture(tmp_path / f"w.{ending}", wide)).voxels[..., 0, 0], wide)
    volume = read_volume(tmp_path / "c.png")
    assert volume.picture
    np.testing.assert_array_equal(volume.affine, np.eye(4))
    see_through = np.dstack([colour, np.full((3, 4), 7, np.uint8)])
    np.testing.assert_array_equal(read_volume(save_picture(tmp_path / "a.png", see_through)).voxels[:, :, 0], colour)


def test_pictures_of_other_kinds(tmp_path: Path) -> None:
    pages = [Image.new("L", (4, 3)), Image.new("L", (4, 3))]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    assert code(tmp_path / "pages.tif") == "wrong_dimensions"
    Image.new("CMYK", (4, 3)).save(tmp_path / "print.tif")
    assert code(tmp_path / "print.tif") == "unreadable"
    Image.new("L", (4, 3)).save(tmp_path / "jpeg.png", format="JPEG")
    assert code(tmp_path / "jpeg.png") == "unreadable"


def test_masks(tmp_path: Path) -> None:
    bits = np.array([[0, 1], [1, 0]], bool)
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bits.png").voxels[..., 0, 0], bits * 255)
    painted = Image.fromarray(np.array([[0, 2], [1, 0]], np.uint8))
    painted.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    painted.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "palette.png").voxels[..., 0, 0], [[0, 2], [1, 0]])
    assert read_volume(tmp_path / "palette.png").voxels.shape == (2, 2, 1, 3)
    grey_as_colour = np.repeat(bits[..., None].astype(np.uint8), 3, axis=2)
    np.testing.assert_array_equal(read_mask(save_picture(tmp_path / "g.png", grey_as_colour)).voxels[..., 0, 0], bits)
    big = save(tmp_path / "big.nii", cube().astype(np.float64) * 16_777_217)  # not a float32
    assert read_mask(big).voxels.max() == 16_777_217


def test_bad_masks(tmp_path: Path) -> None:
    assert code(save(tmp_path / "half.nii", cube() * np.float32(0.5)), mask=True) == "non_integer_label"
    assert code(save(tmp_path / "nan.nii", cube() * np.float32(np.nan)), mask=True) == "non_finite"
    assert code(save(tmp_path / "huge.nii", cube() * np.float64(1e12)), mask=True) == "unknown_label"
    assert code(save(tmp_path / "4d.nii", np.stack([cube(), cube() * 0], axis=-1)), mask=True) == "wrong_dimensions"
    colour = np.random.default_rng(0).integers(0, 255, (4, 4, 3), np.uint8)
    assert code(save_picture(tmp_path / "c.png", colour), mask=True) == "wrong_dimensions"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.dictionaries(st.integers(0, 351), st.integers(0, 255), min_size=1, max_size=6), st.booleans())
def test_any_header_is_voxels_or_a_case_error(tmp_path: Path, changes: dict[int, int], packed: bool) -> None:
    data = bytearray(raw_nifti(tmp_path))
    for place, value in changes.items():
        data[place] = value
    path = tmp_path / ("x.nii.gz" if packed else "x.nii")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    for read in (read_volume, read_mask):
        try:
            assert read(path).voxels.ndim == 4
        except CaseError as error:
            assert error.code in CODES


def site(tmp_path: Path) -> CaseFiles:
    flair = save(tmp_path / "c_FLAIR.nii.gz", voxels(1))
    t1 = save(tmp_path / "c_T1.nii.gz", voxels(2))
    mask = save(tmp_path / "c_mask.nii.gz", cube(value=7))
    return CaseFiles("c", {"FLAIR": Source(flair), "T1": Source(t1)}, mask)


def test_a_case_in_the_plan_s_order(tmp_path: Path) -> None:
    case = read_case(site(tmp_path), ["T1", "FLAIR"], {"edema": 1, "core": 7}, DatasetSpec())
    np.testing.assert_array_equal(case.image, np.stack([voxels(2), voxels(1)]))
    assert case.image.flags.c_contiguous
    assert case.label is not None
    assert case.label.dtype == np.uint8
    np.testing.assert_array_equal(case.label, cube() * 2)
    assert case.spacing == (1, 1, 2)
    assert not case.picture


def test_all_faults_are_in_the_text(tmp_path: Path) -> None:
    files = site(tmp_path)
    files.images["T1"].path.write_bytes(b"")
    with pytest.raises(CaseError, match=r"c: .*0 bytes.*stands for no label") as caught:
        read_case(files, ["T1", "FLAIR"], {"core": 1}, DatasetSpec())
    assert caught.value.code == "unreadable"
    with pytest.raises(InputError, match="do not fit"):
        read_case(site(tmp_path), ["T1"], {"core": 1}, DatasetSpec(labels={7: "corr"}))


def test_colour_channels(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (5, 6, 3), np.uint8)
    files = CaseFiles("c", {"": Source(save_picture(tmp_path / "c.png", colour))}, None)
    case, path = read_image(files, ["red", "green", "blue"])
    np.testing.assert_array_equal(case.image[..., 0], colour.transpose(2, 0, 1))
    assert case.picture
    assert path == tmp_path / "c.png"
    with pytest.raises(CaseError, match="red, green, blue"):
        read_image(files, ["grey"])
    grey = CaseFiles("g", {"": Source(save_picture(tmp_path / "g.png", colour[..., 0]))}, None)
    with pytest.raises(CaseError, match="1 channel; number 2 is wanted") as caught:
        read_image(grey, ["red", "green", "blue"])
    assert caught.value.code == "missing_modality"


@pytest.mark.parametrize("name", ["out.nii", "out.nii.gz"])
@pytest.mark.parametrize("form", [nib.Nifti1Image, nib.Nifti2Image])
def test_label_maps_keep_the_grid_and_no_text(tmp_path: Path, name: str, form: type) -> None:
    turned = AFFINE @ np.array([[0, -1.0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    image = form(voxels(0, (*SHAPE, 2)), turned)
    image.set_qform(turned, 1)
    image.set_sform(turned, 2)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, tmp_path / "like.nii.gz")
    write_label_map(tmp_path / name, cube(value=3), tmp_path / "like.nii.gz")
    back = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), cube(value=3))
    assert back.get_data_dtype() == np.uint8
    original = nib.load(tmp_path / "like.nii.gz")
    np.testing.assert_array_equal(back.affine, original.affine)
    np.testing.assert_array_equal(back.header.get_zooms(), original.header.get_zooms()[:3])
    assert [int(back.header[key]) for key in ("qform_code", "sform_code")] == [1, 2]
    assert back.header.get_xyzt_units() == ("mm", "sec")
    assert b"Jane" not in nib.load(tmp_path / name).header.binaryblock
    first = (tmp_path / name).read_bytes()
    write_label_map(tmp_path / name, cube(value=3), tmp_path / "like.nii.gz")
    assert (tmp_path / name).read_bytes() == first


def test_label_maps_of_pictures(tmp_path: Path) -> None:
    like = save_picture(tmp_path / "like.png", np.zeros((5, 6, 3), np.uint8))
    for values in (np.eye(5, 6) * 255, np.eye(5, 6) * 60_000):
        write_label_map(tmp_path / "out.png", values[..., None], like)
        np.testing.assert_array_equal(read_mask(tmp_path / "out.png").voxels[..., 0, 0], values)


def test_label_maps_that_do_not_fit(tmp_path: Path) -> None:
    like = save(tmp_path / "like.nii", voxels())
    for name, values, word in (
        ("out.png", cube(), "ends in"),
        ("out.nii", cube()[1:], "size"),
        ("out.nii", cube().astype(int) - 1, "numbers"),
    ):
        with pytest.raises(InputError, match=word):
            write_label_map(tmp_path / name, values, like)
    with pytest.raises(StorageError):
        write_label_map(tmp_path / "absent" / "out.nii", cube(), like)
