"""What several strategies do at the coordinator."""

from __future__ import annotations

import numpy as np

from wardround.core.weights import Arrays, is_statistic


def moved(weights: Arrays, mean: Arrays, rate: float) -> Arrays:
    """``x + rate (mean - x)`` for parameters; running statistics take the mean. Rate 1 gives ``mean`` bit for bit."""
    if rate == 1:
        return mean
    return {
        name: array if is_statistic(name) else np.asarray(weights[name] + rate * (array - weights[name]))
        for name, array in mean.items()
    }
