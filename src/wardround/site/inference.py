"""From a prepared image to class probabilities, and to a label map on the image's own grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import nn

from wardround.data.case import Case
from wardround.data.preprocess import prepare, restore
from wardround.planning.plan import Plan
from wardround.site.device import Machine

# An image up to this many times the training patch is predicted at once. Instance and group norm see
# other statistics in a larger image than in training: on MS lesions (images 7 times the patch) whole
# images cost 5 Dice points against overlapping patches. A constant, not the memory that happens to be
# free: the choice changes the numbers, so it must not vary between machines.
WHOLE_LIMIT = 2.0
SLICES_AT_ONCE = 8


def predict_probabilities(
    plan: Plan, machine: Machine, network: nn.Module, image: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probabilities (classes, *grid) float32 of a prepared image (modalities, *grid)."""
    network.eval()
    with torch.inference_mode(), machine.autocast():
        if plan.task.dimensions == 2:
            slices = torch.from_numpy(np.array(image)).movedim(1, 0)  # (Z, C, H, W)
            chunks = [_logits(plan, network, part.to(machine.device)) for part in torch.split(slices, SLICES_AT_ONCE)]
            logits = torch.cat(chunks).movedim(0, 1)
        else:
            logits = _logits(plan, network, torch.from_numpy(np.array(image))[None].to(machine.device))[0]
        return torch.softmax(logits.float(), 0).cpu().numpy()


def predict_case(plan: Plan, machine: Machine, network: nn.Module, case: Case) -> NDArray[np.uint8]:
    """Class indices (X, Y, Z) on the case's own grid."""
    prepared = prepare(case, plan.preprocessing, slice_axis(plan))
    return restore(predict_probabilities(plan, machine, network, prepared.image), prepared.geometry)


def slice_axis(plan: Plan) -> int | None:
    """The axis that 2D tasks are sliced along; None in 3D."""
    return plan.task.slice_axis if plan.task.dimensions == 2 else None


def _logits(plan: Plan, network: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    size = tuple(batch.shape[2:])
    if _whole(plan, size):
        padded = _pad(batch, plan.network.divisor(plan.task.dimensions), plan.training.patch)
        return _cut(network(padded), size)
    roi = plan.training.patch
    out: Any = sliding_window_inference(
        batch, roi, sw_batch_size=4, predictor=network, overlap=plan.evaluation.overlap, mode="gaussian",
        padding_mode="replicate",
    )  # fmt: skip
    return out  # type: ignore[no-any-return]


def _whole(plan: Plan, size: tuple[int, ...]) -> bool:
    if plan.evaluation.inference != "auto":
        return plan.evaluation.inference == "whole"
    return math.prod(size) <= WHOLE_LIMIT * math.prod(plan.training.patch)


def _pad(batch: torch.Tensor, divisor: tuple[int, ...], patch: tuple[int, ...]) -> torch.Tensor:
    # At least the training patch, so that normalisation sees no less context than in training.
    pads: list[int] = []
    for n, by, least in zip(reversed(batch.shape[2:]), reversed(divisor), reversed(patch), strict=True):
        extra = math.ceil(max(n, least) / by) * by - n
        pads += [extra // 2, extra - extra // 2]
    return F.pad(batch, pads, mode="replicate") if any(pads) else batch


def _cut(out: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    for axis, n in enumerate(size, start=2):
        start = (out.shape[axis] - n) // 2
        out = out.narrow(axis, start, n)
    return out
