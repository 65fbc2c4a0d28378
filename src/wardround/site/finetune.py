"""Training a finished model on for one site, and keeping what came of it only where validation cases improve."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from wardround.core.weights import Array, Arrays
from wardround.data.store import StoredCase
from wardround.networks.build import exchange
from wardround.planning.plan import Plan
from wardround.site.device import Machine
from wardround.site.patches import Batches
from wardround.site.scoring import quick_scores
from wardround.site.training import make_network, train_alone

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Tuning:
    """How to fine-tune: so many steps at a constant rate, counted on from ``first``.

    ``only`` names the tensors that may change; None: all. Where none of them has a gradient all may.
    """

    steps: int
    rate: float
    first: int = 0
    only: Collection[str] | None = None


@dataclass(frozen=True)
class Tuned:
    """What came of it. ``model`` is the better one on the validation cases; Dice is None where nothing could be said.

    ``changed`` names the tensors that were allowed to change.
    """

    model: dict[str, Array]
    kept: bool
    before: float | None
    after: float | None
    updates: int
    changed: tuple[str, ...]


def fine_tune(
    plan: Plan,
    machine: Machine,
    start: Arrays,
    batches: Batches,
    held_out: Sequence[StoredCase],
    tuning: Tuning,
    progress: Progress | None = None,
) -> Tuned:
    """Train ``start`` on ``batches`` and compare on ``held_out``, which it is not trained on.

    The plan's optimiser, augmentation and loss, with fresh momenta. Only a gain is kept: as good is not better.

    Raises:
        SiteError: too many non-finite gradients.
    """
    alone = _plan_of(plan, tuning)
    network = make_network(plan, machine, start)
    before = quick_scores(plan, machine, network, held_out).mean_dice
    trainable = {name for name, _ in network.named_parameters()}
    chosen = trainable if tuning.only is None else trainable & set(tuning.only)
    changed = set(start) if tuning.only is None or not chosen else set(tuning.only)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in changed)
    updates = range(tuning.first, tuning.first + tuning.steps)
    taken = train_alone(alone, machine, network, batches, updates, progress)
    trained = {name: array if name in changed else start[name] for name, array in exchange(network).items()}
    after = quick_scores(plan, machine, make_network(plan, machine, trained), held_out).mean_dice
    kept = after is not None and before is not None and after > before
    model = {name: trained[name] if kept else start[name] for name in trained}
    return Tuned(model, kept, before, after, taken, tuple(name for name in trained if name in changed))


def _plan_of(plan: Plan, tuning: Tuning) -> Plan:
    optimiser = plan.training.optimiser.model_copy(update={"rate": tuning.rate})
    change = {"steps": tuning.steps, "schedule": "constant", "optimiser": optimiser}
    return plan.model_copy(update={"training": plan.training.model_copy(update=change)})
