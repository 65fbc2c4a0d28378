"""The abstract parts, on one page. Each has few members, one file each, listed in a catalog."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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


@dataclass(frozen=True)
class Aggregate:
    """The sum over the sites that answered: per part the weighted mean, and who took part."""

    parts: Mapping[str, Part]  # arrays are means; weight is the sum of weights
    answers: tuple[Answer, ...] = ()
    failures: tuple[SiteFailed, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)  # wait, fold


@dataclass(frozen=True)
class Lost:
    """Too few answers."""

    failures: tuple[SiteFailed, ...]
    needed: int
    got: int


class Aggregation(Frozen, ABC):
    """Owns the exchange of a task: one slot in the plan."""

    @abstractmethod
    def collect(
        self, ask: Ask, task: Task, tensors: Path | None, sites: Sequence[str], quorum: int
    ) -> Aggregate | Lost:
        """Ask, check, and fold what came back in site order; ``Lost`` below the quorum."""


class Strategy(Frozen, ABC):
    """An algorithm, both halves. State is passed in and returned, never kept on ``self``.

    ``w`` and ``anchor`` in `pull` may be numpy arrays or torch tensors: only operators are used.
    """

    def begin(self, weights: Arrays) -> Shared:
        """The coordinator's state before round 0."""
        return {}

    def keep(self, weights: Arrays) -> Kept:
        """A site's private state before its first round."""
        return {}

    def pull(self, w: Mapping[str, Any], anchor: Mapping[str, Any], shared: Shared, kept: Kept) -> Mapping[str, Any]:
        """What local training adds to the gradient, by parameter; empty: nothing."""
        return {}

    @abstractmethod
    def report(
        self, before: Arrays, after: Arrays, shared: Shared, kept: Kept, *, steps: int, rate: float, cases: int
    ) -> tuple[Parts, Kept]:
        """The site's contribution and its new private state, after local training."""

    @abstractmethod
    def step(self, weights: Arrays, shared: Shared, aggregate: Aggregate, sites: int) -> tuple[Arrays, Shared]:
        """The next global weights and state; ``sites`` is the size of the federation."""
