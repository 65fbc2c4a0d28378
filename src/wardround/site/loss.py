"""Soft Dice plus cross-entropy, with deep supervision where the network has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from wardround.planning.training import Loss

LossFunction = Callable[[torch.Tensor | Sequence[torch.Tensor], torch.Tensor], torch.Tensor]


def make_loss(settings: Loss) -> LossFunction:
    """Loss of logits (batch, classes, *size), or a list of them, against labels (batch, 1, *size) int64.

    Dice is MONAI's, per patch and foreground label, smoothed by 1e-5. Deeper outputs weigh half as
    much each as the one before and weights add up to 1 (nnU-Net); labels are resized by nearest
    neighbour. Computed in float32 whatever the network's precision.
    """
    soft_dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)

    def one(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        if logits.shape[2:] != label.shape[2:]:
            label = F.interpolate(label.float(), logits.shape[2:], mode="nearest").long()
        loss = logits.new_zeros(())
        if settings.dice:
            loss = loss + settings.dice * soft_dice(logits, label)
        if settings.cross_entropy:
            loss = loss + settings.cross_entropy * F.cross_entropy(logits, label[:, 0])
        return loss

    def total(outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            return one(outputs, label)
        weights = [0.5**i for i in range(len(outputs))]
        terms = [w / sum(weights) * one(out, label) for w, out in zip(weights, outputs, strict=True)]
        return torch.stack(terms).sum()

    return total
