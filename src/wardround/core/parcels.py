"""Tensor files whose numbers may be encoded: named parts in, named parts out, or block by block where they lie.

Beside an int8 tensor ``part/name`` lies ``scale:part/name``. What is not encoded (see `encoding.is_encoded`) lies as
in a plain file, and a file without any encoding is a plain file, byte for byte.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.core.encoding import PLAIN, TYPES, Encoding, decode, decoded, encode, is_encoded
from wardround.core.errors import WardRoundError
from wardround.core.frozen import canonical_json
from wardround.core.weights import Array, Arrays, Part, Parts, Slot, map_tensors, of_part, pack, part_weights, slots

MODEL = "weights"  # the part that is a model
SCALE = "scale:"
HEADING = "encoded"
Packed = tuple[dict[str, Array], dict[str, str]]  # arrays and metadata of one tensor file


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a file: type and shape of its numbers, and how they are written there."""

    dtype: str
    shape: tuple[int, ...]
    numbers: Slot
    encoding: Encoding = PLAIN
    scales: Slot | None = None

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Contents:
    """What the header of a packed file says."""

    places: Mapping[str, Place]  # by part/name
    weights: Mapping[str, float]  # by part
    encoding: Encoding


def pack_as(parts: Parts, encoding: Encoding) -> Packed:
    """As `weights.pack`, with the large tensors in ``encoding``."""
    arrays, metadata = pack(parts)
    if encoding.plain:
        return arrays, metadata
    for name, array in list(arrays.items()):
        if is_encoded(encoding, array.dtype.str, array.shape):
            arrays[name], scales = encode(array, encoding)
            if scales is not None:
                arrays[SCALE + name] = scales
    weights = {part: content.weight for part, content in parts.items()}
    # One key: several would be written in an order that varies.
    return arrays, {HEADING: canonical_json({"weights": weights, "encoding": encoding.model_dump(mode="json")})}


def lost(parts: Parts, packed: Packed, encoding: Encoding) -> dict[str, Array]:
    """What rounding took from each tensor of ``parts`` that `pack_as` encoded, by part/name."""
    arrays, _ = packed
    given = {f"{part}/{name}": array for part, content in parts.items() for name, array in content.arrays.items()}
    return {
        name: np.asarray(array - decoded(arrays[name], arrays.get(SCALE + name), encoding))
        for name, array in given.items()
        if is_encoded(encoding, array.dtype.str, array.shape)
    }


def contents(path: Path) -> Contents:
    """The header of a packed file, encoded or plain, checked.

    Raises:
        WardRoundError: it is not a packed tensor file, or not encoded as it says.
    """
    found, metadata = slots(path)
    try:
        if HEADING not in metadata:
            places = {name: Place(slot.dtype, slot.shape, slot) for name, slot in found.items()}
            return Contents(places, part_weights(metadata), PLAIN)
        heading = json.loads(metadata[HEADING])
        encoding = Encoding.model_validate(heading["encoding"])
        weights = {part: float(weight) for part, weight in heading["weights"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise WardRoundError(f"{path.name} has no heading that can be read") from error
    return Contents(_places(found, encoding), weights, encoding)


def _places(found: Mapping[str, Slot], encoding: Encoding) -> dict[str, Place]:
    scales = {name.removeprefix(SCALE): slot for name, slot in found.items() if name.startswith(SCALE)}
    places = {}
    for name, slot in found.items():
        if name.startswith(SCALE):
            continue
        coded = slot.dtype == TYPES.get(encoding.kind)
        dtype = "<f4" if coded else slot.dtype
        scale = scales.pop(name, None)
        if coded != is_encoded(encoding, dtype, slot.shape):
            raise WardRoundError("a tensor is not encoded as the file says")
        count = encoding.scales(math.prod(slot.shape)) if coded else 0
        if (scale is not None) != (count > 0) or (scale and (scale.dtype, scale.shape) != ("<f4", (count,))):
            raise WardRoundError("a tensor's scales are missing, or not of the right size")
        places[name] = Place(dtype, slot.shape, slot, encoding if coded else PLAIN, scale)
    if scales:
        raise WardRoundError("there are scales without a tensor")
    return places


def read_numbers(handle: int, place: Place, first: int, out: Array) -> None:
    """Fill ``out`` with the numbers from ``first`` on. A scale that is not finite and at least 0 gives NaN or infinity.

    Raises:
        WardRoundError: the file ended early.
    """
    if place.encoding.kind == "fp32":
        _read(handle, out, place.numbers, first)
        return
    numbers = np.empty(out.size, place.numbers.dtype)
    _read(handle, numbers, place.numbers, first)
    scales = None
    if place.scales is not None:
        begin, end = first // place.encoding.block, (first + out.size - 1) // place.encoding.block
        scales = np.empty(end + 1 - begin, np.float32)
        _read(handle, scales, place.scales, begin)
    decode(numbers, scales, place.encoding, first, out)


def _read(handle: int, target: Array, slot: Slot, first: int) -> None:
    view, offset = target.data.cast("B"), slot.offset + first * target.itemsize
    while view:
        got = os.preadv(handle, [view], offset)
        if not got:
            raise WardRoundError("a contribution's file ended early")
        view, offset = view[got:], offset + got


def unpack_decoded(path: Path) -> dict[str, Part]:
    """The parts of a packed file, decoded; what is not encoded is a view into the file.

    Raises:
        WardRoundError: it is not a packed tensor file, or a scale is not finite and at least 0.
    """
    head, raw = contents(path), map_tensors(path)
    arrays = {name: _whole(raw, name, place) for name, place in head.places.items()}
    return {part: Part(of_part(arrays, part), weight) for part, weight in head.weights.items()}


def _whole(raw: Arrays, name: str, place: Place) -> Array:
    if place.encoding.plain:
        return raw[name]
    scales = raw.get(SCALE + name)
    if scales is not None and not np.all((scales >= 0) & np.isfinite(scales)):
        raise WardRoundError("a tensor has a scale that is not finite and at least 0")
    return decoded(raw[name], scales, place.encoding)
