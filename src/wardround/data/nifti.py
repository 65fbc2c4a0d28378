"""NIfTI-1 and NIfTI-2 in one file (.nii, .nii.gz): read with bounds, written on an image's own grid."""

from __future__ import annotations

import gzip
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import CaseError

MAX_VOXELS = 1_000_000_000
MAX_OFFSET = 16 << 20  # bytes before the voxels: header and extensions
HEADER_BYTES = 540
SLACK = 1 << 20  # bytes that may follow the voxels
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z", "xyzt_units"),
)


@dataclass(frozen=True)
class Volume:
    """A file's voxels: (X, Y, Z, channels), pictures as (H, W, 1, channels), and where they lie (4 x 4, mm)."""

    voxels: NDArray[Any]
    affine: NDArray[Any]
    picture: bool = False


def read_nifti(path: Path, dtype: type[np.floating[Any]] = np.float32) -> Volume:
    """A NIfTI file as ``dtype`` in the order in which it is stored.

    Raises:
        CaseError: ``unreadable``, ``too_large``, ``wrong_dimensions`` or ``bad_affine``.
    """
    import nibabel as nib  # noqa: PLC0415 - slow to import
    from nibabel import imageglobals  # noqa: PLC0415

    header, data = _whole(path)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with imageglobals.LoggingOutputSuppressor():
        image = kind.from_bytes(data)
        affine = np.asarray(image.affine, dtype=np.float64)
        volume = float(abs(np.linalg.det(affine[:3, :3]))) if np.isfinite(affine).all() else 0.0
        if not volume > 0:
            raise CaseError("bad_affine", f"{path.name}: its affine is not finite or has no volume: {affine.tolist()}")
        voxels = np.asarray(image.get_fdata(dtype=dtype, caching="unchanged"))
    return Volume(voxels.reshape(_shape(path, image.shape)), affine)


def _opener(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _whole(path: Path) -> tuple[Any, bytes]:
    """Header and bytes, to the end: only there gzip's checksum shows damage. Never more than the header announces."""
    with _opener(path) as file:
        raw = file.read(HEADER_BYTES)
        header = _header(path, raw)
        shape = _shape(path, header.get_data_shape())
        kind = header.get_data_dtype()
        if kind.kind not in "iufb":
            raise CaseError("unreadable", f"{path.name} holds values of type {kind}, not numbers")
        announced = int(header["vox_offset"]) + math.prod(shape) * kind.itemsize
        data = raw + file.read(max(0, announced + SLACK - len(raw)))
    if not announced <= len(data) < announced + SLACK:
        relation = "only" if len(data) < announced else "more than"
        raise CaseError(
            "unreadable", f"{path.name} is damaged: {relation} {len(data)} bytes; its header says {announced}"
        )
    return header, data


def _header(path: Path, raw: bytes) -> Any:
    """The header alone, with its offset bounded."""
    import nibabel as nib  # noqa: PLC0415

    if not raw:
        raise CaseError("unreadable", f"{path.name} is empty")
    for kind, size in ((nib.Nifti1Header, 348), (nib.Nifti2Header, HEADER_BYTES)):
        if len(raw) >= size and size in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big")):
            header = kind(raw[:size], check=False)
            if not 0 <= float(header["vox_offset"]) <= MAX_OFFSET:
                raise CaseError("unreadable", f"{path.name}: its voxels should start {header['vox_offset']} bytes in")
            return header
    raise CaseError("unreadable", f"{path.name} does not begin like a NIfTI file")


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    if any(size < 1 for size in shape) or not shape:
        raise CaseError("unreadable", f"{path.name} holds no voxels: its size is {shape}")
    if math.prod(shape) > MAX_VOXELS:
        raise CaseError("too_large", f"{path.name} announces {shape} voxels, more than {MAX_VOXELS:,}")
    if math.prod(shape[4:]) != 1:
        raise CaseError("wrong_dimensions", f"{path.name} has the size {shape}; 3D or 4D is expected")
    x, y, z, channels = (*shape[:4], *(1,) * (4 - len(shape[:4])))
    return x, y, z, channels


def nifti_size(path: Path) -> tuple[int, int, int]:
    """(X, Y, Z) of a NIfTI file, from its header.

    Raises:
        CaseError: ``unreadable``.
    """
    with _opener(path) as file:
        return _shape(path, _header(path, file.read(HEADER_BYTES)).get_data_shape())[:3]


def encode_nifti(path: Path, values: NDArray[Any], like: Path) -> bytes:
    """``values`` as a NIfTI file on the grid of ``like``: its place in space, nothing of its texts."""
    import nibabel as nib  # noqa: PLC0415
    from nibabel import imageglobals  # noqa: PLC0415

    with imageglobals.LoggingOutputSuppressor(), _opener(like) as file:
        source = _header(like, file.read(HEADER_BYTES))
        header = type(source)()
        header.set_data_dtype(values.dtype)
        header.set_data_shape(values.shape)
        for field in GEOMETRY:
            header[field] = source[field]
        header["pixdim"][:4] = source["pixdim"][:4]
        kind = nib.Nifti2Image if isinstance(source, nib.Nifti2Header) else nib.Nifti1Image
        data = kind(values, header.get_best_affine(), header).to_bytes()
    return gzip.compress(data, mtime=0) if path.name.lower().endswith(".gz") else bytes(data)
