"""FedProx: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wardround.core.contracts import Kept, Shared
from wardround.strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """Each site minimises ``h_k(w; w[t]) = F_k(w) + mu/2 ||w - w[t]||^2`` (eq. 2).

    The gradient of the second term, ``mu (w - w[t])``, is added before clipping; aggregation is
    FedAvg's. With mu 0 it is FedAvg. As in FedAvg here, all sites take the same number of steps,
    so the paper's gamma-inexactness comes from the fixed budget, not from stragglers.
    """

    name: Literal["fedprox"] = "fedprox"  # type: ignore[assignment]
    mu: float = Field(default=0.01, ge=0, le=100, description="strength of the pull towards the global model")

    def pull(self, w: Mapping[str, Any], anchor: Mapping[str, Any], shared: Shared, kept: Kept) -> Mapping[str, Any]:
        return {name: self.mu * (value - anchor[name]) for name, value in w.items()}
