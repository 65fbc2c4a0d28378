"""U-Net++: Z. Zhou, M. M. Rahman Siddiquee, N. Tajbakhsh, J. Liang, DLMIA 2018.

Node X(i, j) of level i takes all nodes X(i, 0..j-1) of its level and the up-convolved X(i+1, j-1)
(equation 1); X(i, 0) is the encoder. With deep supervision every X(0, j), j >= 1, has a head at full
resolution, and outside training their logits are averaged ("accurate mode"; the paper averages after
the sigmoid). Otherwise only the last node has one.

Different from the paper: training weighs the heads 1, 1/2, 1/4, ... (site/loss.py), where
the paper weighs them alike; a normalisation after each convolution; the rectifier may be leaky; two and
more levels instead of five; strides may differ per axis.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wardround.networks.blocks import Kit, Segmenter, UpBlock


class UNetPlusPlusModule(Segmenter):
    """``nodes.i_j`` is X(i, j) with j >= 1."""

    def __init__(self, kit: Kit, channels_in: int, classes: int) -> None:
        depth = kit.settings.levels - 1
        super().__init__(kit, channels_in, [kit.settings.features[0]] * depth, classes)
        self.nodes = nn.ModuleDict(
            {f"{i}_{j}": UpBlock(kit, i, skips=j) for j in range(1, depth + 1) for i in range(depth - j + 1)}
        )

    def decode(self, skips: list[Tensor]) -> list[Tensor]:
        """The top row, X(0, depth) to X(0, 1), all at full resolution."""
        rows = [[skip] for skip in skips]  # rows[i][j] is X(i, j)
        depth = len(skips) - 1
        for j in range(1, depth + 1):
            for i in range(depth - j + 1):
                rows[i].append(self.nodes[f"{i}_{j}"](rows[i + 1][j - 1], *rows[i]))
        return rows[0][:0:-1]

    def gather(self, logits: list[Tensor]) -> Tensor:
        """The mean of all heads."""
        return logits[0] if len(logits) == 1 else torch.stack(logits).mean(dim=0)
