"""The sites' contributions as open files, read in stretches: memory does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.core.encoding import Encoding
from wardround.core.errors import WardRoundError
from wardround.core.parcels import MODEL, Place, contents, read_numbers
from wardround.core.weights import Array, Part, blocks, of_part

# Numbers in a block: one block of the sum and one of a site (float32) stay in the second-level cache.
BLOCK = 65536
# Blocks a thread takes at a time.
RUN = 32
# Numbers in a dot product: BLAS takes one thread for so few, so that its bits do not depend on how many there are.
CHUNK = 8192


@dataclass(frozen=True)
class Contribution:
    """One site's packed contribution: an open file, where its tensors lie, and its parts' weights.

    ``factor`` shortens the update when it is read: x becomes anchor + factor * (x - anchor).
    """

    site: str
    handle: int
    places: Mapping[str, Place]
    weights: Mapping[str, float]
    encoding: Encoding
    factor: float = 1.0

    def form(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every tensor, by part and name."""
        return {name: (place.dtype, place.shape) for name, place in self.places.items()}


@dataclass(frozen=True)
class Group:
    """Contributions of one form, in site order, and the model that was sent to the sites, if any.

    ``measured`` says that their squared norms are known already, so that reading need not measure.
    """

    members: Sequence[Contribution]
    sent: Contribution | None = None
    measured: bool = False

    def weights(self, part: str) -> list[float]:
        """Every member's weight of a part."""
        return [member.weights[part] for member in self.members]


@dataclass(frozen=True)
class Folded:
    """What became of a group: its parts, and each member's sum of squares by part.

    The squares are those of the update (the difference from the model that was sent) in the part "weights" and of
    the numbers themselves elsewhere, as they are before clipping. Empty where the group had been measured.
    """

    parts: Mapping[str, Part]
    squares: Mapping[str, Array]


def opened(stack: ExitStack, site: str, path: Path) -> Contribution:
    """Open a packed contribution; ``stack`` closes it. Only its header is read.

    Raises:
        WardRoundError: it is not a packed tensor file.
    """
    try:
        head = contents(path)
        handle = stack.enter_context(path.open("rb")).fileno()
    except (WardRoundError, OSError) as error:
        raise WardRoundError("its contribution is not a readable tensor file with weights") from error
    return Contribution(site, handle, head.places, head.weights, head.encoding)


class Stretch:
    """A stretch of one tensor as every member has it, read block by block into the caller's buffer.

    Where members hold updates (see `Encoding.updates`), updates are read, and `land` adds them to the model that
    was sent: means, medians and distances are the same about any origin.
    """

    def __init__(self, group: Group, part: str, name: str, piece: slice, block: int) -> None:
        packed = f"{part}/{name}"
        self._group, self._piece, self._block = group, piece, block
        self._places = [member.places[packed] for member in group.members]
        self._sent = group.sent if part == MODEL else None
        self._sent_place = None if self._sent is None else self._sent.places[packed]
        self.updates = part == MODEL and group.members[0].encoding.updates
        self.dtype = np.dtype(self._places[0].dtype)
        self.squares = np.zeros(len(group.members))
        self.size = min(block, piece.stop - piece.start)
        self._anchor, self._anchored = np.empty(self.size, self.dtype), -1
        # Half precision would overflow where it is squared.
        self._scratch = np.empty(self.size, np.float32 if self.dtype.itemsize < 4 else self.dtype)

    def __len__(self) -> int:
        return len(self._places)

    def blocks(self) -> Iterator[slice]:
        """Where each block lies in the flattened tensor, in order."""
        for block in blocks(self._piece.stop - self._piece.start, self._block):
            yield slice(self._piece.start + block.start, self._piece.start + block.stop)

    def anchor(self, where: slice) -> Array | None:
        """A block of the model that was sent; None where the part is no model or none was sent."""
        if self._sent is None or self._sent_place is None:
            return None
        anchor = self._anchor[: where.stop - where.start]
        if self._anchored != where.start:
            read_numbers(self._sent.handle, self._sent_place, where.start, anchor)
            self._anchored = where.start
        return anchor

    def read(self, number: int, where: slice, out: Array) -> None:
        """Fill ``out`` with a block of one member, shortened by its factor; measure it where that is not done."""
        member = self._group.members[number]
        read_numbers(member.handle, self._places[number], where.start, out)
        if self._group.measured and member.factor == 1:
            return
        update, anchor = out, None if self.updates else self.anchor(where)
        if anchor is not None:
            update = self._scratch[: out.size]
            np.subtract(out, anchor, out=update, dtype=update.dtype)
        if not self._group.measured:
            self.squares[number] += _sum_of_squares(update)
        if member.factor == 1:
            return
        if self.updates:
            out *= out.dtype.type(member.factor)
        elif anchor is not None:
            update *= update.dtype.type(member.factor)
            np.add(anchor, update, out=out, casting="same_kind")

    def land(self, where: slice, out: Array) -> None:
        """Make a block of the model of what was combined in ``out``."""
        if self.updates and (anchor := self.anchor(where)) is not None:
            out += anchor


def _sum_of_squares(values: Array) -> float:
    if values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    whole = values.size // CHUNK * CHUNK
    rows, rest = values[:whole].reshape(-1, CHUNK), values[whole:]
    return float(np.vecdot(rows, rows).sum(dtype=np.float64)) + float(np.vecdot(rest, rest))


def sweep(
    group: Group,
    part: str,
    kernel: Callable[[Stretch, Array | None], Array],
    out: Mapping[str, Array] | None = None,
    block: int | None = None,
) -> Array | None:
    """Once over a part of all files: ``kernel`` for every stretch, with the array to fill; the sum of its results.

    Stretches are taken by as many threads as there are cores (numpy and reads release the lock), and
    summed in the order in which they lie. None where the part holds nothing.
    """
    size = block or BLOCK
    jobs = []
    for name, place in of_part(group.members[0].places, part).items():
        flat = None if out is None else out[name].reshape(-1)
        for piece in blocks(place.size, RUN * BLOCK):
            jobs.append((name, piece, flat))

    def one(job: tuple[str, slice, Array | None]) -> Array:
        name, piece, flat = job
        with np.errstate(all="ignore"):  # what is not finite is found by its squares
            return kernel(Stretch(group, part, name, piece, size), flat)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        results = list(pool.map(one, jobs))
    return sum(results[1:], results[0]) if results else None


def empty_like(group: Group, part: str) -> dict[str, Array]:
    """Arrays of the part's shapes and types, not filled."""
    return {name: np.empty(place.shape, place.dtype) for name, place in of_part(group.members[0].places, part).items()}
