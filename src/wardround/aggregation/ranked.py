"""Rules that sort the sites' values of every single parameter: coordinate by coordinate, unweighted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial

import numpy as np

from wardround.aggregation.contributions import Folded, Group, Stretch, empty_like, sweep
from wardround.core.weights import Array, Part

# Numbers that all sites' blocks have together: they stay in the second-level cache, however many sites there are.
BUDGET = 262144


def fold_ranked(group: Group, kept: slice) -> Folded:
    """The unweighted mean of ``kept`` among each parameter's sorted values; a part's weight is the sum of weights."""
    block = max(1, BUDGET // len(group.members))
    parts, squares = {}, {}
    for part in group.members[0].weights:
        arrays = empty_like(group, part)
        found = sweep(group, part, partial(_ranked_mean, kept=kept), arrays, block)
        parts[part] = Part(arrays, float(sum(group.weights(part))))
        squares[part] = np.zeros(len(group.members)) if found is None else found
    return Folded(parts, squares)


def _ranked_mean(stretch: Stretch, out: Array | None, kept: slice) -> Array:
    assert out is not None  # noqa: S101 - `fold_ranked` gives arrays
    buffers = [np.empty(stretch.size, out.dtype) for _ in range(len(stretch) + 1)]
    for where in stretch.blocks():
        rows = [buffer[: where.stop - where.start] for buffer in buffers]
        spare = rows.pop()
        for number, row in enumerate(rows):
            stretch.read(number, where, row)
        _sort(rows, spare)
        chosen = rows[kept]
        total = out[where]
        total[...] = chosen[0]
        for row in chosen[1:]:
            total += row
        if len(chosen) > 1:
            total /= out.dtype.type(len(chosen))
        stretch.land(where, total)
    return stretch.squares


def _sort(rows: list[Array], spare: Array) -> None:
    """Put the smallest number of every column into the first row, and so on. Rows change places with ``spare``."""
    for low, high in comparators(len(rows)):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]


@lru_cache
def comparators(size: int) -> Sequence[tuple[int, int]]:
    """Pairs that sort ``size`` rows when compared in turn: Batcher's merge exchange (Knuth, TAOCP 3, 5.2.2 M).

    Whole rows are compared at once, which for ten sites is a hundred times faster than sorting column by column.
    """
    return tuple(_merge_exchange(size))


def _merge_exchange(size: int) -> Iterator[tuple[int, int]]:
    top = 1 << max(0, (size - 1).bit_length() - 1)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while d > 0:
            yield from ((i, i + d) for i in range(size - d) if i & p == r)
            d, q, r = q - p, q >> 1, p
        p >>= 1
