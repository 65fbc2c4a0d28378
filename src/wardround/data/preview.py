"""Pictures in which a swapped label, a flip or a shifted mask is seen at once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.weights import write_bytes
from wardround.data.case import Case
from wardround.data.overlay import (
    BOTH,
    GAP,
    INK,
    LINE,
    PALETTE,
    PAPER,
    PREDICTION,
    REFERENCE,
    Colour,
    classes,
    font,
    picture_row,
    volume_rows,
)

if TYPE_CHECKING:
    from PIL.Image import Image


def write_preview(
    case: Case,
    path: Path,
    title: str | None = None,
    prediction: NDArray[np.uint8] | None = None,
    names: Sequence[str] = (),
) -> None:
    """One PNG of a case: three slices through the largest label area, or the picture.

    Args:
        case: as read.
        path: where to write.
        title: a line above; stays at the site if it names a case.
        prediction: class indices, (X, Y, Z), on the case's grid.
        names: the labels' names, for the legend.

    Raises:
        StorageError: the file cannot be written.
    """
    image, label, predicted, spacing = case.image, case.label, prediction, case.spacing
    if not case.picture:
        image, label, predicted, spacing = _to_ras(case, prediction)
    shown = render_overlay(image, label, predicted, spacing=spacing, picture=case.picture, title=title, names=names)
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue())


def _to_ras(
    case: Case, prediction: NDArray[np.uint8] | None
) -> tuple[NDArray[np.float32], NDArray[Any] | None, NDArray[Any] | None, tuple[float, float, float]]:
    """Axes turned so that they run to the right, the front and the head."""
    import nibabel as nib  # noqa: PLC0415 - slow to import

    turn = nib.io_orientation(case.affine)
    image = np.stack([nib.apply_orientation(channel, turn) for channel in case.image])
    label, predicted = (
        None if array is None else np.asarray(nib.apply_orientation(array, turn)) for array in (case.label, prediction)
    )
    spacing = [0.0, 0.0, 0.0]
    for edge, axis in zip(case.spacing, turn[:, 0], strict=True):
        spacing[int(axis)] = edge
    return image, label, predicted, (spacing[0], spacing[1], spacing[2])


def render_overlay(
    image: NDArray[np.float32],
    label: NDArray[Any] | None,
    prediction: NDArray[Any] | None = None,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    picture: bool = False,
    title: str | None = None,
    names: Sequence[str] = (),
) -> Image:
    """Outlines on the image.

    Without a prediction each label has its colour; with one, the reference is blue, the prediction
    orange, and where both outlines meet, green.

    Args:
        image: (channels, X, Y, Z) with axes running right, front and head; (channels, H, W, 1) of a picture.
        label: class indices, (X, Y, Z), or None.
        prediction: class indices, (X, Y, Z), or None.
        spacing: mm along X, Y, Z; slices are shown in these proportions.
        picture: a flat picture, shown beside itself without outlines; three channels are its colours.
        title: a line above.
        names: the labels' names, for the legend.
    """
    panels = picture_row(image, label, prediction) if picture else volume_rows(image, label, prediction, spacing)
    return _compose(panels, title, _legend(label, prediction, names))


def _legend(
    label: NDArray[Any] | None, prediction: NDArray[Any] | None, names: Sequence[str]
) -> list[tuple[str, Colour]]:
    if prediction is not None:
        return [("reference", REFERENCE), ("prediction", PREDICTION), ("both", BOTH)][label is None :]
    if label is None:
        return []
    present = sorted({*classes(label), *range(1, len(names) + 1)})[:12]
    text = {index: names[index - 1] if index <= len(names) else f"label {index}" for index in present}
    return [(text[index], PALETTE[(index - 1) % len(PALETTE)]) for index in present]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:120])


def _compose(rows: list[list[Image]], title: str | None, legend: list[tuple[str, Colour]]) -> Image:
    from PIL import Image, ImageDraw  # noqa: PLC0415

    heights = [max(panel.height for panel in row) for row in rows]
    width = max(sum(panel.width + GAP for panel in row) for row in rows) + GAP
    top = LINE + GAP if title else GAP
    canvas = Image.new("RGB", (width, top + sum(heights) + GAP * len(rows) + (LINE + GAP if legend else 0)), PAPER)
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, GAP), _printable(title), fill=INK, font=font())
    y = top
    for row, height in zip(rows, heights, strict=True):
        x = GAP
        for panel in row:
            canvas.paste(panel, (x, y + (height - panel.height) // 2))
            x += panel.width + GAP
        y += height + GAP
    x = GAP
    for text, colour in legend:
        draw.rectangle((x, y + 4, x + 12, y + 16), fill=colour)
        draw.text((x + 18, y), _printable(text)[:40], fill=INK, font=font())
        x += 34 + round(draw.textlength(_printable(text)[:40], font=font()))
    return canvas
