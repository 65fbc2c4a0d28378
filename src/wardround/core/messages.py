"""What is asked of a site and what comes back. Nothing else ever leaves a hospital.

Every value is frozen, validated and bounded; arrays travel beside it as a safetensors file whose
SHA-256 the message names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from wardround.core.frozen import Frozen
from wardround.core.scores import Scores
from wardround.core.stats import Histogram, Moments

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
SiteName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Verb = Literal["describe", "init", "train", "validate", "share", "finetune", "test"]
FailureKind = Literal["pending", "refused", "late", "error"]


class Task(Frozen):
    """One question to every site. Its id is the same for all of them and is never used twice."""

    plan: Digest
    round: NonNegativeInt
    verb: Verb
    step: NonNegativeInt = 0
    first_update: NonNegativeInt = 0  # optimiser steps of one model before this round: places the learning rate
    accepted: dict[SiteName, NonNegativeInt] = {}  # the last round in which this site's contribution counted
    best: dict[SiteName, NonNegativeInt] = {}  # the same as it was when the best model so far was made
    tensors: Digest | None = None

    @property
    def id(self) -> str:
        """``digest:round:verb:step``"""
        return f"{self.plan}:{self.round}:{self.verb}:{self.step}"


class Seconds(Frozen):
    """Where a site's time went, in seconds of wall clock."""

    data: NonNegativeFloat = 0.0  # waiting for a batch
    compute: NonNegativeFloat = 0.0  # forward, backward, optimiser, inference, metrics
    prepare: NonNegativeFloat = 0.0  # building the network, loading and saving state
    total: NonNegativeFloat = 0.0


class SiteSummary(Frozen):
    """A site's data in sums: what the report shows of it. No case, no file, no voxel."""

    kind: Literal["describe"] = "describe"
    dataset: Digest
    synthetic: bool = False
    cases: dict[str, NonNegativeInt] = {}  # train, validation, test
    subjects: NonNegativeInt | None = None  # None: which case belongs to whom is unknown
    left_out: dict[str, NonNegativeInt] = {}  # by reason
    warnings: dict[str, NonNegativeInt] = {}
    spacing: tuple[Moments, ...] = ()  # mm, per axis, before resampling
    shape: tuple[Moments, ...] = ()  # voxels, per axis, before resampling
    intensity: dict[str, Moments] = {}  # per modality, over cases' mean foreground intensity
    volume: dict[str, Histogram] = {}  # per label, log10 of ml
    present: dict[str, NonNegativeInt] = {}  # per label, in how many cases
    lacks: dict[str, NonNegativeInt] = {}  # per optional modality, cases without it
    unlabelled: dict[str, NonNegativeInt] = {}  # per label, cases in which nobody outlined it
    largest_batch: NonNegativeInt | None = None  # samples that fit into the site's memory at once
    device: str = "cpu"
    precision: str = "fp32"
    software: str = ""


class InitFacts(Frozen):
    """The network was built and its first weights drawn."""

    kind: Literal["init"] = "init"
    parameters: NonNegativeInt


class TrainFacts(Frozen):
    """What local training did."""

    kind: Literal["train"] = "train"
    cases: NonNegativeInt
    updates: NonNegativeInt
    samples: NonNegativeInt
    skipped: NonNegativeInt = 0  # optimiser steps skipped for a non-finite gradient
    personal_updates: NonNegativeInt = 0  # of the site's own second model, beside `updates`; `samples` holds both
    loss: float
    rate: NonNegativeFloat  # learning rate of the last step
    seconds: Seconds = Seconds()


class ScoreFacts(Frozen):
    """The model that was sent, scored on the site's validation or test cases.

    Private tensors of the site take their places in it. ``personal`` is what the site's own whole model
    reaches on the same cases, where it has one.
    """

    kind: Literal["score"] = "score"
    scores: Scores
    personal: Scores | None = None
    seconds: Seconds = Seconds()


class ShareFacts(Frozen):
    """The site's private tensors, once, for sites that have none: only where the plan says so."""

    kind: Literal["share"] = "share"
    tensors: NonNegativeInt


class TuneFacts(Frozen):
    """What fine-tuning did to the model at this site. ``before`` and ``after`` are Dice on its validation cases."""

    kind: Literal["finetune"] = "finetune"
    kept: bool
    before: float | None
    after: float | None
    updates: NonNegativeInt
    samples: NonNegativeInt
    seconds: Seconds = Seconds()


Facts = Annotated[
    SiteSummary | InitFacts | TrainFacts | ScoreFacts | ShareFacts | TuneFacts, Field(discriminator="kind")
]


@dataclass(frozen=True)
class Expected:
    """What an answer to a verb holds: which facts, and whether tensors come with them."""

    facts: type[SiteSummary | InitFacts | TrainFacts | ScoreFacts | ShareFacts | TuneFacts]
    tensors: bool = False


ANSWERS: Mapping[Verb, Expected] = {
    "describe": Expected(SiteSummary),
    "init": Expected(InitFacts, tensors=True),
    "train": Expected(TrainFacts, tensors=True),
    "validate": Expected(ScoreFacts),
    "share": Expected(ShareFacts, tensors=True),
    "finetune": Expected(TuneFacts),
    "test": Expected(ScoreFacts),
}
AFTER: tuple[Verb, ...] = ("share", "finetune", "test")  # once each at most, after the last round, in this order


class Reply(Frozen):
    """A site's answer to a task."""

    task: str
    site: SiteName
    facts: Facts
    tensors: Digest | None = None
    size: NonNegativeInt = 0  # bytes of the tensor file


class SiteFailed(Frozen):
    """A failure is a value: the round decides by its quorum. ``reason`` holds nothing private."""

    task: str
    site: SiteName
    kind: FailureKind
    reason: str = Field(max_length=500)


@dataclass(frozen=True)
class Answer:
    """A reply and the tensor file that came with it, on the receiver's disk.

    ``transport`` is the time in seconds spent on moving the task there and the answer back.
    """

    reply: Reply
    tensors: Path | None = None
    transport: float = 0.0
