"""One case, read once: all that is wrong with it, and the traits by which cases are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import CaseError
from wardround.data.case import MISSING, Case, CaseFiles, Source
from wardround.data.dataset import present_modalities
from wardround.data.findings import Finding, Severity
from wardround.data.grids import difference, orientation
from wardround.data.labels import map_labels, tally
from wardround.data.nifti import Volume
from wardround.data.readers import pick, read_mask, read_volume
from wardround.data.spec import DatasetSpec, unlabelled_indices

MOST_SAMPLES = 1_000_000  # voxels looked at for the intensity scale
COLOUR_NAMES = ("red", "green", "blue")


@dataclass(frozen=True)
class CaseTraits:
    """What is kept of a case to compare it with others; stays at the site.

    Attributes:
        shape, spacing: voxels and mm along the stored axes; empty where no image could be read.
        orientation: such as ``RAS``; empty for pictures.
        scale: per modality, the spread (5th to 95th percentile) of the voxels that are not 0.
        hashes: per modality, of shape and voxels; constant images have none.
        labels: number in the mask -> voxels.
    """

    case: str
    subject: str | None = None
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    picture: bool = False
    scale: dict[str, float] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)


class _Notebook:
    """Collects the findings of one case."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.found: list[Finding] = []

    def add(self, severity: Severity, code: str, message: str) -> None:
        self.found.append(Finding(self.case, severity, code, message))

    @contextmanager
    def catching(self) -> Iterator[None]:
        try:
            yield
        except CaseError as error:
            self.add("error", error.code, str(error))

    @property
    def usable(self) -> bool:
        return not any(finding.severity == "error" for finding in self.found)


@dataclass(frozen=True)
class _Layer:
    """One modality as read."""

    name: str
    voxels: NDArray[np.float32]
    volume: Volume
    path: Path


def inspect_case(
    files: CaseFiles,
    modalities: Sequence[str] | None,
    labels: Mapping[str, int] | None,
    spec: DatasetSpec,
    dimensions: int | None = None,
    *,
    need_mask: bool = True,
    optional: Sequence[str] = (),
) -> tuple[Case | None, list[Finding], CaseTraits]:
    """Read a case and say all that is wrong with it.

    Args:
        files: where it lies.
        modalities: the plan's, in order; None takes what the case has.
        labels: the plan's label names with their default numbers; None takes the mask's numbers as they
            are (ranked, where one is outside [0, 255]).
        spec: the site's names.
        dimensions: 3 refuses flat pictures; 2 takes volumes too, as slices.
        need_mask: False accepts a case without mask.
        optional: the plan's modalities that a case may lack.

    Returns:
        The case, or None where a finding is an error; the findings; the traits as far as they could be read.

    Raises:
        InputError: the spec's labels are not the plan's.
    """
    notebook = _Notebook(files.id)
    layers = _layers(files, modalities, optional, notebook)
    for layer in layers:
        _check_layer(layer, layers[0], dimensions, notebook)
    mask = _mask(files, layers, need_mask, notebook)
    numbers = tally(mask) if mask is not None else {}
    classes = None
    if mask is not None:
        with notebook.catching():
            classes = _known(map_labels(mask, numbers, labels, spec), labels, spec)
        if classes is not None and not classes.any():
            notebook.add("warning", "empty_mask", "the mask marks nothing")
    traits = _traits(files, layers, numbers)
    if not notebook.usable or not layers:
        return None, notebook.found, traits
    image, lacks = _stacked(layers, modalities)
    first = layers[0].volume
    return Case(image, classes, first.affine, first.picture, lacks), notebook.found, traits


def _stacked(layers: list[_Layer], modalities: Sequence[str] | None) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The channels in the plan's order, and which of them the case lacks."""
    names = [layer.name for layer in layers] if modalities is None else list(modalities)
    known = {layer.name: layer.voxels for layer in layers}
    empty = np.full(layers[0].voxels.shape, MISSING, np.float32)
    channels = [layer.voxels for layer in layers] if modalities is None else [known.get(name, empty) for name in names]
    lacks = tuple(number for number, name in enumerate(names) if name not in known)
    return np.ascontiguousarray(np.stack(channels), dtype=np.float32), lacks


def _known(classes: NDArray[np.uint8], labels: Mapping[str, int] | None, spec: DatasetSpec) -> NDArray[np.uint8]:
    """The mask without what the site says it does not outline: a stray voxel of it is no label."""
    hidden = unlabelled_indices(labels, spec) if labels is not None else ()
    return np.where(np.isin(classes, hidden), 0, classes).astype(np.uint8) if hidden else classes


def _layers(
    files: CaseFiles, modalities: Sequence[str] | None, optional: Sequence[str], notebook: _Notebook
) -> list[_Layer]:
    """Every modality that can be read; each file is read once."""
    wanted = [(name, source) for name, source in files.images.items()]
    if modalities is not None:
        with notebook.catching():
            wanted = [(name, source) for _, name, source in present_modalities(files, modalities, optional)]
            for name in (name for name in modalities if name not in dict(wanted)):
                notebook.add("note", "lacks_modality", f"there is no {name}; the plan can do without")
    elif not wanted:
        notebook.add("error", "missing_modality", "there is no image")
    volumes: dict[Path, Volume] = {}
    for path in dict.fromkeys(source.path for _, source in wanted):
        with notebook.catching():
            volumes[path] = read_volume(path)
    layers = []
    for name, source in wanted:
        if source.path in volumes:
            volume = volumes[source.path]
            with notebook.catching():
                parts = _parts(name, source, volume) if modalities is None else [(name, source)]
                layers += [_Layer(part, pick(volume, place), volume, place.path) for part, place in parts]
    return layers


def _parts(name: str, source: Source, volume: Volume) -> list[tuple[str, Source]]:
    """Without a plan, all channels of a file that holds several."""
    channels = volume.voxels.shape[3]
    if source.channel is not None or channels == 1:
        return [(name, source)]
    names = COLOUR_NAMES if volume.picture and channels == 3 else tuple(str(index) for index in range(channels))
    return [(f"{name} {part}".strip(), Source(source.path, index)) for index, part in enumerate(names)]


def _check_layer(layer: _Layer, first: _Layer, dimensions: int | None, notebook: _Notebook) -> None:
    name = layer.name or layer.path.name
    if dimensions == 3 and layer.voxels.shape[2] == 1:
        notebook.add("error", "wrong_dimensions", f"{name} is flat ({_size(layer.voxels)}); the plan expects volumes")
    if layer.path != first.path:
        _same_grid(f"{name} ({layer.path.name})", layer.volume, first, notebook)
    bad = int(layer.voxels.size - np.isfinite(layer.voxels).sum())
    if bad:
        notebook.add("error", "non_finite", f"{name} holds {bad} values that are not finite numbers")
    elif layer.voxels.min() == layer.voxels.max():
        notebook.add("warning", "constant_image", f"{name} has the same value everywhere: {layer.voxels.flat[0]:g}")


def _same_grid(what: str, volume: Volume, first: _Layer, notebook: _Notebook) -> None:
    """Size and place of a file against the first image."""
    shape, expected = volume.voxels.shape[:3], first.volume.voxels.shape[:3]
    if volume.picture != first.volume.picture:
        notebook.add("error", "wrong_dimensions", f"{what} and {first.path.name}: one is a picture, one is NIfTI")
    elif shape != expected:
        sizes = f"{_size(volume.voxels)} voxels; {first.path.name} has {_size(first.voxels)}"
        notebook.add("error", "shape_mismatch", f"{what} has {sizes}")
    elif found := difference(first.volume.affine, volume.affine, shape):
        hint = "; store both on one grid" if found[0] == "flipped_mask" else ""
        notebook.add("error", found[0], f"{what} {found[1]}, compared with {first.path.name}{hint}")


def _mask(files: CaseFiles, layers: list[_Layer], need: bool, notebook: _Notebook) -> NDArray[np.int32] | None:
    """The mask's numbers, (X, Y, Z)."""
    if files.mask is None:
        if need:
            notebook.add("error", "missing_mask", "there is no mask")
        return None
    with notebook.catching():
        volume = read_mask(files.mask)
        if layers:
            _same_grid(f"the mask ({files.mask.name})", volume, layers[0], notebook)
        return np.asarray(volume.voxels[..., 0])
    return None


def _size(voxels: NDArray[np.float32]) -> str:
    return " x ".join(str(size) for size in voxels.shape[:3])


def _traits(files: CaseFiles, layers: list[_Layer], numbers: dict[int, int]) -> CaseTraits:
    if not layers:
        return CaseTraits(files.id, files.subject, labels=numbers)
    first = layers[0].volume
    scales = {layer.name: scale for layer in layers if (scale := _scale(layer.voxels)) is not None}
    return CaseTraits(
        files.id,
        files.subject,
        shape=first.voxels.shape[:3],
        spacing=tuple(float(edge) for edge in np.linalg.norm(first.affine[:3, :3], axis=0)),
        orientation="" if first.picture else orientation(first.affine),
        picture=first.picture,
        scale=scales,
        hashes={layer.name: _hash(layer.voxels) for layer in layers if layer.voxels.min() != layer.voxels.max()},
        labels=numbers,
    )


def _scale(voxels: NDArray[np.float32]) -> float | None:
    samples = voxels.ravel()[:: max(1, voxels.size // MOST_SAMPLES)]
    samples = samples[np.isfinite(samples) & (samples != 0)]
    if not samples.size:
        return None
    low, high = np.percentile(samples.astype(np.float64), (5, 95))
    return float(high - low) or None


def _hash(voxels: NDArray[np.float32]) -> str:
    total = hashlib.sha256(repr(voxels.shape).encode())
    total.update(np.ascontiguousarray(voxels).data)
    return total.hexdigest()
