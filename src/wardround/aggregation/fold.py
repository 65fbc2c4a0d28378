"""The weighted mean of many contributions: in site order, in one pass over memory.

Why float32 and not float64: docs/decisions/0003-fold-in-float32.md.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wardround.core.errors import WardRoundError
from wardround.core.weights import Array, Part, blocks, unpack

# One block of the sum and one of scratch (float32) stay in the second-level cache.
BLOCK = 65536


def fold_files(files: Sequence[Path]) -> dict[str, Part]:
    """Weighted mean of the packed contributions in ``files``, folded in the order given.

    Blocks of parameters are the outer loop and sites the inner one, so a block's sum never leaves
    the processor's cache and every contribution is read exactly once: memory does not grow with
    the number of sites. The order of the sums is fixed, so the bits do not depend on arrival.

    Raises:
        WardRoundError: contributions differ in parts, names, shapes or types.
    """
    contributions = [unpack(file) for file in files]
    first = contributions[0]
    return {part: _fold_part(part, [other.get(part) for other in contributions]) for part in first}


def _fold_part(name: str, parts: Sequence[Part | None]) -> Part:
    present = [part for part in parts if part is not None]
    first = present[0]
    for part in present:
        if len(present) != len(parts) or _form(part) != _form(first):
            raise WardRoundError(f"the sites' contributions to {name!r} differ in names, shapes or types")
    total = float(sum(part.weight for part in present))
    if not total > 0:
        raise WardRoundError(f"the weights of {name!r} add up to {total}, not to a positive number")
    shares = [part.weight / total for part in present]
    means = {key: np.empty(array.shape, array.dtype) for key, array in first.arrays.items()}
    jobs = [
        (means[key].reshape(-1), [part.arrays[key].reshape(-1) for part in present], piece)
        for key in means
        for piece in blocks(means[key].size, 32 * BLOCK)
    ]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # numpy releases the lock inside each block
        list(pool.map(lambda job: weighted_mean(job[0], job[1], shares, job[2]), jobs))
    return Part(means, total)


def _form(part: Part) -> Mapping[str, tuple[tuple[int, ...], str]]:
    return {name: (array.shape, array.dtype.str) for name, array in part.arrays.items()}


def weighted_mean(out: Array, sources: Sequence[Array], shares: Sequence[float], piece: slice) -> None:
    """``out[piece] = sum_k shares[k] * sources[k][piece]``, in that order, in the arrays' own type."""
    scratch = np.empty(BLOCK, out.dtype)
    factors = [out.dtype.type(share) for share in shares]
    for block in blocks(piece.stop - piece.start, BLOCK):
        here = slice(piece.start + block.start, piece.start + block.stop)
        total, term = out[here], scratch[: here.stop - here.start]
        np.multiply(sources[0][here], factors[0], out=total)
        for source, factor in zip(sources[1:], factors[1:], strict=True):
            np.multiply(source[here], factor, out=term)
            total += term
