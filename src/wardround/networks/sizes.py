"""How many numbers a network has, worked out from its settings: no torch, no memory, no time.

It is what the person who approves a plan is told before anything was built. The tests hold it against
the built networks.
"""

from __future__ import annotations

import math

from wardround.networks.catalog import AttentionUNet, Network, NetworkSettings, UNetPlusPlus


def count_numbers(settings: NetworkSettings, dimensions: int, channels_in: int, classes: int) -> int:
    """All numbers of `wardround.networks.build.exchange`: parameters, and running statistics of batch norm.

    Raises:
        ValueError: strides for other axes than ``dimensions``.
    """
    sizes = _Sizes(settings, dimensions)
    features, depth = settings.features, settings.levels - 1
    total = sum(sizes.block(a, b) for a, b in zip((channels_in, *features), features, strict=False))
    if isinstance(settings, UNetPlusPlus):
        heads = [features[0]] * depth
        total += sum(sizes.up_block(i, skips=j) for j in range(1, depth + 1) for i in range(depth - j + 1))
    else:
        heads = list(features[:depth])
        total += sum(sizes.up_block(level, skips=1) for level in range(depth))
    if isinstance(settings, AttentionUNet):
        total += sum(sizes.gate(level) for level in range(1, depth))
    used = heads if settings.deep_supervision else heads[:1]
    return total + sum((width + 1) * classes for width in used)


def count_tensors(settings: NetworkSettings) -> int:
    """In how many named tensors those numbers are."""
    depth = settings.levels - 1
    ups = depth * (depth + 1) // 2 if isinstance(settings, UNetPlusPlus) else depth
    gates = depth - 1 if isinstance(settings, AttentionUNet) else 0
    heads = depth if settings.deep_supervision else 1
    norm = 4 if settings.norm == "batch" else 2
    return (settings.levels + ups) * (2 + 2 * norm) + 2 * ups + 5 * gates + 2 * heads


class _Sizes:
    """The parts of `wardround.networks.blocks`, counted."""

    def __init__(self, settings: Network, dimensions: int) -> None:
        self._features = settings.features
        self._taps = math.prod([settings.kernel] * dimensions)
        self._windows = [math.prod(stride) for stride in settings.strides_for(dimensions)]
        self._norm = 4 if settings.norm == "batch" else 2  # numbers a channel

    def block(self, before: int, after: int) -> int:
        """Two convolutions without bias, each with its norm."""
        return (before + after) * after * self._taps + 2 * self._norm * after

    def up_block(self, level: int, skips: int) -> int:
        """An up-convolution to a level's width, and the block that takes it with the skips."""
        width = self._features[level]
        up = (self._features[level + 1] * self._windows[level] + 1) * width
        return up + self.block((skips + 1) * width, width)

    def gate(self, level: int) -> int:
        """The attention gate on the skip of a level."""
        skip, coarse = self._features[level], self._features[level + 1]
        inner = max(1, skip // 2)
        return skip * inner * self._windows[level] + (coarse + 1) * inner + inner + 1
