"""The weighted mean of many contributions: in site order, in one pass over the files.

Why float32 and not float64: docs/decisions/0003-fold-in-float32.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np

from wardround.aggregation.contributions import Folded, Group, Stretch, empty_like, opened, sweep
from wardround.core.errors import WardRoundError
from wardround.core.weights import Array, Part


def fold(group: Group, given: Mapping[str, Sequence[float]] | None = None) -> Folded:
    """Weighted mean of a group's contributions, by part, with their own weights or those ``given``.

    Blocks of parameters are the outer loop and sites the inner one, so a block's sum never leaves
    the processor's cache and every contribution is read exactly once, into one small buffer:
    memory does not grow with the number of sites. Norms are measured on the way, while a block is in
    the cache. The order of the sums is fixed, so the bits do not depend on arrival.

    Raises:
        WardRoundError: weights do not add up to a positive number.
    """
    parts, squares = {}, {}
    for part in group.members[0].weights:
        weights = group.weights(part)
        shares = shares_of(part, weights if given is None else given[part])
        means = empty_like(group, part)
        found = sweep(group, part, partial(_weighted_mean, shares=shares), means)
        parts[part] = Part(means, float(sum(weights)))
        squares[part] = np.zeros(len(weights)) if found is None else found
    return Folded(parts, squares)


def fold_files(files: Sequence[Path]) -> dict[str, Part]:
    """`fold` of packed contributions that are known to be sound, in the order given; of updates, the mean update.

    Raises:
        WardRoundError: they differ in parts, names, shapes or types, or weights add up to nothing.
    """
    with ExitStack() as stack:
        members = [opened(stack, file.name, file) for file in files]
        forms = [(set(member.weights), member.form(), member.encoding) for member in members]
        if any(form != forms[0] for form in forms):
            raise WardRoundError("the sites' contributions differ in names, shapes or types")
        return dict(fold(Group(members, measured=True)).parts)


def shares_of(part: str, weights: Sequence[float]) -> list[float]:
    """Weights as shares of one. Raises WardRoundError where they add up to nothing."""
    total = float(sum(weights))
    if not total > 0:
        raise WardRoundError(f"the weights of {part!r} add up to {total}, not to a positive number")
    return [weight / total for weight in weights]


def _weighted_mean(stretch: Stretch, out: Array | None, shares: Sequence[float]) -> Array:
    """``out = sum_k share_k * x_k``, in that order, in the arrays' own type; of updates, on the model sent."""
    assert out is not None  # noqa: S101 - `fold` gives arrays
    scratch = np.empty(stretch.size, out.dtype)
    for where in stretch.blocks():
        total, term = out[where], scratch[: where.stop - where.start]
        for number, share in enumerate(shares):
            target = total if number == 0 else term
            stretch.read(number, where, target)
            target *= out.dtype.type(share)
            if number:
                total += term
        stretch.land(where, total)
    return stretch.squares
