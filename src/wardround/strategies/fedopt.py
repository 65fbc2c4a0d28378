"""FedOpt, an optimiser at the coordinator: Reddi et al., Adaptive Federated Optimization, ICLR 2021."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal

import numpy as np
from pydantic import Field

from wardround.core.contracts import Aggregate, Shared
from wardround.core.weights import Array, Arrays, is_statistic, parameters
from wardround.strategies.fedavg import FedAvg


class ServerOptimiser(FedAvg):
    """Algorithm 1: ``Delta = mean(y_i) - x`` is the coordinator's negative gradient, on which it takes one step.

    Differs from the paper: the mean is weighted by training cases (as in the paper's experiments, not in its
    Algorithm 2), every site is asked, and running statistics of batch normalisation take the mean.
    """

    rate: float = Field(default=1.0, gt=0, le=10, description="server learning rate, eta")

    def start(self) -> Mapping[str, float]:
        """What each quantity of the optimiser's memory begins at."""
        return {"m": 0.0}

    @abstractmethod
    def advance(self, delta: Array, memory: Mapping[str, Array]) -> tuple[Array, Mapping[str, Array]]:
        """What is added to a parameter, and the new memory."""

    def begin(self, weights: Arrays) -> Shared:
        return {
            f"{quantity}/{name}": np.full_like(array, value)
            for quantity, value in self.start().items()
            for name, array in parameters(weights).items()
        }

    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        new, memory = dict(aggregate.parts["weights"].arrays), dict(shared)
        if sites == 1:
            return new, memory
        for name, mean in new.items():
            if is_statistic(name):
                continue
            own = {quantity: shared[f"{quantity}/{name}"] for quantity in self.start()}
            move, own_after = self.advance(mean - weights[name], own)
            new[name] = np.asarray(weights[name] + move)
            memory.update({f"{quantity}/{name}": np.asarray(array) for quantity, array in own_after.items()})
        return new, memory


class FedAvgM(ServerOptimiser):
    """SGD with momentum (Hsu et al. 2019): ``m <- beta m + Delta``, ``x <- x + eta m``.

    Momentum 0 is SGD at the coordinator, and with rate 1 too it is FedAvg.
    """

    name: Literal["fedavgm"] = "fedavgm"  # type: ignore[assignment]
    momentum: float = Field(default=0.9, ge=0, lt=1, description="beta")

    def advance(self, delta: Array, memory: Mapping[str, Array]) -> tuple[Array, Mapping[str, Array]]:
        m = self.momentum * memory["m"] + delta
        return self.rate * m, {"m": m}


class Adaptive(ServerOptimiser):
    """Algorithm 2: ``m <- beta1 m + (1 - beta1) Delta``, ``x <- x + eta m / (sqrt(v) + tau)``; members differ in v.

    v begins at tau^2, the least that the paper allows, so nothing is divided by 0.
    """

    rate: float = Field(default=0.01, gt=0, le=10, description="server learning rate, eta")
    beta1: float = Field(default=0.9, ge=0, lt=1)
    tau: float = Field(default=1e-3, ge=1e-8, le=1, description="larger is less adaptive")

    def start(self) -> Mapping[str, float]:
        return {"m": 0.0, "v": self.tau**2}

    @abstractmethod
    def second(self, v: Array, square: Array) -> Array:
        """The next v after a round whose Delta has the squares ``square``."""

    def advance(self, delta: Array, memory: Mapping[str, Array]) -> tuple[Array, Mapping[str, Array]]:
        m = self.beta1 * memory["m"] + (1 - self.beta1) * delta
        v = self.second(memory["v"], delta * delta)
        return self.rate * m / (np.sqrt(v) + self.tau), {"m": m, "v": v}


class FedAdagrad(Adaptive):
    """``v <- v + Delta^2``; beta1 0 is the paper's own choice for it."""

    name: Literal["fedadagrad"] = "fedadagrad"  # type: ignore[assignment]
    beta1: float = Field(default=0.0, ge=0, lt=1)

    def second(self, v: Array, square: Array) -> Array:
        return np.asarray(v + square)


class FedAdam(Adaptive):
    """``v <- beta2 v + (1 - beta2) Delta^2``, without Adam's correction of the first rounds, as in the paper."""

    name: Literal["fedadam"] = "fedadam"  # type: ignore[assignment]
    beta2: float = Field(default=0.99, ge=0, lt=1)

    def second(self, v: Array, square: Array) -> Array:
        return np.asarray(self.beta2 * v + (1 - self.beta2) * square)


class FedYogi(Adaptive):
    """``v <- v - (1 - beta2) Delta^2 sign(v - Delta^2)``."""

    name: Literal["fedyogi"] = "fedyogi"  # type: ignore[assignment]
    beta2: float = Field(default=0.99, ge=0, lt=1)

    def second(self, v: Array, square: Array) -> Array:
        return np.asarray(v - (1 - self.beta2) * square * np.sign(v - square))
