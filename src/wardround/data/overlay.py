"""Slices with outlines, as panels of pixels; `wardround.data.preview` puts them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

Colour = tuple[int, int, int]
PALETTE: tuple[Colour, ...] = (
    *((255, 176, 0), (64, 196, 255), (255, 90, 160), (120, 230, 80)),
    *((190, 140, 255), (255, 240, 90)),
)
REFERENCE: Colour = (64, 196, 255)
PREDICTION: Colour = (255, 120, 0)
BOTH: Colour = (130, 255, 70)
INK: Colour = (225, 225, 225)
PAPER: Colour = (18, 18, 20)

SIDE = 340  # pixels of the longest edge of a volume, in its longest direction
PICTURE_SIDE = 640
GAP = 8
LINE = 22  # pixels of a line of text
MOST_ROWS = 4


@dataclass(frozen=True)
class _View:
    """One direction of looking at a volume in RAS order: axes right and up on the screen, and the letters."""

    across: int
    up: int
    through: int
    mirrored: bool
    left: str
    right: str
    bottom: str
    top: str


VIEWS = (  # as radiologists look: the patient's right is on the left
    _View(0, 1, 2, True, "R", "L", "P", "A"),
    _View(0, 2, 1, True, "R", "L", "I", "S"),
    _View(1, 2, 0, True, "A", "P", "I", "S"),
)


def picture_row(
    image: NDArray[np.float32], label: NDArray[Any] | None, prediction: NDArray[Any] | None
) -> list[list[Image]]:
    """A picture, and beside it the same with outlines: thin structures vanish under their own outline."""
    channels = image[:3] if image.shape[0] == 3 else image[[0, 0, 0]]
    flat = np.stack([_window(channel[..., 0]) for channel in channels], axis=-1)
    height, width = flat.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    plain = _resized(flat, size)
    if label is None and prediction is None:
        return [[plain]]
    slices = [None if array is None else array[..., 0] for array in (label, prediction)]
    return [[plain, _outlined(plain, slices[0], slices[1])]]


def volume_rows(
    image: NDArray[np.float32],
    label: NDArray[Any] | None,
    prediction: NDArray[Any] | None,
    spacing: tuple[float, float, float],
) -> list[list[Image]]:
    """One row of three slices for each channel, through the largest label area, in physical proportions."""
    extent = [size * edge for size, edge in zip(image.shape[1:], spacing, strict=True)]
    pixels = [max(1, round(SIDE * mm / max(extent))) for mm in extent]
    place = _largest_area(image.shape[1:], label, prediction)
    views = VIEWS if min(image.shape[1:]) > 1 else VIEWS[:1]
    rows = []
    for channel in image[:MOST_ROWS]:
        low, high = _limits(channel)
        row = []
        for view in views:
            grey = _window(_slice(channel, view, place), low, high)
            base = _resized(np.stack([grey] * 3, axis=-1), (pixels[view.across], pixels[view.up]))
            drawn = [None if array is None else _slice(array, view, place) for array in (label, prediction)]
            row.append(_lettered(_outlined(base, drawn[0], drawn[1]), view))
        rows.append(row)
    return rows


def _largest_area(shape: tuple[int, ...], *labels: NDArray[Any] | None) -> tuple[int, int, int]:
    """Per axis the slice that cuts most labelled voxels: of the reference, else of the prediction, else the middle."""
    marked = next((array > 0 for array in labels if array is not None and array.any()), None)
    if marked is None:
        return shape[0] // 2, shape[1] // 2, shape[2] // 2
    x, y, z = (int(marked.sum(axis=tuple({0, 1, 2} - {axis})).argmax()) for axis in range(3))
    return x, y, z


def _slice(volume: NDArray[Any], view: _View, place: tuple[int, int, int]) -> NDArray[Any]:
    """(rows, columns) as on the screen."""
    flat = np.take(volume, place[view.through], axis=view.through)  # (across, up): across comes before up
    shown = flat.T[::-1]
    return np.asarray(shown[:, ::-1] if view.mirrored else shown)


def _limits(voxels: NDArray[np.float32]) -> tuple[float, float]:
    samples = voxels[np.isfinite(voxels) & (voxels != 0)]
    if not samples.size:
        return 0.0, 1.0
    low, high = np.percentile(samples, (0.5, 99.5))
    return (min(float(low), 0.0) if low < 0.25 * high else float(low)), float(high)


def _window(values: NDArray[np.float32], low: float | None = None, high: float | None = None) -> NDArray[np.uint8]:
    if low is None or high is None:
        low, high = _limits(values)
    scaled = (np.nan_to_num(values.astype(np.float64)) - low) / ((high - low) or 1.0)
    return np.asarray(np.clip(scaled, 0, 1) * 255, dtype=np.uint8)


def _resized(flat: NDArray[np.uint8], size: tuple[int, int]) -> Image:
    from PIL import Image  # noqa: PLC0415

    return Image.fromarray(np.ascontiguousarray(flat)).resize(size, Image.Resampling.BICUBIC)


def _outlined(base: Image, label: NDArray[Any] | None, prediction: NDArray[Any] | None) -> Image:
    from PIL import Image  # noqa: PLC0415

    canvas = np.array(base)
    if prediction is None:
        if label is not None:
            for index in classes(label):
                canvas[_outline(label == index, base.size)] = PALETTE[(index - 1) % len(PALETTE)]
        return Image.fromarray(canvas)
    reference = _outlines(label, base.size) if label is not None else np.zeros(canvas.shape[:2], dtype=bool)
    predicted = _outlines(prediction, base.size)
    canvas[reference] = REFERENCE
    canvas[predicted] = PREDICTION
    canvas[reference & predicted] = BOTH
    return Image.fromarray(canvas)


def classes(label: NDArray[Any]) -> list[int]:
    """The class indices present, without background."""
    return [int(index) for index in np.unique(label) if index != 0]


def _outlines(label: NDArray[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    outlines = [_outline(label == index, size) for index in classes(label)]
    return np.logical_or.reduce(outlines) if outlines else np.zeros(size[::-1], dtype=bool)


def _outline(marked: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The innermost pixels of a region's edge, on the screen's grid."""
    from PIL import Image  # noqa: PLC0415

    shown = Image.fromarray(np.ascontiguousarray(marked.astype(np.uint8) * 255)).resize(size, Image.Resampling.NEAREST)
    inside = np.pad(np.asarray(shown) > 0, 1)
    core = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
    return np.asarray(inside[1:-1, 1:-1] & ~core)


def _lettered(panel: Image, view: _View) -> Image:
    """The panel inside a margin that bears the letters of the four directions."""
    from PIL import Image, ImageDraw  # noqa: PLC0415

    width, height = panel.size
    framed = Image.new("RGB", (width + 2 * LINE, height + 2 * LINE), PAPER)
    framed.paste(panel, (LINE, LINE))
    draw = ImageDraw.Draw(framed)
    middle = (framed.width // 2, framed.height // 2)
    places = {
        view.left: (LINE // 2, middle[1]),
        view.right: (framed.width - LINE // 2, middle[1]),
        view.top: (middle[0], LINE // 2),
        view.bottom: (middle[0], framed.height - LINE // 2),
    }
    for letter, place in places.items():
        draw.text(place, letter, fill=INK, font=font(), anchor="mm")
    return framed


def font() -> Any:
    """The font of all texts in the picture."""
    from PIL import ImageFont  # noqa: PLC0415

    return ImageFont.load_default(size=15)
