"""Where a run stands, as a value."""

from __future__ import annotations

from pydantic import NonNegativeInt

from wardround.core.frozen import Frozen
from wardround.core.messages import Digest, SiteName


class State(Frozen):
    """After ``round`` rounds. Weights and the strategy's state lie beside it (see `checkpoint`)."""

    round: NonNegativeInt = 0
    accepted: dict[SiteName, NonNegativeInt] = {}  # the last round in which a site's contribution counted
    folded: dict[SiteName, tuple[Digest, ...]] = {}  # digests of a site's last contributions that counted
    best: float | None = None  # mean validation Dice over all sites' cases
    best_round: NonNegativeInt | None = None
    best_accepted: dict[SiteName, NonNegativeInt] = {}  # ``accepted`` as it was after the best round
    barren: NonNegativeInt = 0  # rounds since the last gain that counts


def judged(state: State, dice: float | None, gain: float, rounds: int = 1) -> tuple[State, bool]:
    """The state after a validation, and whether the model is the best so far.

    Any improvement makes a model the best; only one of at least ``gain`` ends a barren stretch.
    ``rounds`` is how many rounds passed since the last validation.
    """
    barren = state.barren + rounds
    if dice is None or (state.best is not None and dice <= state.best):
        return state.model_copy(update={"barren": barren}), False
    if state.best is None or dice >= state.best + gain:
        barren = 0
    best = {"best": dice, "best_round": state.round, "best_accepted": state.accepted}
    return state.model_copy(update={**best, "barren": barren}), True


def chosen(state: State) -> State:
    """With ``accepted`` as it was for the model that is kept: the private tensors of those rounds belong to it."""
    return state if state.best_round is None else state.model_copy(update={"accepted": state.best_accepted})
