"""The networks a plan may name, as settings only: a plan validates on a machine without torch.

Adding a network is one class here, one file beside this one, one line in `build`, and its tensors' names in `names`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from wardround.core.frozen import Frozen

Width = Annotated[int, Field(ge=1, le=1024)]
Stride = Annotated[int, Field(ge=1, le=4)]


class Network(Frozen):
    """What all families share. Level 0 is the full resolution, the last level the coarsest."""

    features: tuple[Width, ...] = Field(default=(16, 32, 64, 128), min_length=2, max_length=7)
    """Channels per level; their number is the number of levels."""
    strides: tuple[tuple[Stride, ...], ...] | None = None
    """From each level to the next, per axis; None: 2 everywhere."""
    kernel: Literal[3, 5, 7] = 3
    norm: Literal["instance", "group", "batch"] = "instance"
    groups: int = Field(default=8, ge=1, le=1024)
    """Only for ``norm: group``; every entry of ``features`` must be a multiple of it."""
    activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability, at the end of the contracting path (Ronneberger 2015, section 3.1)."""
    deep_supervision: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.norm == "group" and (odd := [f for f in self.features if f % self.groups]):
            raise ValueError(f"with norm: group, features must be multiples of groups ({self.groups}); {odd} are not")
        if self.strides is not None:
            if len(self.strides) != self.levels - 1:
                raise ValueError(f"{self.levels} levels need {self.levels - 1} strides, but {len(self.strides)} given")
            if {len(stride) for stride in self.strides} not in ({2}, {3}):
                raise ValueError("every stride needs one number per axis, 2 or 3, the same for all")
        return self

    @property
    def levels(self) -> int:
        """How many resolutions there are."""
        return len(self.features)

    def strides_for(self, dimensions: int) -> tuple[tuple[int, ...], ...]:
        """The strides, written out for 2 or 3 axes. Raises ValueError where they were given for the other."""
        if dimensions not in (2, 3):
            raise ValueError(f"a network has 2 or 3 dimensions, not {dimensions}")
        if self.strides is None:
            return ((2,) * dimensions,) * (self.levels - 1)
        if len(self.strides[0]) != dimensions:
            raise ValueError(f"strides are given for {len(self.strides[0])} axes, but the images have {dimensions}")
        return self.strides

    def divisor(self, dimensions: int) -> tuple[int, ...]:
        """Per axis, the number of which an input's size must be a multiple."""
        return tuple(math.prod(axis) for axis in zip(*self.strides_for(dimensions), strict=True))

    def level_sizes(self, patch: Sequence[int]) -> list[tuple[int, ...]]:
        """The maps' sizes in voxels, finest first. Raises ValueError where ``patch`` is no multiple of `divisor`."""
        divisor = self.divisor(len(patch))
        if any(size < 1 or size % multiple for size, multiple in zip(patch, divisor, strict=True)):
            raise ValueError(f"size {_times(patch)} must be a multiple of {_times(divisor)} for this network")
        sizes = [tuple(patch)]
        for stride in self.strides_for(len(patch)):
            sizes.append(tuple(size // step for size, step in zip(sizes[-1], stride, strict=True)))
        return sizes

    def check(self, patch: Sequence[int]) -> None:
        """Raise ValueError where this network cannot work on inputs of size ``patch``.

        Beside `level_sizes`: a norm over a single value is the constant 0, so a map of one voxel
        would carry nothing.
        """
        together = {"instance": [1] * self.levels, "group": [f // self.groups for f in self.features]}.get(self.norm)
        for level, size in enumerate(self.level_sizes(patch)):
            if together is not None and math.prod(size) * together[level] == 1:
                raise ValueError(
                    f"size {_times(patch)} leaves a single voxel at level {level}, where {self.norm} norm "
                    "erases it; use a larger patch, fewer levels or smaller strides"
                )

    def has_depth_two(self, patch: Sequence[int]) -> bool:
        """Does a 3D map meet the fault of bfloat16 convolutions on CPU (torch 2.13)?

        Their weight gradient is then garbage, often NaN: choose another patch or depth, or train in float32.
        With kernel 3 exactly the maps 2 deep (first axis) are hit. Kernels 5 and 7 go wrong on more shapes, all
        with an axis shorter than the kernel, so any such map counts. 2D is not affected.
        """
        if len(patch) != 3:
            return False
        sizes = self.level_sizes(patch)
        return any(size[0] == 2 if self.kernel == 3 else min(size) < self.kernel for size in sizes)


class UNet(Network):
    """U-Net (Ronneberger 2015)."""

    name: Literal["unet"] = "unet"


class UNetPlusPlus(Network):
    """U-Net++ (Zhou 2018): nested dense skips. Its cost grows with the square of the levels."""

    name: Literal["unet++"] = "unet++"
    deep_supervision: bool = True


class AttentionUNet(Network):
    """Attention U-Net (Oktay 2018). The first skip has no gate, so it takes three levels to have one."""

    name: Literal["attention_unet"] = "attention_unet"
    features: tuple[Width, ...] = Field(default=(16, 32, 64, 128), min_length=3, max_length=7)


NetworkSettings = Annotated[UNet | UNetPlusPlus | AttentionUNet, Field(discriminator="name")]


def _times(sizes: Sequence[int]) -> str:
    return " x ".join(map(str, sizes))
