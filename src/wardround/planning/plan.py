"""The plan: what a federation will do, in full, known by its digest. Never code, never a path."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from wardround.aggregation.catalog import AnyAggregation
from wardround.aggregation.plain import Plain
from wardround.core.documents import load_document
from wardround.core.frozen import Frozen
from wardround.data.preprocess import Preprocessing
from wardround.networks.catalog import NetworkSettings, UNet
from wardround.planning.personal import Finetune, Private
from wardround.planning.training import Training
from wardround.planning.transfer import Transfer
from wardround.strategies.catalog import AnyStrategy
from wardround.strategies.fedavg import FedAvg

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.+-]{0,63}$")]
Text = Annotated[str, Field(max_length=2000)]
Positive = Annotated[int, Field(ge=1)]


class Study(Frozen):
    """Why, for those who approve."""

    title: Annotated[str, Field(min_length=1, max_length=200)] = "Untitled study"
    purpose: Text = ""
    contact: Text = ""
    ethics: Text = Field(default="", description="reference of the ethics vote or data-use agreement")
    ends: date | None = None


class Task(Frozen):
    """What is segmented in what."""

    dimensions: Literal[2, 3]
    modalities: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)]
    labels: Annotated[dict[Name, Annotated[int, Field(ge=1, le=65535)]], Field(min_length=1, max_length=250)] = Field(
        description="foreground label -> its value in mask files (a site with other values maps them in dataset.yaml)"
    )
    optional: tuple[Name, ...] = Field(
        default=(),
        description="modalities that a case may lack: the channel is empty there, and at times in training",
    )
    lesions: tuple[Name, ...] = Field(default=(), description="labels that are counted lesion by lesion")
    slice_axis: Literal[0, 1, 2] = Field(
        default=2, description="2D tasks on volumes: slices across right (0), anterior (1) or superior (2)"
    )

    @field_validator("modalities")
    @classmethod
    def _distinct(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len({name.lower() for name in value}) != len(value):
            raise ValueError("a modality is named twice")
        return value

    @field_validator("optional")
    @classmethod
    def _can_lack(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = info.data.get("modalities", ())
        wrong = [name for name in value if name not in known]
        if wrong and known:
            raise ValueError(f"{', '.join(wrong)} is not among the modalities {', '.join(known)}")
        if known and set(value) >= set(known):
            raise ValueError("at least one modality must be there in every case")
        return value

    @field_validator("labels")
    @classmethod
    def _values_differ(cls, value: dict[str, int]) -> dict[str, int]:
        if len(set(value.values())) != len(value):
            raise ValueError("two labels have the same value")
        if "background" in {name.lower() for name in value}:
            raise ValueError("background is implied (0): name foreground labels only")
        return value

    @field_validator("lesions")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = info.data.get("labels", {})
        wrong = [name for name in value if name not in known]
        if wrong and known:
            raise ValueError(f"{', '.join(wrong)} is not among the labels {', '.join(known)}")
        return value


class Rounds(Frozen):
    """How long, and with how many."""

    limit: int = Field(default=20, ge=1, le=100_000)
    quorum: Positive | None = Field(
        default=None, description="sites that must answer for a round to count; null: more than half of them"
    )
    patience: Positive = Field(default=10, description="stop after so many rounds without a gain")
    gain: float = Field(default=0.001, ge=0, le=1, description="least gain of mean validation Dice that counts")

    stall: int = Field(
        default=900, ge=5, le=86_400, description="seconds without progress after which a site on a network is missing"
    )

    def needed(self, sites: int) -> int:
        """The quorum among ``sites``."""
        return self.quorum if self.quorum is not None else sites // 2 + 1


class Evaluation(Frozen):
    """Which cases are for what, and how they are scored."""

    folds: int = Field(default=10, ge=3, le=100, description="a site's subjects are dealt into so many folds")
    fold: int = Field(default=0, ge=0, description="test fold; the next one is validation, the rest training")
    split_key: Annotated[str, Field(min_length=1, max_length=100)] = "wardround"
    inference: Literal["auto", "whole", "sliding"] = Field(
        default="auto", description="overlapping patches where the image is over twice the patch, else the whole image"
    )
    overlap: float = Field(default=0.5, ge=0, lt=1, description="of patches in inference, as a share of the patch")
    tolerance: float = Field(default=1.0, gt=0, le=100, description="mm, of the surface Dice")
    minimum_lesion: float = Field(default=3.0, ge=0, description="mm^3; smaller components are not counted")
    every: Positive = Field(default=1, description="validate after every n-th round (and after the last)")

    @model_validator(mode="after")
    def _fold_exists(self) -> Evaluation:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist: folds are 0 to {self.folds - 1}")
        return self


class Plan(Frozen):
    """One training study. `load_plan` reads it from YAML."""

    wardround: Literal[1] = Field(description="format of this file")
    kind: Literal["train"] = "train"
    study: Study = Study()
    task: Task
    preprocessing: Preprocessing = Preprocessing()
    network: NetworkSettings = Field(default=UNet())
    training: Training
    strategy: AnyStrategy = Field(default=FedAvg())
    aggregation: AnyAggregation = Field(default=Plain())
    transfer: Transfer = Transfer()
    private: Private | None = Field(default=None, description="tensors that never leave a site; null: none")
    finetune: Finetune | None = Field(default=None, description="what each site does in the end; null: nothing")
    rounds: Rounds = Rounds()
    evaluation: Evaluation = Evaluation()
    seed: int = Field(default=0, ge=0, le=2**31)

    @property
    def classes(self) -> int:
        """Background and the labels."""
        return len(self.task.labels) + 1

    @property
    def updates(self) -> int:
        """Optimiser steps of one model over all rounds."""
        return self.rounds.limit * self.training.steps

    @property
    def private_tensors(self) -> tuple[str, ...]:
        """The names of the tensors that never leave a site."""
        return () if self.private is None else self.private.names(self.network)

    @property
    def personal(self) -> bool:
        """True where each site ends with a model of its own."""
        return bool(self.private or self.finetune or self.strategy.companion())

    @model_validator(mode="after")
    def _fits(self) -> Plan:
        faults = [*self._patch_faults(), *self._other_faults(), *self._personal_faults()]
        if faults:
            raise ValueError("\n".join(faults))  # one a line: see core/faults.py
        return self

    def _patch_faults(self) -> list[str]:
        patch, dimensions = self.training.patch, self.task.dimensions
        if len(patch) != dimensions:
            return [f"training.patch: has {len(patch)} sizes, a {dimensions}D task needs {dimensions}"]
        strides = self.network.strides
        if strides and any(len(stride) != dimensions for stride in strides):
            return [f"network.strides: needs {dimensions} numbers a transition in a {dimensions}D task"]
        divisor = self.network.divisor(dimensions)
        if any(size % by for size, by in zip(patch, divisor, strict=True)):
            fitting = [max(by, round(size / by) * by) for size, by in zip(patch, divisor, strict=True)]
            return [f"training.patch: {list(patch)} is not a multiple of {list(divisor)}, which the network's "
                    f"strides need; the nearest is {fitting}"]  # fmt: skip
        try:
            self.network.check(patch)
        except ValueError as error:
            return [f"training.patch: {error}"]
        return []

    def _other_faults(self) -> list[str]:
        faults = []
        axes = self.training.augmentation.flip_axes
        if axes and any(axis not in range(self.task.dimensions) for axis in axes):
            faults.append(f"training.augmentation.flip_axes: must lie in 0..{self.task.dimensions - 1}")
        if self.training.loss.dice == 0 and self.training.loss.cross_entropy == 0:
            faults.append("training.loss: dice and cross_entropy cannot both be 0")
        faults += self._strategy_faults()
        return faults

    def _strategy_faults(self) -> list[str]:
        faults, name = [], self.strategy.name
        if refused := self.strategy.refuses(self.training.descent):
            faults.append(f"strategy: {name}: {refused}")
        if self.strategy.needs_mean and not isinstance(self.aggregation, Plain):
            faults.append(
                f"strategy: {name} needs aggregation plain: what its sites send are terms of a sum, "
                f"of which {self.aggregation.name} is not the mean"
            )
        return faults

    def _personal_faults(self) -> list[str]:
        faults = [] if self.private is None else self.private.faults(self.network)
        if self.strategy.companion() is not None:
            taken = "at each site it trains a whole model that never leaves, so "
            if self.private is not None:
                faults.append(f"private: {self.strategy.name}: {taken}there is nothing to keep back of the shared one")
            if self.finetune is not None:
                faults.append(f"finetune: {self.strategy.name}: {taken}there is nothing more to fine-tune for a site")
        return faults


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises InputError with every fault, its line and the valid choices."""
    return load_document(path, Plan)
