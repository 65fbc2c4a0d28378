"""The weighted mean of many contributions: in site order, in one pass over the files.

Why float32 and not float64: docs/decisions/0003-fold-in-float32.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.core.errors import WardRoundError
from wardround.core.weights import Array, Part, Slot, blocks, of_part, part_weights, slots

# Numbers in a block: one block of the sum and one of a site (float32) stay in the second-level cache.
BLOCK = 65536
# Blocks a thread takes at a time.
RUN = 32


@dataclass(frozen=True)
class _Source:
    """One site's tensor: an open file and where the tensor begins in it."""

    handle: int
    offset: int
    share: float


def fold_files(files: Sequence[Path]) -> dict[str, Part]:
    """Weighted mean of the packed contributions in ``files``, folded in the order given.

    Blocks of parameters are the outer loop and sites the inner one, so a block's sum never leaves
    the processor's cache and every contribution is read exactly once, into one small buffer:
    memory does not grow with the number of sites. The order of the sums is fixed, so the bits do
    not depend on arrival.

    Raises:
        WardRoundError: contributions differ in parts, names, shapes or types.
    """
    layouts = [slots(file) for file in files]
    weights = [part_weights(metadata) for _, metadata in layouts]
    for other, (places, _) in zip(weights, layouts, strict=True):
        if set(other) != set(weights[0]) or _form(places) != _form(layouts[0][0]):
            raise WardRoundError("the sites' contributions differ in names, shapes or types")
    with ExitStack() as stack:
        handles = [stack.enter_context(file.open("rb")).fileno() for file in files]
        return {
            part: _fold_part(
                part, handles, [of_part(places, part) for places, _ in layouts], [other[part] for other in weights]
            )
            for part in weights[0]
        }


def _form(places: dict[str, Slot]) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (slot.shape, slot.dtype) for name, slot in places.items()}


def _fold_part(name: str, handles: Sequence[int], layouts: Sequence[dict[str, Slot]], weights: Sequence[float]) -> Part:
    total = float(sum(weights))
    if not total > 0:
        raise WardRoundError(f"the weights of {name!r} add up to {total}, not to a positive number")
    means = {key: np.empty(slot.shape, slot.dtype) for key, slot in layouts[0].items()}
    jobs = []
    for key, mean in means.items():
        sources = [
            _Source(handle, layout[key].offset, weight / total)
            for handle, layout, weight in zip(handles, layouts, weights, strict=True)
        ]
        jobs += [(mean.reshape(-1), sources, piece) for piece in blocks(mean.size, RUN * BLOCK)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # numpy and reads release the lock
        list(pool.map(lambda job: _weighted_mean(*job), jobs))
    return Part(means, total)


def _weighted_mean(out: Array, sources: Sequence[_Source], piece: slice) -> None:
    """``out[piece] = sum_k share_k * source_k[piece]``, in that order, in the arrays' own type."""
    scratch = np.empty(min(BLOCK, piece.stop - piece.start), out.dtype)
    for block in blocks(piece.stop - piece.start, BLOCK):
        first, last = piece.start + block.start, piece.start + block.stop
        total, term = out[first:last], scratch[: last - first]
        for number, source in enumerate(sources):
            target = total if number == 0 else term
            _read(source.handle, target, source.offset + first * out.itemsize)
            target *= out.dtype.type(source.share)
            if number:
                total += term


def _read(handle: int, target: Array, offset: int) -> None:
    view = target.data.cast("B")
    while view:
        got = os.preadv(handle, [view], offset)
        if not got:
            raise WardRoundError("a contribution's file ended early")
        view, offset = view[got:], offset + got
