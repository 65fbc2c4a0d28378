"""What is a site's own: tensors that never leave it, a second model, and how models are put together from them.

In the state that a site keeps from round to round (see `answers`)::

    private/<tensor>       the plan's private tensors, as this site trained them
    own/private/<tensor>   the site's own whole model, where the strategy trains one (see `Strategy.companion`)
    own/...                that model's own optimiser
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wardround.core.contracts import Kept, Shared, Strategy
from wardround.core.errors import SiteError, StorageError
from wardround.core.frozen import canonical_json
from wardround.core.messages import Seconds, TrainFacts
from wardround.core.weights import Array, Arrays, Parts, write_bytes, write_tensors
from wardround.networks.build import exchange
from wardround.planning.plan import Plan
from wardround.site.device import Machine
from wardround.site.patches import Batches
from wardround.site.training import PRIVATE, make_network, train

OWN = "own/"
TENSORS = (PRIVATE, OWN + PRIVATE)  # what of the private state is tensors of a network
Progress = Callable[[int, int], None]


def keeps_tensors(plan: Plan) -> bool:
    """True where a site keeps tensors of a network from round to round."""
    return plan.private is not None or plan.strategy.companion() is not None


def private_of(kept: Kept) -> dict[str, Array]:
    """The private tensors in the private state."""
    return _under(kept, PRIVATE)


def own_model(kept: Kept) -> dict[str, Array]:
    """The site's own whole model in the private state; empty where it has none."""
    return _under(kept, OWN + PRIVATE)


def as_own_model(weights: Arrays) -> dict[str, Array]:
    """Private state from which `own_model` gives ``weights``."""
    return {f"{OWN}{PRIVATE}{name}": array for name, array in weights.items()}


def _under(kept: Kept, prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in kept.items() if name.startswith(prefix)}


def whole_model(plan: Plan, machine: Machine, sent: Arrays, kept: Kept) -> Arrays:
    """The network as it is at this site: the model that was sent, with the site's own private tensors.

    A site that has none yet takes those that were sent, or their first values, which follow from the plan's seed.
    """
    model = {**sent, **private_of(kept)}
    missing = [name for name in plan.private_tensors if name not in model]
    return {**model, **_first(plan, machine, missing)}


def with_private(plan: Plan, machine: Machine, sent: Arrays, kept: Kept) -> Kept:
    """The private state with which a round of training begins: first values where the site has none yet.

    Raises:
        SiteError: tensors that never leave a site came with the model.
    """
    if wrong := [name for name in plan.private_tensors if name in sent]:
        raise SiteError(f"the model that was sent holds {wrong[0]}, which the plan keeps at the sites")
    missing = [name for name in plan.private_tensors if PRIVATE + name not in kept]
    return {**kept, **{PRIVATE + name: array for name, array in _first(plan, machine, missing).items()}}


def _first(plan: Plan, machine: Machine, names: list[str]) -> dict[str, Array]:
    if not names:
        return {}
    drawn = exchange(make_network(plan, machine, None))
    return {name: drawn[name] for name in names}


def split(plan: Plan, weights: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tensors that are shared, and those that are private."""
    private = set(plan.private_tensors)
    shared = {name: array for name, array in weights.items() if name not in private}
    return shared, {name: array for name, array in weights.items() if name in private}


def check_outbox(plan: Plan, parts: Parts) -> None:
    """Raise SiteError where private tensors are about to leave, under their names in any part."""
    names = {name for part in parts.values() for name in part.arrays}
    if leaving := sorted(names.intersection(plan.private_tensors)):
        raise SiteError(f"{leaving[0]} was about to leave, but the plan keeps it at the site: nothing was sent")


def train_companion(
    plan: Plan,
    companion: Strategy,
    machine: Machine,
    batches: Batches,
    sent: tuple[Arrays, Shared],
    kept: Kept,
    first_update: int,
    progress: Progress,
) -> tuple[dict[str, Array], TrainFacts]:
    """One round of the site's own model, on the batches on which the shared one was trained.

    Returns the private state of it, and what its training was. Raises SiteError as `train`.
    """
    alone = plan.model_copy(update={"strategy": companion})
    parts, state, facts = train(alone, machine, batches, sent, _under(kept, OWN), first_update, progress)
    rest = {f"{OWN}{name}": array for name, array in state.items()}
    return {**rest, **as_own_model(parts["weights"].arrays)}, facts


def both(shared: TrainFacts, own: TrainFacts) -> TrainFacts:
    """The facts of a round in which two models were trained."""
    a, b = shared.seconds, own.seconds
    seconds = Seconds(
        data=a.data + b.data, compute=a.compute + b.compute, prepare=a.prepare + b.prepare, total=a.total + b.total
    )
    more = {"personal_updates": own.updates, "samples": shared.samples + own.samples, "seconds": seconds}
    return shared.model_copy(update=more)


def write_model_folder(folder: Path, plan: Plan, weights: Arrays, facts: Mapping[str, object]) -> None:
    """``plan.json`` and ``model.safetensors``: what `evaluate` and `predict` need of a run directory.

    Raises:
        StorageError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    write_bytes(folder / "plan.json", plan.canonical().encode())
    about = canonical_json({"format": 1, "plan": plan.digest(), **facts})
    write_tensors(folder / "model.safetensors", weights, {"wardround": about})
