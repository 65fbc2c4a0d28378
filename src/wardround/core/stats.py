"""Statistics that merge across sites: ``merge(of(a), of(b)) == of(a + b)``, in any order.

Merging adds plain floats, so it is associative up to rounding; the coordinator always folds in site
order, so the bits do not depend on arrival.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Protocol, Self, TypeVar

from pydantic import Field, NonNegativeInt, model_validator

from wardround.core.frozen import Frozen


class Mergeable(Protocol):
    """What two sites' values of one kind can do."""

    def merge(self, other: Self) -> Self:
        """The statistic of both sites' cases together."""
        ...


M = TypeVar("M", bound=Mergeable)


def merge_all(parts: Iterable[M], zero: M) -> M:
    """Fold in the order given."""
    return reduce(lambda left, right: left.merge(right), parts, zero)


class Moments(Frozen):
    """Count, sum and sum of squares of one quantity."""

    n: NonNegativeInt = 0
    total: float = 0.0
    squares: float = Field(default=0.0, ge=0)

    @classmethod
    def of(cls, values: Iterable[float]) -> Moments:
        """Moments of finite values; others are for the caller to count."""
        kept = [float(v) for v in values]
        return cls(n=len(kept), total=math.fsum(kept), squares=math.fsum(v * v for v in kept))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of values together."""
        return Moments(n=self.n + other.n, total=self.total + other.total, squares=self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        """The mean, or None of nothing."""
        return self.total / self.n if self.n else None

    @property
    def std(self) -> float | None:
        """The population standard deviation, or None of nothing."""
        if not self.n:
            return None
        return math.sqrt(max(0.0, self.squares / self.n - (self.total / self.n) ** 2))


class Histogram(Frozen):
    """Counts in equal bins of ``[low, high]``; what lies outside is counted in the end bins."""

    low: float
    high: float
    counts: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _sane(self) -> Histogram:
        if not self.low < self.high or not self.counts:
            raise ValueError("a histogram needs low < high and at least one bin")
        return self

    @classmethod
    def of(cls, values: Iterable[float], low: float, high: float, bins: int) -> Histogram:
        """Histogram of finite values."""
        counts = [0] * bins
        for value in values:
            place = int((value - low) / (high - low) * bins)
            counts[min(max(place, 0), bins - 1)] += 1
        return cls(low=low, high=high, counts=tuple(counts))

    def merge(self, other: Histogram) -> Histogram:
        """Bins add. Raises ValueError where the bins differ."""
        if (self.low, self.high, len(self.counts)) != (other.low, other.high, len(other.counts)):
            raise ValueError("histograms with different bins cannot be merged")
        return self.model_copy(update={"counts": tuple(map(sum, zip(self.counts, other.counts, strict=True)))})

    @property
    def n(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def edges(self) -> Sequence[float]:
        """The bins' ``len(counts) + 1`` edges."""
        width = (self.high - self.low) / len(self.counts)
        return [self.low + i * width for i in range(len(self.counts) + 1)]

    def quantile(self, q: float) -> float | None:
        """Quantile ``q`` in [0, 1], linear within a bin; None of nothing."""
        if not self.n:
            return None
        target, seen, edges = q * self.n, 0.0, self.edges()
        for i, count in enumerate(self.counts):
            if count and seen + count >= target:
                return edges[i] + (edges[i + 1] - edges[i]) * max(0.0, target - seen) / count
            seen += count
        return self.high


def merge_counts(left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
    """Key-wise sum with sorted keys."""
    return {key: left.get(key, 0) + right.get(key, 0) for key in sorted({*left, *right})}
