"""Local training of one round: a fixed number of optimiser steps from the weights that were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import nn

from wardround.core.contracts import Kept, Shared
from wardround.core.errors import SiteError
from wardround.core.messages import Seconds, TrainFacts
from wardround.core.randomness import seed_of
from wardround.core.weights import Array, Arrays, Parts
from wardround.networks.build import build, exchange, load
from wardround.planning.plan import Plan
from wardround.site.device import Machine
from wardround.site.loss import make_loss
from wardround.site.optimiser import load_state, make_optimiser, rate_at, save_state
from wardround.site.patches import Batches

STRATEGY = "strategy/"
Progress = Callable[[int, int], None]


@dataclass
class _Tally:
    """What happened so far in this round."""

    loss: float = 0.0
    steps: int = 0
    skipped: int = 0
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
) -> tuple[Parts, dict[str, Array], TrainFacts]:
    """Train ``plan.training.steps`` updates.

    Args:
        plan: the plan.
        machine: device and precision.
        batches: the site's training data.
        sent: global weights and the strategy's shared state.
        kept: this site's private state (optimiser and strategy) after its last accepted round; empty at first.
        first_update: updates of one model before this round.
        progress: called with (done, total).

    Returns:
        The contribution, the private state to keep, and the facts that may be told.

    Raises:
        SiteError: too many non-finite gradients, or non-finite weights.
    """
    begin = time.perf_counter()
    before, shared = sent
    network = make_network(plan, machine, before).train()
    optimiser = make_optimiser(plan, network)
    private = {k.removeprefix(STRATEGY): v for k, v in kept.items() if k.startswith(STRATEGY)}
    private = private or dict(plan.strategy.keep(before))
    if plan.training.optimiser_state == "keep":
        load_state(optimiser, network, kept)
    pull = _Pull(plan, machine, before, shared, private)
    prepared = time.perf_counter() - begin
    step = _stepper(plan, machine, network, optimiser, pull)
    tally = _Tally()
    updates = range(first_update, first_update + plan.training.steps)
    for update, (image, label) in zip(updates, _ahead(batches, updates, tally), strict=True):
        started = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = rate_at(plan, update)
        torch.manual_seed(seed_of(plan.seed, "dropout", batches.site, update))
        step((image, label), tally)
        tally.compute += time.perf_counter() - started
        if progress is not None:
            progress(update - first_update + 1, plan.training.steps)
    _judge(plan, tally)
    closing = time.perf_counter()
    after = exchange(network)
    rate = rate_at(plan, updates[-1])
    taken = tally.steps - tally.skipped
    parts, private_after = plan.strategy.report(
        before, after, shared, private, steps=taken, rate=rate, cases=len(batches.cases)
    )
    out = {f"{STRATEGY}{name}": array for name, array in private_after.items()}
    if plan.training.optimiser_state == "keep":
        out.update(save_state(optimiser, network))
    end = time.perf_counter()
    facts = TrainFacts(
        cases=len(batches.cases),
        updates=taken,
        samples=tally.steps * plan.training.batch,
        skipped=tally.skipped,
        loss=tally.loss / max(1, taken),
        rate=rate,
        seconds=Seconds(data=tally.data, compute=tally.compute, prepare=prepared + end - closing, total=end - begin),
    )
    return parts, out, facts


class _Pull:
    """The strategy's term of the gradient, on the device."""

    def __init__(self, plan: Plan, machine: Machine, anchor: Arrays, shared: Shared, kept: Kept) -> None:
        self._strategy = plan.strategy
        self._anchor, self._shared, self._kept = (
            {name: torch.from_numpy(array.copy()).to(machine.device) for name, array in arrays.items()}
            for arrays in (anchor, shared, kept)
        )

    def add(self, network: nn.Module) -> None:
        with torch.no_grad():
            parameters = {n: p for n, p in network.named_parameters() if p.grad is not None}
            extra = self._strategy.pull(parameters, self._anchor, self._shared, self._kept)  # type: ignore[arg-type]
            for name, value in extra.items():
                grad = parameters[name].grad
                assert grad is not None  # noqa: S101 - chosen above
                grad.add_(value)


def _stepper(
    plan: Plan, machine: Machine, network: nn.Module, optimiser: torch.optim.Optimizer, pull: _Pull
) -> Callable[[tuple[torch.Tensor, torch.Tensor], _Tally], None]:
    loss_of = make_loss(plan.training.loss)

    def step(batch: tuple[torch.Tensor, torch.Tensor], tally: _Tally) -> None:
        image, label = (tensor.to(machine.device, non_blocking=True) for tensor in batch)
        optimiser.zero_grad(set_to_none=True)
        with machine.autocast():
            outputs = network(image)
        loss = loss_of(outputs, label)
        loss.backward()  # type: ignore[no-untyped-call]
        pull.add(network)
        norm = nn.utils.clip_grad_norm_(network.parameters(), plan.training.clip)
        tally.steps += 1
        if bool(torch.isfinite(norm)):
            optimiser.step()
            tally.loss += float(loss.detach())
        else:
            tally.skipped += 1

    return step


def _judge(plan: Plan, tally: _Tally) -> None:
    if tally.skipped > plan.training.most_skipped * tally.steps:
        raise SiteError(
            f"{tally.skipped} of {tally.steps} steps had non-finite gradients, more than the plan allows: "
            "lower the learning rate, or set training.precision to fp32"
        )


def _ahead(batches: Batches, updates: range, tally: _Tally) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
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
