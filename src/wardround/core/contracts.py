"""The abstract parts, on one page. Each has few members, one file each, listed in a catalog."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from wardround.core.frozen import Frozen
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.weights import Array, Arrays, Part, Parts

Shared = Mapping[str, Array]
Kept = Mapping[str, Array]


class Transport(Protocol):
    """Two worlds behind one method: sites on this machine, or hospitals on a network."""

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        """Put ``task`` to ``sites``; one answer or failure each, in any order.

        Idempotent by task id: a site that answered before gives the stored answer.
        """
        ...


Ask = Callable[[Task, Path | None, Sequence[str]], Iterator[Answer | SiteFailed]]


AlertKind = Literal["clipped", "rejected", "replayed", "unmoved", "heavy", "contrary"]


@dataclass(frozen=True)
class Alert:
    """A site's contribution is conspicuous. What each kind means is said in `wardround.faces.alerts`.

    ``value`` is what was measured (the norm of an update, a weight, a cosine) and ``limit`` what it was held against;
    None where there is nothing to measure.
    """

    site: str
    kind: AlertKind
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True)
class Aggregate:
    """The sum over the sites that answered: per part the weighted mean, and who took part."""

    parts: Mapping[str, Part]  # arrays are means; weight is the sum of weights
    answers: tuple[Answer, ...] = ()
    failures: tuple[SiteFailed, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # wait, fold
    alerts: tuple[Alert, ...] = ()


@dataclass(frozen=True)
class Lost:
    """Too few answers."""

    failures: tuple[SiteFailed, ...]
    needed: int
    got: int
    alerts: tuple[Alert, ...] = ()
    why: str = ""  # why so many are needed, where it is not the plan's quorum


class Aggregation(Frozen, ABC):
    """Owns the exchange of a task: one slot in the plan."""

    @abstractmethod
    def collect(
        self, ask: Ask, task: Task, tensors: Path | None, sites: Sequence[str], quorum: int
    ) -> Aggregate | Lost:
        """Ask, check, and fold what came back in site order; ``Lost`` below the quorum."""


@dataclass(frozen=True)
class Descent:
    """What a plan's local training is, as far as a strategy's algebra rests on it."""

    optimiser: str  # "sgd" or "adamw"
    momentum: float = 0.0  # of SGD
    carried: bool = False  # a site's momenta live on from round to round


@dataclass(frozen=True)
class Work:
    """What a site's local training of one round was."""

    cases: int
    rates: tuple[float, ...]  # of each step taken: one skipped for a non-finite gradient is not among them
    momentum: float = 0.0  # of SGD
    loss: float | None = None  # of the model that was sent, on this site's training data: see `Strategy.needs_loss`
    score: float | None = None  # Dice of the trained model on this site's validation cases: see `Strategy.needs_score`

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return len(self.rates)

    @property
    def distance(self) -> float:
        """Sum of the learning rates: ``K eta`` where the rate does not change."""
        return sum(self.rates)

    @property
    def reach(self) -> float:
        """How far SGD moves a weight whose gradient is 1 in every step, with momenta 0 at the start.

        With Nesterov momentum (as in torch) step s moves it by ``eta_s (1 + rho b_s)``, where
        ``b_s = rho b_(s-1) + 1``. Without momentum it is `distance`.
        """
        total, buffer = 0.0, 0.0
        for rate in self.rates:
            buffer = self.momentum * buffer + 1
            total += rate * (1 + self.momentum * buffer)
        return total


class Strategy(Frozen, ABC):
    """An algorithm, both halves. State is passed in and returned, never kept on ``self``.

    ``w`` and ``anchor`` in `pull` may be numpy arrays or torch tensors: only operators are used.
    Arrays hold parameters and the running statistics of batch normalisation. Statistics have no
    gradient (see `weights.is_statistic`): they are averaged, and nothing else is done to them.
    A federation of one site (a baseline) gets that site's training as it is.
    """

    needs_loss: ClassVar[bool] = False  # `Work.loss` is measured before training
    needs_score: ClassVar[bool] = False  # `Work.score` is measured after training
    needs_mean: ClassVar[bool] = False  # its parts are summands: only their weighted mean has a meaning

    def refuses(self, descent: Descent) -> str | None:
        """Why this local training contradicts the strategy, and what to change; None where it does not."""
        return None

    def begin(self, weights: Arrays) -> Shared:
        """The coordinator's state before round 0."""
        return {}

    def told(self, shared: Shared) -> Shared:
        """What of the coordinator's state the sites need, and are sent with the weights."""
        return {}

    def keep(self, weights: Arrays) -> Kept:
        """A site's private state before its first round."""
        return {}

    def pull(self, w: Mapping[str, Any], anchor: Mapping[str, Any], shared: Shared, kept: Kept) -> Mapping[str, Any]:
        """What local training adds to the gradient, by parameter; empty: nothing."""
        return {}

    def companion(self) -> Strategy | None:
        """By which strategy each site also trains a whole model of its own, which never leaves it; None: it does not.

        Only its `pull` counts: the anchor is the model that was sent, ``w`` the site's own.
        """
        return None

    @abstractmethod
    def report(self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, work: Work) -> tuple[Parts, Kept]:
        """The site's contribution and its new private state, after local training."""

    @abstractmethod
    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        """The next global weights and state; ``sites`` is the size of the federation."""
