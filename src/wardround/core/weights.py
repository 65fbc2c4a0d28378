"""Named arrays and the files they travel in: safetensors, written atomically, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from wardround.core.errors import StorageError, WardRoundError

T = TypeVar("T")
Array = NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Part:
    """A linear part of a contribution: ``arrays`` is x and ``weight`` is w; w*x and w are summed."""

    arrays: Arrays
    weight: float


Parts = Mapping[str, Part]


STATISTICS = ("running_mean", "running_var")


def is_statistic(name: str) -> bool:
    """True for a running mean or variance of batch normalisation, told by the last word of its name.

    Everything else that travels is a parameter. No network may give a parameter such a name.
    """
    return name.rpartition(".")[2] in STATISTICS


def parameters(arrays: Mapping[str, T]) -> dict[str, T]:
    """What has a gradient: everything but running statistics (see `is_statistic`)."""
    return {name: array for name, array in arrays.items() if not is_statistic(name)}


def weights_digest(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and bytes, in name order."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        total.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        total.update(array.data)
    return total.hexdigest()


def all_finite(arrays: Arrays) -> bool:
    """True where no array holds NaN or infinity."""
    return all(bool(np.isfinite(array).all()) for array in arrays.values())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, arrays: Arrays, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file so that it is either absent or whole, even after a power cut."""
    scratch = path.with_name(path.name + ".part")
    try:
        save_file({k: np.asarray(v, order="C") for k, v in arrays.items()}, scratch, metadata=dict(metadata or {}))
        _settle(scratch, path)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write any file atomically (see `write_tensors`)."""
    scratch = path.with_name(path.name + ".part")
    try:
        scratch.write_bytes(data)
        _settle(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise StorageError(f"cannot write {path}: {error}") from error


def _settle(scratch: Path, path: Path) -> None:
    with scratch.open("rb+") as file:
        os.fsync(file.fileno())
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tensors(path: Path) -> dict[str, Array]:
    """Copies of all arrays of a safetensors file."""
    return {name: np.array(array) for name, array in map_tensors(path).items()}


@dataclass(frozen=True)
class Slot:
    """Where one tensor lies in a file."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


def slots(path: Path) -> tuple[dict[str, Slot], dict[str, str]]:
    """Where each tensor of a safetensors file lies, by name, and the file's metadata.

    Raises:
        WardRoundError: the file is not a valid safetensors file, or has a type that is not supported.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # validates header, bounds and overlaps
            names, metadata = list(file.keys()), dict(file.metadata() or {})
        with path.open("rb") as raw:
            length = int.from_bytes(raw.read(8), "little")
            header = json.loads(raw.read(length))
    except (OSError, SafetensorError, ValueError) as error:
        raise WardRoundError(f"{path.name} is not a readable safetensors file: {error}") from error
    return {name: _slot(header[name], 8 + length) for name in names}, metadata


_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2"},
    **{"I64": "<i8", "I32": "<i4", "U16": "<u2", "I8": "i1", "U8": "u1", "BOOL": "?"},
}


def _slot(entry: dict[str, Any], body: int) -> Slot:
    if entry["dtype"] not in _DTYPES:
        raise WardRoundError(f"tensors of type {entry['dtype']} are not supported")
    start, end = entry["data_offsets"]
    return Slot(_DTYPES[entry["dtype"]], tuple(entry["shape"]), body + start, end - start)


def map_tensors(path: Path) -> dict[str, Array]:
    """Read-only views into the file: nothing is read before it is used.

    Raises:
        WardRoundError: see `slots`.
    """
    places, _ = slots(path)
    whole: Array = np.empty(0, np.uint8)
    if any(slot.size for slot in places.values()):
        whole = np.memmap(path, dtype=np.uint8, mode="r")
    return {
        name: np.asarray(whole[slot.offset : slot.offset + slot.size]).view(slot.dtype).reshape(slot.shape)
        for name, slot in places.items()
    }


def pack(parts: Parts) -> tuple[dict[str, Array], dict[str, str]]:
    """A contribution as (arrays, metadata) of one tensor file; see `unpack`."""
    arrays = {f"{part}/{name}": array for part, content in parts.items() for name, array in content.arrays.items()}
    return arrays, {"weights": json.dumps({part: content.weight for part, content in sorted(parts.items())})}


def unpack(path: Path) -> dict[str, Part]:
    """The parts of a packed contribution, as views into the file."""
    arrays, weights = map_tensors(path), part_weights(slots(path)[1])
    return {part: Part(of_part(arrays, part), weight) for part, weight in weights.items()}


def part_weights(metadata: Mapping[str, str]) -> dict[str, float]:
    """The weights of a packed contribution's parts."""
    return {part: float(weight) for part, weight in json.loads(metadata.get("weights", "{}")).items()}


def of_part(named: Mapping[str, T], part: str) -> dict[str, T]:
    """What belongs to a part, under the names it has there."""
    return {name.partition("/")[2]: value for name, value in named.items() if name.partition("/")[0] == part}


def blocks(size: int, block: int) -> Iterator[slice]:
    """Slices that cover ``range(size)`` in steps of ``block``."""
    return (slice(i, min(i + block, size)) for i in range(0, size, block))


def count(arrays: Iterable[Array]) -> int:
    """How many numbers."""
    return sum(array.size for array in arrays)
