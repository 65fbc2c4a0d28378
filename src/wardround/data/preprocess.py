"""From a case on its own grid to the array that a network sees, and back.

Order: reorient to RAS, crop to the non-zero box, normalise, resample, put the slice axis first (2D
tasks). Every step is undone by `restore`, so a prediction lies on the image's own grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nibabel import orientations
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from wardround.core.frozen import Frozen
from wardround.data.case import Case

Shape = tuple[int, int, int]
Floats = NDArray[np.float32]


class Preprocessing(Frozen):
    """How every site prepares its images."""

    spacing: tuple[float | None, float | None, float | None] | None = Field(
        default=None, description="target voxel size in mm along right, anterior, superior; null keeps the image's own"
    )
    crop: bool = Field(default=True, description="crop to the box of non-zero voxels of any modality")
    normalise: Literal["zscore", "zscore_nonzero", "rescale", "none"] = Field(
        default="zscore",
        description="per image and modality: z-score over all voxels of the crop or over the non-zero ones only, "
        "0-1 between the 0.5th and 99.5th percentile, or nothing",
    )

    def model_post_init(self, _: Any) -> None:
        """Spacings are positive and plausible."""
        for value in self.spacing or ():
            if value is not None and not 0.01 <= value <= 100:
                raise ValueError(f"a spacing of {value} mm is not between 0.01 and 100 mm")


@dataclass(frozen=True)
class Geometry:
    """What `restore` needs to undo the preparation."""

    original: Shape  # the image's own grid
    orientation: tuple[tuple[int, int], ...] | None  # to RAS; None: a picture
    box: tuple[tuple[int, int], ...]  # of the crop, on the RAS grid
    slice_axis: int | None  # moved to the front
    spacing: tuple[float, float, float]  # mm, of the prepared grid, in its axis order

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; `from_json` undoes it."""
        return {
            "original": list(self.original),
            "orientation": None if self.orientation is None else [list(axis) for axis in self.orientation],
            "box": [list(side) for side in self.box],
            "slice_axis": self.slice_axis,
            "spacing": list(self.spacing),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Geometry:
        """See `to_json`."""
        x, y, z = value["original"]
        orientation = value["orientation"]
        a, b, c = value["spacing"]
        return cls(
            original=(x, y, z),
            orientation=None if orientation is None else tuple((int(i), int(flip)) for i, flip in orientation),
            box=tuple((low, high) for low, high in value["box"]),
            slice_axis=value["slice_axis"],
            spacing=(a, b, c),
        )


@dataclass(frozen=True)
class Prepared:
    """A case as the network sees it: image (C, *grid) float32, label uint8 on the same grid."""

    image: Floats
    label: NDArray[np.uint8] | None
    geometry: Geometry


def prepare(case: Case, settings: Preprocessing, slice_axis: int | None = None) -> Prepared:
    """Prepare a case; ``slice_axis`` (of the RAS grid) is given for 2D tasks and moved to the front."""
    image, label, spacing = case.image, case.label, case.spacing
    original: Shape = (image.shape[1], image.shape[2], image.shape[3])
    orientation = None
    if not case.picture:
        ornt = orientations.io_orientation(case.affine)
        orientation = tuple((int(axis), int(flip)) for axis, flip in ornt)
        image = np.stack([orientations.apply_orientation(channel, ornt) for channel in image])
        label = None if label is None else orientations.apply_orientation(label, ornt)
        spacing = _ordered(spacing, orientation)
    box = _nonzero_box(image) if settings.crop else tuple((0, n) for n in image.shape[1:])
    cut = tuple(slice(low, high) for low, high in box)
    image = np.stack([_normalise(channel[cut], settings.normalise) for channel in image])
    label = None if label is None else label[cut]
    shape, spacing = _target(image.shape[1:], spacing, settings.spacing)
    image = np.stack([resample(channel, shape) for channel in image])
    label = None if label is None else resample_label(label, shape)
    if slice_axis is not None:
        image = np.moveaxis(image, slice_axis + 1, 1)
        label = None if label is None else np.moveaxis(label, slice_axis, 0)
        spacing = _front(spacing, slice_axis)
    geometry = Geometry(original, orientation, box, slice_axis, spacing)
    whole = None if label is None else np.ascontiguousarray(label, np.uint8)
    return Prepared(np.ascontiguousarray(image, np.float32), whole, geometry)


def restore(probabilities: Floats, geometry: Geometry) -> NDArray[np.uint8]:
    """Class probabilities (classes, *prepared grid) to class indices on the image's own grid."""
    if geometry.slice_axis is not None:
        probabilities = np.moveaxis(probabilities, 1, geometry.slice_axis + 1)
    shape: Shape = tuple(high - low for low, high in geometry.box)  # type: ignore[assignment]
    winner = _argmax_resampled(probabilities, shape)
    if geometry.orientation is None:
        full = np.zeros(geometry.original, np.uint8)
        full[tuple(slice(low, high) for low, high in geometry.box)] = winner
        return full
    ras = np.zeros([geometry.original[i] for i in _sources(geometry.orientation)], np.uint8)
    ras[tuple(slice(low, high) for low, high in geometry.box)] = winner
    start = orientations.axcodes2ornt(("R", "A", "S"))
    back = orientations.ornt_transform(start, np.asarray(geometry.orientation, float))
    return np.ascontiguousarray(orientations.apply_orientation(ras, back))


def _argmax_resampled(probabilities: Floats, shape: Shape) -> NDArray[np.uint8]:
    # One class at a time: memory does not grow with the number of classes.
    best, winner = resample(probabilities[0], shape, order=1), np.zeros(shape, np.uint8)
    for index in range(1, len(probabilities)):
        value = resample(probabilities[index], shape, order=1)
        higher = value > best
        winner[higher] = index
        np.maximum(best, value, out=best)
    return winner


def resample(array: Floats, shape: Shape, order: int = 3) -> Floats:
    """Spline interpolation on voxel centres with aligned edges; the array itself where shapes agree."""
    if array.shape == shape:
        return array
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    out: Floats = ndimage.zoom(array, factors, order=order, mode="nearest", grid_mode=True)
    return out.astype(np.float32, copy=False)


def resample_label(label: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Linear interpolation of each class, then the largest: smooth borders, no invented classes."""
    if label.shape == shape:
        return label
    classes = int(label.max()) + 1
    return _argmax_resampled(np.stack([(label == i).astype(np.float32) for i in range(classes)]), shape)


def _normalise(image: Floats, how: str) -> Floats:
    if how == "none":
        return image.astype(np.float32, copy=False)
    if how == "rescale":
        low, high = np.percentile(image, [0.5, 99.5])
        scaled: Floats = np.clip((image - low) / max(high - low, 1e-8), 0, 1).astype(np.float32)
        return scaled
    inside = image != 0 if how == "zscore_nonzero" else np.ones(image.shape, bool)
    if not inside.any():
        return np.zeros(image.shape, np.float32)
    values = image[inside].astype(np.float64)
    out: Floats = ((image - values.mean()) / max(values.std(), 1e-8)).astype(np.float32)
    out[~inside] = 0
    return out


def _nonzero_box(image: Floats) -> tuple[tuple[int, int], ...]:
    mask = (image != 0).any(axis=0)
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(i for i in range(3) if i != axis)))
        box.append((int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, mask.shape[axis]))
    return tuple(box)


def _target(
    shape: tuple[int, ...], spacing: tuple[float, float, float], wanted: tuple[float | None, ...] | None
) -> tuple[Shape, tuple[float, float, float]]:
    new = [own if target is None else target for own, target in zip(spacing, wanted or (None, None, None), strict=True)]
    sizes = [max(1, round(n * own / target)) for n, own, target in zip(shape, spacing, new, strict=True)]
    # The extent is kept exactly, so the true spacing differs a little from the wanted one.
    real = [own * n / size for n, own, size in zip(shape, spacing, sizes, strict=True)]
    return (sizes[0], sizes[1], sizes[2]), (real[0], real[1], real[2])


def _sources(orientation: tuple[tuple[int, int], ...]) -> list[int]:
    # orientation[i] says which RAS axis the image's axis i becomes.
    return [next(i for i, (axis, _) in enumerate(orientation) if axis == target) for target in range(3)]


def _ordered(
    spacing: tuple[float, float, float], orientation: tuple[tuple[int, int], ...]
) -> tuple[float, float, float]:
    x, y, z = (spacing[i] for i in _sources(orientation))
    return x, y, z


def _front(spacing: tuple[float, float, float], axis: int) -> tuple[float, float, float]:
    rest = [value for i, value in enumerate(spacing) if i != axis]
    return spacing[axis], rest[0], rest[1]
