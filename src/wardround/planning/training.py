"""The training section of a plan."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wardround.core.contracts import Descent
from wardround.core.frozen import Frozen

Probability = Annotated[float, Field(ge=0, le=1)]


def _rising(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1] <= 10:
        raise ValueError(f"a range runs from a positive number to a larger one, at most 10; this is {list(value)}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_rising)]


class AdamW(Frozen):
    """Loshchilov & Hutter, Decoupled Weight Decay Regularization, ICLR 2019."""

    name: Literal["adamw"] = "adamw"
    rate: float = Field(default=1e-3, gt=0, le=1)
    weight_decay: float = Field(default=1e-2, ge=0, le=1)


class Sgd(Frozen):
    """Stochastic gradient descent with Nesterov momentum, nnU-Net's choice."""

    name: Literal["sgd"] = "sgd"
    rate: float = Field(default=1e-2, gt=0, le=10)
    momentum: float = Field(default=0.99, ge=0, lt=1)
    weight_decay: float = Field(default=3e-5, ge=0, le=1)


class Augmentation(Frozen):
    """Random changes of a training patch; each probability is per patch (flips: per axis)."""

    flip: Probability = 0.5
    flip_axes: tuple[int, ...] | None = Field(default=None, description="patch axes that may flip; null: all")
    rotate: Probability = 0.2
    degrees: float = Field(default=30, ge=0, le=180)
    scale: Probability = 0.2
    scale_range: Range = (0.7, 1.4)
    contrast: Probability = 0.15
    contrast_range: Range = (0.75, 1.25)
    brightness: Probability = 0.15
    brightness_std: float = Field(default=0.1, ge=0, le=10)
    gamma: Probability = 0.15
    gamma_range: Range = (0.7, 1.5)
    drop: Probability = Field(default=0.25, description="an optional modality that is there is emptied")
    noise: Probability = 0.1
    noise_std: float = Field(default=0.1, ge=0, le=10)


class Loss(Frozen):
    """Soft Dice over foreground labels (Milletari 2016) plus cross-entropy, weighted."""

    dice: float = Field(default=1.0, ge=0, le=100)
    cross_entropy: float = Field(default=1.0, ge=0, le=100)


class Training(Frozen):
    """Local work of one round. An *update* is one optimiser step of one model."""

    steps: int = Field(default=30, ge=1, le=100_000, description="local optimiser steps a round")
    batch: int = Field(default=2, ge=1, le=1024)
    patch: tuple[Annotated[int, Field(ge=4, le=4096)], ...] = Field(description="patch size in voxels, one an axis")
    foreground: Probability = Field(default=0.33, description="share of patches centred on a labelled voxel")
    optimiser: AdamW | Sgd = Field(default=AdamW(), discriminator="name")
    optimiser_state: Literal["keep", "reset"] = Field(
        default="keep", description="what becomes of a site's momenta between rounds; they never leave the site"
    )
    schedule: Literal["poly", "constant"] = Field(default="poly", description="over all rounds' steps, not local ones")
    power: float = Field(default=0.9, gt=0, le=5)
    clip: float = Field(default=12.0, gt=0, description="largest gradient norm")
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 where a self-test on the machine shows it sane and faster"
    )
    deterministic: bool = True
    most_skipped: Probability = Field(
        default=0.1, description="share of steps with non-finite gradients above which the site's task fails"
    )

    @property
    def descent(self) -> Descent:
        """What a strategy may have to refuse."""
        momentum = self.optimiser.momentum if isinstance(self.optimiser, Sgd) else 0.0
        return Descent(self.optimiser.name, momentum, carried=self.optimiser_state == "keep")
