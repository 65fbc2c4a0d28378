"""Everything that a plan makes leave a site: what, when, how often at most, and how many bytes.

The sizes of tensors follow from the plan alone, those of messages from messages made up with the plan's
labels and modalities and the longest numbers there are. The page on which a person approves a plan shows
this table; `Consents.permission` lets no task exceed its "how often".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from wardround.core.messages import InitFacts, Reply, ScoreFacts, Seconds, SiteSummary, TrainFacts, Verb
from wardround.core.scores import LabelScores, LesionCounts, Scores
from wardround.core.stats import Histogram, Moments
from wardround.data.findings import CODES
from wardround.networks.sizes import count_numbers, count_tensors
from wardround.planning.plan import Plan

LONG, MANY = 0.12345678901234567, 10**6
BYTES_A_NUMBER = {"fp32": 4, "bf16": 2, "int8": 1}
TENSOR_HEADER = 120  # bytes that a safetensors file spends on a tensor's name, shape and place, at most about


@dataclass(frozen=True)
class Outgoing:
    """One kind of thing that leaves. ``bytes_each`` is what one weighs; ``times`` None: as long as the site serves."""

    verb: Verb | None
    what: str
    when: str
    times: int | None
    bytes_each: int
    tensors: bool = False

    @property
    def total(self) -> int | None:
        """Bytes over the whole run, at most."""
        return None if self.times is None else self.times * self.bytes_each


def outgoing(plan: Plan) -> list[Outgoing]:
    """All that leaves for this plan, in the order in which it is first sent."""
    weights = tensor_bytes(plan, getattr(getattr(plan, "transfer", None), "up", "fp32"))
    rounds, scored = plan.rounds.limit, times(plan, "validate")
    more = (
        [("The change of the control variate (its mean gradient)", weights)] if plan.strategy.name == "scaffold" else []
    )
    return [
        Outgoing("describe", "A description of the data in sums", "once", 1, message_bytes(plan, "describe")),
        Outgoing(
            "init",
            "First weights, drawn at random before any image was seen",
            "once, if this site is the one that is asked",
            1,
            tensor_bytes(plan) + message_bytes(plan, "init"),
            tensors=True,
        ),
        Outgoing("train", "The trained weights", "after each round of training", rounds, weights, tensors=True),
        *(
            Outgoing("train", what, "after each round of training", rounds, size, tensors=True)
            for what, size in more
        ),
        Outgoing(
            "train",
            "Numbers of training cases and steps, mean loss, learning rate, seconds",
            "after each round of training",
            rounds,
            message_bytes(plan, "train"),
        ),
        Outgoing(
            "validate",
            "Scores on the validation cases, in sums",
            "after each round" if plan.evaluation.every == 1 else f"after every {plan.evaluation.every} rounds",
            scored,
            message_bytes(plan, "validate"),
        ),
        Outgoing("test", "Scores on the test cases, in sums", "once, at the end", 1, message_bytes(plan, "test")),
    ]  # fmt: skip


def times(plan: Plan, verb: Verb) -> int:
    """How often a task of this kind is answered at most."""
    if verb == "train":
        return plan.rounds.limit
    if verb == "validate":
        return -(-plan.rounds.limit // plan.evaluation.every)
    return 1


def bytes_a_round(plan: Plan) -> int:
    """The most that leaves in one round."""
    return sum(part.bytes_each for part in outgoing(plan) if part.verb in ("train", "validate"))


def tensor_bytes(plan: Plan, kind: str = "fp32") -> int:
    """About how many bytes the weights have in an encoding of the plan's transfer section."""
    return BYTES_A_NUMBER[kind] * model_numbers(plan) + TENSOR_HEADER * count_tensors(plan.network)


def model_numbers(plan: Plan) -> int:
    """How many numbers the model has."""
    return count_numbers(plan.network, plan.task.dimensions, len(plan.task.modalities), plan.classes)


def message_bytes(plan: Plan, verb: Verb) -> int:
    """About how many bytes the message of an answer has."""
    facts = {"describe": _summary, "train": _training, "validate": _scores, "test": _scores}.get(verb, _first)(plan)
    reply = Reply(task=f"{'0' * 64}:{MANY}:{verb}:0", site="s" * 16, facts=facts, tensors="0" * 64, size=10**9)
    return len(reply.model_dump_json())


def _summary(plan: Plan) -> SiteSummary:
    histogram = Histogram(low=-3, high=4, counts=(100,) * 28)
    return SiteSummary(
        dataset="0" * 64,
        cases=dict.fromkeys(("train", "validation", "test"), MANY),
        subjects=MANY,
        left_out=dict.fromkeys(list(CODES)[:4], MANY),
        spacing=(_moments(),) * 3,
        shape=(_moments(),) * 3,
        intensity={name: _moments() for name in plan.task.modalities},
        volume=dict.fromkeys(plan.task.labels, histogram),
        present=dict.fromkeys(plan.task.labels, MANY),
        software="0.0.0",
    )


def _first(_plan: Plan) -> InitFacts:
    return InitFacts(parameters=MANY)


def _training(_plan: Plan) -> TrainFacts:
    return TrainFacts(cases=MANY, updates=MANY, samples=MANY, loss=LONG, rate=LONG, seconds=_seconds())


def _scores(plan: Plan) -> ScoreFacts:
    labels = {}
    for name in plan.task.labels:
        counts = LesionCounts(found=MANY, missed=MANY, true=MANY, false=MANY) if name in plan.task.lesions else None
        moments = dict.fromkeys(
            ("dice", "hd95", "surface_dice", "volume_difference", "absolute_volume_difference"), _moments()
        )
        labels[name] = LabelScores(**moments, lesions=counts)
    return ScoreFacts(scores=Scores(cases=MANY, labels=labels), seconds=_seconds())


@cache
def _moments() -> Moments:
    return Moments(n=MANY, total=LONG, squares=LONG)


def _seconds() -> Seconds:
    return Seconds(data=LONG, compute=LONG, prepare=LONG, total=LONG)
