"""Patient-level bootstrap: how far a mean over few patients may be from what more of them would give.

Patients, not cases, are drawn with replacement, within each site (Efron & Tibshirani, An Introduction to the
Bootstrap, 1993, ch. 13: percentile interval); a patient's cases and the models of several seeds stay together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95

# site -> patient -> that patient's values (cases, seeds)
Values = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class Interval:
    """A value and the interval in which the resampled ones lie."""

    value: float
    low: float
    high: float


def site_means(values: Values) -> dict[str, float]:
    """Mean over a site's cases; sites without a value are left out."""
    sums = {site: [v for case in patients.values() for v in case] for site, patients in values.items()}
    return {site: float(np.mean(found)) for site, found in sums.items() if found}


def bootstrap(values: Values, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Interval]:
    """Intervals of each site's mean, of the mean over sites (``mean``) and of the worst site (``worst``).

    A site with one patient has no spread to draw from: its interval is the value itself.
    """
    random = np.random.default_rng(seed)
    points = site_means(values)
    if not points:
        return {}
    drawn = {site: _resampled(values[site], random, resamples) for site in points}
    every = np.stack(list(drawn.values()))
    value = list(points.values())
    found = {site: _interval(points[site], drawn[site]) for site in points}
    return {
        **found,
        "mean": _interval(float(np.mean(value)), every.mean(axis=0)),
        "worst": _interval(min(value), every.min(axis=0)),
    }


def _resampled(patients: Mapping[str, Sequence[float]], random: np.random.Generator, n: int) -> NDArray[np.float64]:
    known = [values for _, values in sorted(patients.items()) if len(values)]
    sums = np.array([np.sum(values) for values in known], np.float64)
    counts = np.array([len(values) for values in known], np.float64)
    chosen = random.integers(len(known), size=(n, len(known)))
    means: NDArray[np.float64] = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    return means


def _interval(value: float, drawn: NDArray[np.float64]) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
