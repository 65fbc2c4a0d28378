"""Which tasks a plan announces: what the person who approved it was told would be asked, and no more."""

from __future__ import annotations

from wardround.core.messages import Verb
from wardround.planning.plan import Plan


def announces(plan: Plan, verb: Verb, number: int) -> bool:
    """Whether a task of this kind is asked after ``number`` rounds, by this plan.

    That the tasks of `wardround.core.messages.AFTER` are asked after one round only, and that nothing is
    trained after it, is not seen here: which round it is shows when the first of them is asked.
    """
    limit, every = plan.rounds.limit, plan.evaluation.every
    after = 1 <= number <= limit
    return {
        "describe": number == 0,
        "init": number == 0,
        "train": number < limit,
        "validate": after and (number % every == 0 or number == limit),
        "share": after and shares(plan),
        "finetune": after and plan.finetune is not None,
        "test": number <= limit,
    }[verb]


def shares(plan: Plan) -> bool:
    """Whether each site sends its private tensors once, at the end."""
    return plan.private is not None and plan.private.unseen == "mean"
