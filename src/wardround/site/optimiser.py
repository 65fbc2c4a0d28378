"""Optimiser, learning rate, and the optimiser's state as named arrays."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from wardround.core.weights import Array, Arrays
from wardround.planning.plan import Plan
from wardround.planning.training import AdamW

PREFIX = "optimiser/"


def make_optimiser(plan: Plan, network: nn.Module) -> torch.optim.Optimizer:
    """The plan's optimiser over all parameters."""
    settings = plan.training.optimiser
    if isinstance(settings, AdamW):
        return torch.optim.AdamW(network.parameters(), settings.rate, weight_decay=settings.weight_decay)
    return torch.optim.SGD(
        network.parameters(),
        settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.momentum > 0,
    )


def rate_at(plan: Plan, update: int) -> float:
    """Learning rate of a global update: poly decay (1 - t/T)^power over all rounds' steps, or constant."""
    base = plan.training.optimiser.rate
    if plan.training.schedule == "constant":
        return base
    return float(base * max(0.0, 1 - update / plan.updates) ** plan.training.power)


def save_state(optimiser: torch.optim.Optimizer, network: nn.Module) -> dict[str, Array]:
    """Momenta by ``optimiser/<quantity>/<parameter>``; `load_state` undoes it bit for bit."""
    out: dict[str, Array] = {}
    for name, parameter in network.named_parameters():
        for quantity, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                out[f"{PREFIX}{quantity}/{name}"] = np.array(value.detach().cpu().numpy())
    return out


def load_state(optimiser: torch.optim.Optimizer, network: nn.Module, arrays: Arrays) -> None:
    """Put back what `save_state` gave; arrays of other names are passed over."""
    parameters = dict(network.named_parameters())
    for key, array in arrays.items():
        if key.startswith(PREFIX):
            quantity, name = key.removeprefix(PREFIX).split("/", 1)
            parameter = parameters[name]
            value = torch.from_numpy(np.array(array))
            home = value if quantity == "step" else value.to(parameter.device)
            optimiser.state[parameter][quantity] = home
