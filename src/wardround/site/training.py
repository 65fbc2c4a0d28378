"""Local training of one round: a fixed number of optimiser steps from the weights that were sent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from torch import nn

from wardround.core.contracts import Kept, Shared, Strategy, Work
from wardround.core.errors import SiteError
from wardround.core.messages import Seconds, TrainFacts
from wardround.core.randomness import seed_of
from wardround.core.weights import Array, Arrays, Parts
from wardround.data.store import StoredCase
from wardround.networks.build import build, exchange, load
from wardround.planning.plan import Plan
from wardround.site.device import Machine
from wardround.site.group import average, spread, unsent
from wardround.site.loss import LossFunction, make_loss
from wardround.site.optimiser import load_state, make_optimiser, rate_at, save_state
from wardround.site.patches import Batch, Batches
from wardround.site.scoring import quick_scores
from wardround.strategies.fedavg import FedAvg

STRATEGY = "strategy/"
PRIVATE = "private/"
LOSS_BATCHES = 8  # on which the loss of the received model is measured, where a strategy needs it
Progress = Callable[[int, int], None]


@dataclass
class _Tally:
    """What happened so far in this round."""

    loss: float = 0.0
    steps: int = 0
    rates: list[float] = field(default_factory=list)  # of the steps that were not skipped
    data: float = 0.0
    compute: float = 0.0


def make_network(plan: Plan, machine: Machine, weights: Arrays | None) -> nn.Module:
    """The plan's network with ``weights``, or with the plan's own first weights."""
    torch.manual_seed(seed_of(plan.seed, "init"))
    network = build(plan.network, plan.task.dimensions, len(plan.task.modalities), plan.classes)
    if weights is not None:
        load(network, weights)
    return network.to(machine.device)


def train(
    plan: Plan,
    machine: Machine,
    batches: Batches,
    sent: tuple[Arrays, Shared],
    kept: Kept,
    first_update: int,
    progress: Progress | None = None,
    held_out: Sequence[StoredCase] = (),
) -> tuple[Parts, dict[str, Array], TrainFacts]:
    """Train ``plan.training.steps`` updates.

    Args:
        plan: the plan.
        machine: device and precision.
        batches: the site's training data.
        sent: global weights and the strategy's shared state.
        kept: this site's private state (optimiser, strategy, tensors) after its last accepted round; empty at first.
            Tensors called ``private/...`` are where those of the network begin, whether they were sent or not.
        first_update: updates of one model before this round.
        progress: called with (done, total).
        held_out: the site's validation cases, for a strategy that asks how good the trained model is.

    Returns:
        The contribution, which has the tensors that were sent and no other, the private state to keep, which has
        the others, and the facts that may be told.

    Raises:
        SiteError: too many non-finite gradients, or a loss that is not finite.
    """
    begin = time.perf_counter()
    before, shared = sent
    own = {name.removeprefix(PRIVATE): array for name, array in kept.items() if name.startswith(PRIVATE)}
    network = make_network(plan, machine, {**before, **own}).train()
    optimiser = make_optimiser(plan, network)
    private = {k.removeprefix(STRATEGY): v for k, v in kept.items() if k.startswith(STRATEGY)}
    private = private or dict(plan.strategy.keep(before))
    if plan.training.optimiser_state == "keep":
        load_state(optimiser, network, kept)
    pull = _Pull(plan, machine, before, shared, private)
    updates = range(first_update, first_update + plan.training.steps)
    received = _received_loss(plan, machine, network, batches, updates) if plan.strategy.needs_loss else None
    prepared = time.perf_counter() - begin
    tally = _Trainer(plan, machine, network, optimiser, pull).run(batches, updates, progress)
    _judge(plan, tally)
    score = _trained_score(plan, machine, network, held_out, tally) if plan.strategy.needs_score else None
    closing = time.perf_counter()
    whole = exchange(network)
    after = {name: array for name, array in whole.items() if name in before}
    rate = rate_at(plan, updates[-1])
    work = Work(len(batches.cases), tuple(tally.rates), plan.training.descent.momentum, received, score)
    parts, private_after = plan.strategy.report(before, after, shared, private, work)
    out = {f"{STRATEGY}{name}": array for name, array in private_after.items()}
    if plan.training.optimiser_state == "keep":
        out.update(save_state(optimiser, network))
    out.update({f"{PRIVATE}{name}": array for name, array in whole.items() if name not in before})
    end = time.perf_counter()
    facts = TrainFacts(
        cases=work.cases,
        updates=work.steps,
        samples=tally.steps * plan.training.batch,
        skipped=tally.steps - work.steps,
        loss=tally.loss / work.steps,
        rate=rate,
        seconds=Seconds(data=tally.data, compute=tally.compute, prepare=prepared + end - closing, total=end - begin),
    )
    return parts, out, facts


def train_alone(
    plan: Plan,
    machine: Machine,
    network: nn.Module,
    batches: Batches,
    updates: range,
    progress: Progress | None = None,
) -> int:
    """Optimiser steps on ``network`` itself, with fresh momenta and no strategy; parameters may be frozen.

    Returns how many were taken. Raises SiteError as `train`.
    """
    plan = plan.model_copy(update={"strategy": FedAvg()})
    pull = _Pull(plan, machine, {}, {}, {})
    network.train()
    tally = _Trainer(plan, machine, network, make_optimiser(plan, network), pull).run(batches, updates, progress)
    _judge(plan, tally)
    return len(tally.rates)


class _Pull:
    """The strategy's term of the gradient, on the device."""

    def __init__(self, plan: Plan, machine: Machine, anchor: Arrays, shared: Shared, kept: Kept) -> None:
        self._strategy = plan.strategy
        self._idle = type(plan.strategy).pull is Strategy.pull
        if self._idle:
            return  # nothing needs to lie on the device
        self._anchor, self._shared, self._kept = (
            {name: torch.from_numpy(array.copy()).to(machine.device) for name, array in arrays.items()}
            for arrays in (anchor, shared, kept)
        )

    def add(self, network: nn.Module) -> None:
        if self._idle:
            return
        with torch.no_grad():
            parameters = {n: p for n, p in network.named_parameters() if p.grad is not None and n in self._anchor}
            extra = self._strategy.pull(parameters, self._anchor, self._shared, self._kept)  # type: ignore[arg-type]
            for name, value in extra.items():
                grad = parameters[name].grad
                assert grad is not None  # noqa: S101 - chosen above
                grad.add_(value)


@dataclass(frozen=True)
class _Trainer:
    """What stays the same from step to step."""

    plan: Plan
    machine: Machine
    network: nn.Module
    optimiser: torch.optim.Optimizer
    pull: _Pull

    def run(self, batches: Batches, updates: range, progress: Progress | None) -> _Tally:
        tally, loss_of = _Tally(), make_loss(self.plan.training.loss)
        model = spread(self.network, self.machine.group)
        # A group takes the mean of its gradients and losses, each of which is a sum over its own samples.
        whole = self.plan.training.batch / self.machine.group.size
        for update, batch in zip(updates, _ahead(batches, updates, tally), strict=True):
            started = time.perf_counter()
            for group in self.optimiser.param_groups:
                group["lr"] = rate_at(self.plan, update)
            apart = (self.machine.group.rank,) if self.machine.group.rank else ()
            torch.manual_seed(seed_of(self.plan.seed, "dropout", batches.site, update, *apart))
            self._step(model, _parts(batch, batches.largest, whole), loss_of, tally)
            tally.compute += time.perf_counter() - started
            if progress is not None:
                progress(update - updates.start + 1, len(updates))
        return tally

    def _step(
        self, model: nn.Module, parts: Sequence[tuple[Batch, float]], loss_of: LossFunction, tally: _Tally
    ) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for number, (part, share) in enumerate(parts, 1):
            image, label, hidden = _moved(part, self.machine)
            with unsent(model, number == len(parts)):
                with self.machine.autocast():
                    outputs = model(image)
                loss_here = loss_of(outputs, label, hidden) * share
                loss_here.backward()  # type: ignore[no-untyped-call]
            loss += loss_here.detach().cpu()
        loss = average(loss, self.machine.group, self.machine.device)
        self.pull.add(self.network)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.plan.training.clip)
        tally.steps += 1
        if bool(torch.isfinite(norm)):
            self.optimiser.step()
            tally.loss += float(loss)
            tally.rates.append(self.optimiser.param_groups[0]["lr"])


def _received_loss(plan: Plan, machine: Machine, network: nn.Module, batches: Batches, updates: range) -> float:
    """Mean loss of the model as it was sent, on the round's first batches; the model is left as it is."""
    loss_of, chosen = make_loss(plan.training.loss), updates[:LOSS_BATCHES]
    network.eval()
    with torch.no_grad(), machine.autocast():
        total = 0.0
        for update in chosen:
            image, label, hidden = _moved(batches.make(update), machine)
            total += float(loss_of(network(image), label, hidden))
    network.train()
    if not math.isfinite(total):
        raise SiteError("the loss of the model that was sent is not finite on this site's training cases")
    return total / len(chosen)


def _trained_score(
    plan: Plan, machine: Machine, network: nn.Module, held_out: Sequence[StoredCase], tally: _Tally
) -> float | None:
    """Mean Dice of the trained model on the site's validation cases."""
    begin = time.perf_counter()
    dice = quick_scores(plan, machine, network, held_out).mean_dice
    tally.compute += time.perf_counter() - begin
    return dice


def _judge(plan: Plan, tally: _Tally) -> None:
    skipped = tally.steps - len(tally.rates)
    if skipped > plan.training.most_skipped * tally.steps:
        raise SiteError(
            f"{skipped} of {tally.steps} steps had non-finite gradients, more than the plan allows: "
            "lower the learning rate, or set training.precision to fp32"
        )
    if not tally.rates:
        raise SiteError(f"none of {tally.steps} steps had finite gradients: there is nothing to contribute")


def _parts(batch: Batch, largest: int | None, whole: float) -> list[tuple[Batch, float]]:
    """The batch in parts of at most ``largest`` samples, and each part's share of ``whole`` samples."""
    size, parts = len(batch.image), []
    for first in range(0, size, largest or size):
        piece = slice(first, first + (largest or size))
        hidden = None if batch.hidden is None else batch.hidden[piece]
        part = Batch(batch.image[piece], batch.label[piece], hidden)
        parts.append((part, len(part.image) / whole))
    return parts


def _moved(batch: Batch, machine: Machine) -> Batch:
    hidden = None if batch.hidden is None else batch.hidden.to(machine.device)
    return Batch(
        batch.image.to(machine.device, non_blocking=True), batch.label.to(machine.device, non_blocking=True), hidden
    )


def _ahead(batches: Batches, updates: range, tally: _Tally) -> Iterator[Batch]:
    """Make the next batch while this one trains; ``tally.data`` counts the seconds waited for one."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batches.make, updates[0])
        for update in updates:
            begin = time.perf_counter()
            batch = waiting.result()
            tally.data += time.perf_counter() - begin
            if update + 1 in updates:
                waiting = pool.submit(batches.make, update + 1)
            yield batch
