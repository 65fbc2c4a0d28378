"""PNG and TIFF: flat pictures, grey or colour, 8 or 16 bits (16-bit colour is read with 8 bits)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import CaseError
from wardround.data.nifti import Volume

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = frozenset(("1", "L", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"))
COLOUR = {"RGB": "RGB", "RGBA": "RGB", "RGBX": "RGB", "LA": "L"}


def read_picture(path: Path, *, mask: bool = False) -> Volume:
    """A picture as (H, W, 1, channels), float32, on the identity grid.

    Palette pictures are colours; as a ``mask`` their palette indices count. One-bit pictures hold 0 and
    255. Transparency is left out.

    Raises:
        CaseError: ``unreadable``, ``too_large`` or ``wrong_dimensions``.
    """
    with _opened(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise CaseError("wrong_dimensions", f"{path.name} has {getattr(picture, 'n_frames', 0)} pages; one is read")
        values = _values(path, picture, mask)
    height, width = values.shape[:2]
    return Volume(values.reshape(height, width, 1, -1).astype(np.float32), np.eye(4), picture=True)


def _values(path: Path, picture: Image, mask: bool) -> NDArray[Any]:
    if picture.mode == "1":
        return np.asarray(picture, dtype=np.uint8) * 255
    if picture.mode == "P":
        return np.asarray(picture if mask else picture.convert("RGB"))
    if picture.mode in GREY:
        return np.asarray(picture)
    if picture.mode in COLOUR:
        return np.asarray(picture.convert(COLOUR[picture.mode]))
    raise CaseError("unreadable", f"{path.name} has colours of kind {picture.mode}; save it as grey or RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged side information; the bound on the size still raises
        try:
            with Image.open(path, formats=("PNG", "TIFF")) as picture:
                yield picture
        except Image.DecompressionBombError as error:
            raise CaseError("too_large", f"{path.name}: {error}") from error


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W), from the file's header."""
    with _opened(path) as picture:
        return picture.height, picture.width


def encode_picture(values: NDArray[Any]) -> bytes:
    """``values`` (H, W), uint8 or uint16, as a grey PNG."""
    from PIL import Image  # noqa: PLC0415

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(values)).save(buffer, format="PNG")
    return buffer.getvalue()
