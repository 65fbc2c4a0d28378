"""Soft Dice plus cross-entropy, with deep supervision where the network has it.

Classes that nobody outlined in a sample are joined with its background before the loss is taken: the marginal
loss of Shi et al., Marginal loss and exclusion loss for partially supervised multi-organ segmentation, Medical
Image Analysis 70, 2021 (eq. 4-6). The network is free to find them there and is never told that they are absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from wardround.planning.training import Loss

NEVER = -1e4  # a logit whose probability is 0 in float32


class LossFunction(Protocol):
    """See `make_loss`."""

    def __call__(
        self, outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss, a scalar."""
        ...


def make_loss(settings: Loss) -> LossFunction:
    """Loss of logits (batch, classes, *size), or a list of them, against labels (batch, 1, *size) int64.

    The third argument is ``hidden`` (batch, classes) bool, see `wardround.site.patches.Batch`.

    Dice is MONAI's, per patch and foreground label, smoothed by 1e-5. Deeper outputs weigh half as
    much each as the one before and weights add up to 1 (nnU-Net); labels are resized by nearest
    neighbour. Computed in float32 whatever the network's precision.
    """
    soft_dice = DiceLoss(include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5)
    each_dice = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5, reduction="none"
    )

    def one(logits: torch.Tensor, label: torch.Tensor, hidden: torch.Tensor | None) -> torch.Tensor:
        logits = logits.float() if hidden is None else marginal(logits.float(), hidden)
        if logits.shape[2:] != label.shape[2:]:
            label = F.interpolate(label.float(), logits.shape[2:], mode="nearest").long()
        loss = logits.new_zeros(())
        if settings.dice:
            if hidden is None:
                loss = loss + settings.dice * soft_dice(logits, label)
            else:
                known = ~hidden[:, 1:]
                loss = loss + settings.dice * each_dice(logits, label).flatten(1)[known].mean()
        if settings.cross_entropy:
            loss = loss + settings.cross_entropy * F.cross_entropy(logits, label[:, 0])
        return loss

    def total(
        outputs: torch.Tensor | Sequence[torch.Tensor], label: torch.Tensor, hidden: torch.Tensor | None = None
    ) -> torch.Tensor:
        if isinstance(outputs, torch.Tensor):
            return one(outputs, label, hidden)
        weights = [0.5**i for i in range(len(outputs))]
        terms = [w / sum(weights) * one(out, label, hidden) for w, out in zip(weights, outputs, strict=True)]
        return torch.stack(terms).sum()

    return total


def marginal(logits: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """Logits whose background is "background or a hidden class", and in which hidden classes have probability 0.

    Args:
        logits: (batch, classes, *size) float32.
        hidden: (batch, classes) bool; never the background itself.
    """
    spread = hidden.reshape(*hidden.shape, *[1] * (logits.dim() - 2))
    joined = spread.clone()
    joined[:, 0] = True
    background = torch.logsumexp(logits.masked_fill(~joined, -torch.inf), dim=1, keepdim=True)
    return torch.cat([background, logits.masked_fill(spread, NEVER)[:, 1:]], dim=1)
