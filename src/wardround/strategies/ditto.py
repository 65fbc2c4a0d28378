"""Ditto: Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wardround.core.contracts import Strategy
from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fedprox import FedProx


class Ditto(FedAvg):
    """Each site k minimises ``h_k(v_k; w*) = F_k(v_k) + lambda/2 ||v_k - w*||^2`` for itself, w* being FedAvg's model.

    Algorithm 1: in every round the site trains the model w that it received and sends it, as in FedAvg, and takes
    ``v_k <- v_k - eta (grad F_k(v_k) + lambda (v_k - w))`` for its own v_k, which begins as the first w it
    receives and never leaves. So the shared model is FedAvg's bit for bit. With lambda 0 v_k is local-only
    training; the larger lambda, the nearer v_k stays to w.

    It costs twice FedAvg's steps: as many updates of v_k as of w. Differs from the paper: v_k is trained with the
    plan's optimiser on the round's batches; a site that misses a round leaves v_k as it is.
    """

    name: Literal["ditto"] = "ditto"  # type: ignore[assignment]
    strength: float = Field(
        default=0.1, ge=0, le=100, description="lambda: how strongly a site's own model is held near the shared one"
    )

    def companion(self) -> Strategy | None:
        return FedProx(mu=self.strength)
