"""Label maps written on the grid of the image that they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import InputError
from wardround.core.weights import write_bytes
from wardround.data.case_names import is_picture
from wardround.data.nifti import encode_nifti, nifti_size
from wardround.data.pictures import encode_picture, picture_size


def write_label_map(path: Path, label_values: NDArray[Any], like: Path) -> None:
    """Write a label map so that it is either absent or whole.

    Args:
        path: ``.nii`` or ``.nii.gz`` for a NIfTI image, ``.png`` for a picture.
        label_values: whole numbers in [0, 65535], (X, Y, Z); (H, W, 1) for a picture.
        like: the image; affine, form codes, voxel size and units are taken from it, and none of its texts.

    Raises:
        InputError: the ending, the numbers or the array's size do not fit the image.
        CaseError: the image cannot be read.
        StorageError: the file cannot be written.
    """
    picture = is_picture(like)
    endings = (".png",) if picture else (".nii", ".nii.gz")
    if not path.name.lower().endswith(endings):
        raise InputError(f"a label map of {like.name} ends in {' or '.join(endings)}, unlike {path.name}")
    if label_values.size and not (label_values.min() >= 0 and label_values.max() <= 65535):
        raise InputError("label maps hold numbers from 0 to 65535")
    size = (*picture_size(like), 1) if picture else nifti_size(like)
    if label_values.shape != size:
        raise InputError(f"the label map has the size {label_values.shape}, its image {size}")
    values = label_values.astype(np.uint8 if label_values.max() < 256 else np.uint16)
    write_bytes(path, encode_picture(values[..., 0]) if picture else encode_nifti(path, values, like))
