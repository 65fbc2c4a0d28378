"""Several processes that train one model of a site together, each on its share of every batch.

Torch's distributed data parallelism: Li et al., PyTorch Distributed: Experiences on Accelerating Data Parallel
Training, VLDB 2020. Every process holds the whole model and takes the same step, with the mean of all gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(minutes=10)  # for the slowest of them, at each step


@dataclass(frozen=True)
class Group:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    meet: str = ""  # a file through which they find each other; they run on one machine


ALONE = Group()


@contextmanager
def joined(group: Group, device: torch.device) -> Iterator[None]:
    """Wait for the others, work together with them, and part."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        backend, init_method=f"file://{group.meet}", rank=group.rank, world_size=group.size, timeout=PATIENCE
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def placed(device: torch.device, group: Group) -> torch.device:
    """Where this process of a group computes: the GPUs are dealt in order."""
    return torch.device("cuda", (device.index or 0) + group.rank) if device.type == "cuda" else device


def spread(network: nn.Module, group: Group) -> nn.Module:
    """The network as it has to be called in training: gradients become the mean over the group."""
    return network if group.size == 1 else DistributedDataParallel(network)


def unsent(network: nn.Module, last: bool) -> AbstractContextManager[None]:
    """While a batch is taken in parts: gradients are exchanged once, with the last of them."""
    alone = last or not isinstance(network, DistributedDataParallel)
    return nullcontext() if alone else network.no_sync()  # type: ignore[operator]


def average(value: torch.Tensor, group: Group, device: torch.device) -> torch.Tensor:
    """Mean of a scalar over the group."""
    if group.size == 1:
        return value
    everywhere = value.to(device)
    dist.all_reduce(everywhere)
    return everywhere.cpu() / group.size
