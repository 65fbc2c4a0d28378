"""When a run is over: a pure function of the plan and the state."""

from __future__ import annotations

from typing import Literal

from wardround.coordinator.state import State
from wardround.planning.plan import Plan

Reason = Literal["stabilised", "limit"]


def why_stop(plan: Plan, state: State, fixed: int | None = None) -> Reason | None:
    """``stabilised``: no gain for the plan's patience; ``limit``: all rounds are done; None: go on.

    Args:
        plan: the plan.
        state: where the run stands.
        fixed: a baseline takes exactly so many rounds, to have equal updates.
    """
    if fixed is not None:
        return "limit" if state.round >= fixed else None
    if state.round >= plan.rounds.limit:
        return "limit"
    return "stabilised" if state.barren >= plan.rounds.patience else None
