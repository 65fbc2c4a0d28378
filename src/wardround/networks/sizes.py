"""How many numbers a network has, worked out from its settings: no torch, no memory, no time.

It is what the person who approves a plan is told before anything was built. The tests hold it against
the built networks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from wardround.networks.catalog import AttentionUNet, Network, UNetPlusPlus

Numbers = Iterator[tuple[str, int]]


def tensor_numbers(settings: Network, dimensions: int, channels_in: int, classes: int) -> dict[str, int]:
    """How many numbers each tensor of `wardround.networks.build.exchange` has, by name, in the module's order.

    These are parameters, and running statistics of batch norm.

    Raises:
        ValueError: strides for other axes than ``dimensions``.
    """
    return dict(_all(_Sizes(settings, dimensions), settings, channels_in, classes))


def _all(sizes: _Sizes, settings: Network, channels_in: int, classes: int) -> Numbers:
    features, depth = settings.features, settings.levels - 1
    for level, (before, after) in enumerate(zip((channels_in, *features), features, strict=False)):
        yield from sizes.block(f"encoder.{level}", before, after)
    nested = isinstance(settings, UNetPlusPlus)
    for head in range(depth if settings.deep_supervision else 1):
        yield from _layer(f"heads.{head}", (features[0] if nested else features[head]) * classes, classes)
    if nested:
        for j in range(1, depth + 1):
            for i in range(depth - j + 1):
                yield from sizes.up_block(f"nodes.{i}_{j}", i, skips=j)
    else:
        for level in range(depth):
            yield from sizes.up_block(f"decoder.{level}", level, skips=1)
    if isinstance(settings, AttentionUNet):
        for level in range(1, depth):
            yield from sizes.gate(f"gates.{level - 1}", level)


class _Sizes:
    """The parts of `wardround.networks.blocks`, counted."""

    def __init__(self, settings: Network, dimensions: int) -> None:
        self._features = settings.features
        self._taps = math.prod([settings.kernel] * dimensions)
        self._windows = [math.prod(stride) for stride in settings.strides_for(dimensions)]
        self._norms = ("weight", "bias", *(("running_mean", "running_var") if settings.norm == "batch" else ()))

    def block(self, name: str, before: int, after: int) -> Numbers:
        """Two convolutions without bias, each with its norm."""
        for number, width in ((1, before), (2, after)):
            yield f"{name}.conv{number}.weight", width * after * self._taps
            for one in self._norms:
                yield f"{name}.norm{number}.{one}", after

    def up_block(self, name: str, level: int, skips: int) -> Numbers:
        """An up-convolution to a level's width, and the block that takes it with the skips."""
        width = self._features[level]
        yield from _layer(f"{name}.up", self._features[level + 1] * self._windows[level] * width, width)
        yield from self.block(f"{name}.block", (skips + 1) * width, width)

    def gate(self, name: str, level: int) -> Numbers:
        """The attention gate on the skip of a level."""
        skip, coarse = self._features[level], self._features[level + 1]
        inner = max(1, skip // 2)
        yield f"{name}.skip.weight", skip * inner * self._windows[level]
        yield from _layer(f"{name}.signal", coarse * inner, inner)
        yield from _layer(f"{name}.psi", inner, 1)


def _layer(name: str, weights: int, biases: int) -> Numbers:
    yield f"{name}.weight", weights
    yield f"{name}.bias", biases
