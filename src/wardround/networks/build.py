"""From settings to a module, and between a module and the named arrays that travel.

torch is imported when a function is called, never when this file is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wardround.core.errors import Fault, InputError
from wardround.core.weights import Array, Arrays
from wardround.networks.catalog import NetworkSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

MOST_FAULTS = 20  # listed; a foreign file has hundreds


def build(settings: NetworkSettings, dimensions: int, channels_in: int, classes: int) -> nn.Module:
    """The network with He-initialised weights, drawn from torch's global generator.

    Call ``torch.manual_seed`` first: the same seed gives the same bits. The module takes float
    (N, channels_in, *size) and gives logits (N, classes, *size), background included; in training mode
    with deep supervision a list of logits, final ones first, whose later items may be coarser.

    Raises:
        ValueError: strides for other axes than ``dimensions``, or counts below 1.
    """
    if channels_in < 1 or classes < 1:
        raise ValueError(f"a network needs channels and classes, not {channels_in} and {classes}")
    from wardround.networks.attention_unet import AttentionUNetModule  # noqa: PLC0415 - torch, see the top
    from wardround.networks.blocks import Kit, he_init  # noqa: PLC0415
    from wardround.networks.unet import UNetModule  # noqa: PLC0415
    from wardround.networks.unet_plus_plus import UNetPlusPlusModule  # noqa: PLC0415

    families: dict[str, Callable[[Kit, int, int], nn.Module]] = {
        "unet": UNetModule,
        "unet++": UNetPlusPlusModule,
        "attention_unet": AttentionUNetModule,
    }
    module = families[settings.name](Kit(settings, dimensions), channels_in, classes)
    he_init(module, settings.activation)
    return module


def roles(module: nn.Module) -> dict[str, str]:
    """What each tensor of `exchange` is for, by name, in the same order.

    ``norm.affine`` (scale and shift of a normalisation), ``norm.statistics`` (running mean and variance
    of batch norm), ``head`` (the last convolutions) or ``body``: the names of private parameter groups.
    """
    from wardround.networks.blocks import NORMS  # noqa: PLC0415 - torch, see the top

    norms = {name for name, part in module.named_modules() if isinstance(part, NORMS)}
    parameters = {name for name, _ in module.named_parameters()}
    return {name: _role(name, norms, parameters) for name, _ in _tensors(module)}


def _role(name: str, norms: set[str], parameters: set[str]) -> str:
    if name.rpartition(".")[0] in norms:
        return "norm.affine" if name in parameters else "norm.statistics"
    return "head" if name.startswith("heads.") else "body"


def exchange(module: nn.Module) -> dict[str, Array]:
    """Copies of all floating-point parameters and buffers, each once, by name."""
    return {name: np.array(tensor.detach().cpu().numpy()) for name, tensor in _tensors(module)}


def load(module: nn.Module, arrays: Arrays) -> None:
    """Put ``arrays`` (see `exchange`) into the module, bit for bit; on a fault nothing is changed.

    Raises:
        InputError: lists missing and unknown names, and wrong shapes or types.
    """
    import torch  # noqa: PLC0415 - see the top

    tensors = dict(_tensors(module))
    if faults := _faults({name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}, arrays):
        more = len(faults) - MOST_FAULTS
        rest = [Fault("", f"and {more} more")] if more > 0 else []
        raise InputError("these weights do not belong to this network:", faults[:MOST_FAULTS] + rest)
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(np.array(arrays[name])))  # a copy: torch wants writable memory


def _faults(expected: Arrays, given: Arrays) -> list[Fault]:
    missing = [Fault(name, "is missing") for name in expected if name not in given]
    unknown = [Fault(name[:200], "is not a tensor of this network") for name in given if name not in expected]
    wrong = [
        Fault(name, f"is {given[name].dtype} {given[name].shape}, expected {array.dtype} {array.shape}")
        for name, array in expected.items()
        if name in given and (given[name].shape != array.shape or given[name].dtype != array.dtype)
    ]
    return missing + unknown + wrong


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers in the module's order, as one sequence."""
    return ((n, t) for n, t in module.state_dict(keep_vars=True).items() if t.is_floating_point())
