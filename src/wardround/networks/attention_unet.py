"""Attention U-Net: O. Oktay et al., MIDL 2018: a U-Net whose skips pass additive attention gates.

A gate weighs each place of a skip x by a coefficient alpha in (0, 1), computed on the grid of the
gating signal g, the decoder's map one level coarser (for the deepest gate the bottleneck)::

    alpha = sigmoid(psi . relu(W_x x + W_g g + b_g) + b_psi)          (equations 1 and 2)

W_x is a convolution with kernel and stride equal to the level's stride, the other two have kernel 1;
alpha is resampled linearly to the grid of x ("grid attention"). As in the paper the first skip, at full
resolution, has no gate.

Different from the paper: what `wardround.networks.unet` lists; the intermediate width is half of the
skip's (the paper leaves it open); no convolution after the product; heads of deep supervision stay at
their level's resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wardround.networks.blocks import Kit, Segmenter, UpBlock


class AttentionGate(nn.Module):
    """The gate on the skip of one level."""

    def __init__(self, kit: Kit, level: int) -> None:
        super().__init__()
        skip, coarse = kit.settings.features[level], kit.settings.features[level + 1]
        inner = max(1, skip // 2)
        self.skip = kit.conv(skip, inner, kit.strides[level], kit.strides[level], bias=False)
        self.signal = kit.conv(coarse, inner, 1)
        self.psi = kit.conv(inner, 1, 1)
        self.mode = "trilinear" if kit.dimensions == 3 else "bilinear"

    def coefficients(self, skip: Tensor, signal: Tensor) -> Tensor:
        """Alpha in (0, 1), (N, 1, *size of the skip)."""
        alpha = torch.sigmoid(self.psi(torch.relu(self.skip(skip) + self.signal(signal))))
        return F.interpolate(alpha, size=skip.shape[2:], mode=self.mode, align_corners=False)

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """The skip, weighted."""
        return skip * self.coefficients(skip, signal)


class AttentionUNetModule(Segmenter):
    """``decoder.i`` as in the U-Net; ``gates.i`` weighs the skip of level i + 1."""

    def __init__(self, kit: Kit, channels_in: int, classes: int) -> None:
        ups = range(kit.settings.levels - 1)
        super().__init__(kit, channels_in, [kit.settings.features[i] for i in ups], classes)
        self.decoder = nn.ModuleList(UpBlock(kit, level) for level in ups)
        self.gates = nn.ModuleList(AttentionGate(kit, level) for level in ups if level > 0)

    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """One map per decoder level, finest first."""
        x, maps = skips[-1], []
        for level in reversed(range(len(self.decoder))):
            skip = self.gates[level - 1](skips[level], x) if level > 0 else skips[level]
            x = self.decoder[level](x, skip)
            maps.append(x)
        return maps[::-1]
