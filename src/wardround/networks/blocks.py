"""What the families are made of: convolution blocks, up-convolutions, heads, and their first weights."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wardround.networks.catalog import Network

SLOPE = 0.01  # of the leaky rectifier
NORMS = (nn.GroupNorm, nn.BatchNorm2d, nn.BatchNorm3d)

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class Kit:
    """Makes layers for one network: its settings, in 2 or 3 dimensions."""

    settings: Network
    dimensions: int

    @property
    def strides(self) -> tuple[Sizes, ...]:
        """From each level to the next, per axis."""
        return self.settings.strides_for(self.dimensions)

    def conv(
        self, before: int, after: int, kernel: int | Sizes, stride: int | Sizes = 1, bias: bool = True
    ) -> nn.Module:
        """A convolution; an odd ``kernel`` given as one number keeps the size."""
        kind = nn.Conv3d if self.dimensions == 3 else nn.Conv2d
        padding = kernel // 2 if isinstance(kernel, int) else 0
        layer: nn.Module = kind(before, after, kernel, stride, padding, bias=bias)  # type: ignore[arg-type]
        return layer

    def up(self, before: int, after: int, stride: Sizes) -> nn.Module:
        """An up-convolution whose kernel is its stride, so that no two taps overlap."""
        kind = nn.ConvTranspose3d if self.dimensions == 3 else nn.ConvTranspose2d
        layer: nn.Module = kind(before, after, stride, stride)  # type: ignore[arg-type]
        return layer

    def pool(self, stride: Sizes) -> nn.Module:
        """Max pooling over windows of ``stride``."""
        kind = nn.MaxPool3d if self.dimensions == 3 else nn.MaxPool2d
        layer: nn.Module = kind(stride, stride)
        return layer

    def norm(self, channels: int) -> nn.Module:
        """The normalisation of the settings, with an affine part.

        Instance norm is group norm with one channel per group: the same numbers, and faster on CPU.
        """
        if self.settings.norm == "batch":
            layer = nn.BatchNorm3d(channels) if self.dimensions == 3 else nn.BatchNorm2d(channels)
            layer.num_batches_tracked = None  # an integer that only counts: nothing to send or average
            return layer
        return nn.GroupNorm(self.settings.groups if self.settings.norm == "group" else channels, channels)

    def activation(self) -> nn.Module:
        """Never in place: per-sample gradients need the inputs kept."""
        return nn.LeakyReLU(SLOPE) if self.settings.activation == "leaky_relu" else nn.ReLU()


class ConvBlock(nn.Module):
    """Twice: convolution, norm, activation. The convolutions have no bias, as the norm takes it away."""

    def __init__(self, kit: Kit, before: int, after: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = kit.conv(before, after, kit.settings.kernel, bias=False)
        self.norm1 = kit.norm(after)
        self.conv2 = kit.conv(after, after, kit.settings.kernel, bias=False)
        self.norm2 = kit.norm(after)
        self.activation = kit.activation()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, before, *size) to (N, after, *size)."""
        x = self.activation(self.norm1(self.conv1(x)))
        x = self.activation(self.norm2(self.conv2(x)))
        kept: Tensor = self.dropout(x)
        return kept


class UpBlock(nn.Module):
    """Up-convolution to half the channels, the skips beside it, two convolutions."""

    def __init__(self, kit: Kit, level: int, skips: int = 1) -> None:
        super().__init__()
        width = kit.settings.features[level]
        self.up = kit.up(kit.settings.features[level + 1], width, kit.strides[level])
        self.block = ConvBlock(kit, (skips + 1) * width, width)

    def forward(self, below: Tensor, *skips: Tensor) -> Tensor:
        """``below`` is the map one level coarser; every skip has this level's size and width."""
        joined: Tensor = self.block(torch.cat([*skips, self.up(below)], dim=1))
        return joined


def encoder(kit: Kit, channels_in: int) -> nn.ModuleList:
    """One block per level of the contracting path, dropout at its end."""
    features = kit.settings.features
    widths = zip((channels_in, *features), features, strict=False)
    last = len(features) - 1
    return nn.ModuleList(
        ConvBlock(kit, a, b, kit.settings.dropout if level == last else 0.0) for level, (a, b) in enumerate(widths)
    )


class Segmenter(nn.Module, ABC):
    """The frame of every family: checks the input, encodes, and turns decoded maps into logits.

    ``forward`` takes (N, channels_in, *size) and gives logits (N, classes, *size); in training mode
    with deep supervision a list of logits, the final ones first. An item of the list may be coarser
    than the input: its spatial size says how coarse.
    """

    def __init__(self, kit: Kit, channels_in: int, heads: list[int], classes: int) -> None:
        """``heads``: channels of the maps of `decode`; without deep supervision only the first is used."""
        super().__init__()
        self.settings, self.dimensions, self.channels_in = kit.settings, kit.dimensions, channels_in
        self.encoder = encoder(kit, channels_in)
        self.pools = nn.ModuleList(kit.pool(stride) for stride in kit.strides)
        used = heads if kit.settings.deep_supervision else heads[:1]
        self.heads = nn.ModuleList(kit.conv(width, classes, 1) for width in used)

    @abstractmethod
    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """From the encoder's maps (finest first) to the maps that heads read, the final one first."""

    def gather(self, logits: list[Tensor]) -> Tensor:
        """What several heads say together, outside training: the final one."""
        return logits[0]

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """See the class. Raises ValueError where the input does not fit the network."""
        if x.ndim != self.dimensions + 2 or x.shape[1] != self.channels_in:
            expected = f"(N, {self.channels_in}, {'X, Y, Z' if self.dimensions == 3 else 'X, Y'})"
            raise ValueError(f"the network takes {expected}, not {tuple(x.shape)}")
        self.settings.check(x.shape[2:])
        skips = [self.encoder[0](x)]
        for pool, block in zip(self.pools, self.encoder[1:], strict=True):
            skips.append(block(pool(skips[-1])))
        maps = self.decode(skips)
        if self.training and self.settings.deep_supervision:
            return [head(found) for head, found in zip(self.heads, maps, strict=True)]
        return self.gather([head(found) for head, found in zip(self.heads, maps, strict=False)])


@torch.no_grad()
def he_init(module: nn.Module, activation: str) -> None:
    """Normal weights of variance 2 / ((1 + slope^2) fan_in), biases 0 (He 2015, equations 10 and 15).

    torch counts the fan-in of a transposed convolution on its outputs; here each output voxel has one
    tap per input channel (kernel = stride), so the fan-in is the number of input channels.
    """
    slope = SLOPE if activation == "leaky_relu" else 0.0
    for layer in module.modules():
        if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
            fan_in = layer.in_channels
        elif isinstance(layer, nn.Conv2d | nn.Conv3d):
            fan_in = layer.in_channels * math.prod(layer.kernel_size)
        else:
            continue
        layer.weight.normal_(0.0, math.sqrt(2 / ((1 + slope**2) * fan_in)))
        if layer.bias is not None:
            layer.bias.zero_()
