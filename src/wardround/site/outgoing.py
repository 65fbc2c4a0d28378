"""Everything that a plan makes leave a site: what, when, how often at most, and how many bytes.

The sizes of tensors follow from the plan alone, those of messages from messages made up with the plan's
labels and modalities and the longest numbers there are. The page on which a person approves a plan shows
this table; `Consents.permission` lets no task exceed its "how often".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from wardround.core.encoding import PLAIN, TYPES, Encoding, is_encoded
from wardround.core.messages import (
    AFTER,
    Facts,
    InitFacts,
    Reply,
    ScoreFacts,
    Seconds,
    ShareFacts,
    SiteSummary,
    TrainFacts,
    TuneFacts,
    Verb,
)
from wardround.core.scores import LabelScores, LesionCounts, Scores
from wardround.core.stats import Histogram, Moments
from wardround.data.findings import CODES
from wardround.networks.names import BODY, HEAD, tensor_roles
from wardround.networks.sizes import tensor_numbers
from wardround.planning.plan import Plan
from wardround.site.announced import shares

ONCE = "once, after the last round"
LONG, MANY = 0.12345678901234567, 10**6
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
    compressed: bool = False  # what it weighs is then the most

    @property
    def total(self) -> int | None:
        """Bytes over the whole run, at most."""
        return None if self.times is None else self.times * self.bytes_each


def outgoing(plan: Plan) -> list[Outgoing]:
    """All that leaves for this plan, in the order in which it is first sent."""
    rounds, scored, every = plan.rounds.limit, times(plan, "validate"), "after each round of training"
    first = tensor_bytes(plan) + message_bytes(plan, "init")
    when_scored = "after each round" if plan.evaluation.every == 1 else f"after every {plan.evaluation.every} rounds"
    return [
        Outgoing("describe", "A description of the data in sums", "once", 1, message_bytes(plan, "describe")),
        Outgoing(
            "init",
            "First weights, drawn at random before any image was seen",
            "once, if this site is the one that is asked",
            1,
            first,
            tensors=True,
        ),
        *(
            Outgoing("train", what, every, rounds, size, tensors=True, compressed=plan.transfer.zstd is not False)
            for what, size in _contributed(plan)
        ),
        Outgoing(
            "train",
            "Numbers of training cases and steps, mean loss, learning rate, seconds",
            every,
            rounds,
            message_bytes(plan, "train"),
        ),
        Outgoing(
            "validate", "Scores on the validation cases, in sums", when_scored, scored, message_bytes(plan, "validate")
        ),
        *_at_the_end(plan),
        Outgoing("test", "Scores on the test cases, in sums", "once, at the end", 1, message_bytes(plan, "test")),
    ]  # fmt: skip


def _contributed(plan: Plan) -> list[tuple[str, int]]:
    """The tensors of a round of training: what they are, and bytes."""
    weights = tensor_bytes(plan, plan.transfer.upward, without=plan.private_tensors)
    rest = ", without the private tensors, which stay here" if plan.private else ""
    more = {
        "scaffold": ("The change of the control variate (its mean gradient)", weights),
        "fednova": ("How far the steps that were taken could move the model", _numbers(1)),
        "qfedavg": ("Loss of the received model, and the size of the change", _numbers(2)),
        "fedval": ("Mean Dice of the trained model on the validation cases", _numbers(2)),
    }.get(plan.strategy.name)
    return [(f"The trained weights{rest}", weights), *([more] if more else [])]


def _at_the_end(plan: Plan) -> list[Outgoing]:
    found = []
    if shares(plan):
        what = "The private tensors, which stay here while it trains, to be averaged for sites that did not take part"
        size = private_bytes(plan) + message_bytes(plan, "share")
        found.append(Outgoing("share", what, ONCE, 1, size, tensors=True))
    if plan.finetune is not None:
        what = "Whether fine-tuning was kept; mean Dice on the validation cases before and after it"
        found.append(Outgoing("finetune", what, ONCE, 1, message_bytes(plan, "finetune")))
    return found


def times(plan: Plan, verb: Verb) -> int:
    """How often a task of this kind is answered at most."""
    if verb == "train":
        return plan.rounds.limit
    if verb == "validate":
        return -(-plan.rounds.limit // plan.evaluation.every)
    return 1


def bytes_a_round(plan: Plan) -> int:
    """The most that leaves in one round."""
    rows = outgoing(plan)
    return max(sum(row.bytes_each for row in rows if row.verb in verbs) for verbs in (("train", "validate"), AFTER))


def tensor_bytes(plan: Plan, encoding: Encoding = PLAIN, without: Collection[str] = ()) -> int:
    """About how many bytes the weights have in an encoding, before any compression."""
    return _tensors(plan, {name: n for name, n in _model(plan).items() if name not in without}, encoding)


def private_bytes(plan: Plan) -> int:
    """About how many bytes the plan's private tensors have."""
    return _tensors(plan, _private(plan), PLAIN)


def private_numbers(plan: Plan) -> int:
    """How many numbers of the model are private tensors."""
    return sum(_private(plan).values())


def model_numbers(plan: Plan) -> int:
    """How many numbers the model has."""
    return sum(_model(plan).values())


def _model(plan: Plan) -> dict[str, int]:
    return tensor_numbers(plan.network, plan.task.dimensions, len(plan.task.modalities), plan.classes)


def _private(plan: Plan) -> dict[str, int]:
    return {name: n for name, n in _model(plan).items() if name in plan.private_tensors}


def _tensors(plan: Plan, numbers: Mapping[str, int], encoding: Encoding) -> int:
    roles, total = tensor_roles(plan.network), 0
    for name, count in numbers.items():
        several = roles[name] in (BODY, HEAD) and name.endswith(".weight")  # of a convolution: it has several axes
        coded = is_encoded(encoding, "<f4", (1, count) if several else (count,))
        scales = encoding.scales(count) if coded else 0
        total += count * (np.dtype(TYPES[encoding.kind]).itemsize if coded else 4) + TENSOR_HEADER
        total += 4 * scales + TENSOR_HEADER if scales else 0
    return total


def _numbers(count: int) -> int:
    return 8 * count + TENSOR_HEADER


def message_bytes(plan: Plan, verb: Verb) -> int:
    """About how many bytes the message of an answer has."""
    own = plan.strategy.companion() is not None
    longest: Mapping[Verb, Facts] = {
        "describe": _summary(plan),
        "init": InitFacts(parameters=MANY),
        "train": _training(own),
        "validate": _scores(plan, own),
        "share": ShareFacts(tensors=MANY),
        "finetune": _tuning(),
        "test": _scores(plan, own or plan.finetune is not None),
    }
    facts = longest[verb]
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
        lacks=dict.fromkeys(plan.task.optional, MANY),
        largest_batch=MANY,
        software="0.0.0",
    )


def _training(own: bool) -> TrainFacts:
    more = MANY if own else 0
    facts = TrainFacts(cases=MANY, updates=MANY, samples=MANY, loss=LONG, rate=LONG, seconds=_seconds())
    return facts.model_copy(update={"personal_updates": more})


def _tuning() -> TuneFacts:
    return TuneFacts(kept=False, before=LONG, after=LONG, updates=MANY, samples=MANY, seconds=_seconds())


def _scores(plan: Plan, own: bool) -> ScoreFacts:
    labels = {}
    for name in plan.task.labels:
        counts = LesionCounts(found=MANY, missed=MANY, true=MANY, false=MANY) if name in plan.task.lesions else None
        moments = dict.fromkeys(
            ("dice", "hd95", "surface_dice", "volume_difference", "absolute_volume_difference"), _moments()
        )
        labels[name] = LabelScores(**moments, lesions=counts)
    scores = Scores(cases=MANY, labels=labels)
    return ScoreFacts(scores=scores, personal=scores if own else None, seconds=_seconds())


@cache
def _moments() -> Moments:
    return Moments(n=MANY, total=LONG, squares=LONG)


def _seconds() -> Seconds:
    return Seconds(data=LONG, compute=LONG, prepare=LONG, total=LONG)
