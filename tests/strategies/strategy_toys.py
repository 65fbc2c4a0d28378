"""Federations on paper: quadratic sites that descend exactly, and the real path from report to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from wardround.aggregation.plain import Plain
from wardround.core.contracts import Aggregate, Kept, Shared, Strategy, Work
from wardround.core.messages import Answer, Reply, SiteFailed, Task, TrainFacts
from wardround.core.weights import Array, Arrays, Part, pack, unpack, write_tensors

Result = tuple[Arrays, Work]
TASK = Task(plan="0" * 64, round=0, verb="train")
FACTS = TrainFacts(cases=1, updates=1, samples=1, loss=0.0, rate=0.0)


def weights(seed: int) -> dict[str, Array]:
    """Parameters of several ranks and a batch norm's statistics."""
    random = np.random.default_rng(seed)
    return {
        "a": random.normal(size=(3, 2)).astype(np.float32),
        "b": random.normal(size=5).astype(np.float32),
        "scale": np.float32(random.normal()).reshape(()),
        "norm.running_mean": random.normal(size=3).astype(np.float32),
        "norm.running_var": random.uniform(0.1, 4, size=3).astype(np.float32),
    }


def work(
    cases: int = 1,
    steps: int = 3,
    rate: float = 0.1,
    loss: float = 0.7,
    momentum: float = 0.0,
    score: float | None = 0.5,
) -> Work:
    return Work(cases, (rate,) * steps, momentum, loss, score)


def aggregate(parts: Mapping[str, Mapping[str, Part]], folder: Path | None) -> Aggregate:
    """What the plain aggregation makes of the sites' contributions, through files; without a folder by the formula."""
    answers = tuple(Answer(Reply(task=TASK.id, site=s, facts=FACTS)) for s in parts)
    if folder is None:
        return Aggregate(
            {part: _mean([sent[part] for sent in parts.values()]) for part in parts[next(iter(parts))]}, answers
        )

    def ask(task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        for site in sites:
            arrays, metadata = pack(parts[site])
            write_tensors(folder / f"{site}.safetensors", arrays, metadata)
            yield Answer(Reply(task=task.id, site=site, facts=FACTS), folder / f"{site}.safetensors")

    result = Plain().collect(ask, TASK, None, list(parts), 1)
    assert isinstance(result, Aggregate)
    return result


def _mean(parts: Sequence[Part]) -> Part:
    total = sum(part.weight for part in parts)
    return Part({n: sum(p.weight / total * p.arrays[n] for p in parts) for n in parts[0].arrays}, total)


@dataclass(frozen=True)
class Federation:
    """A strategy between rounds: all that it remembers."""

    strategy: Strategy
    weights: Arrays
    shared: Shared
    kept: Mapping[str, Kept] = field(default_factory=dict)

    @classmethod
    def begin(cls, strategy: Strategy, start: Arrays) -> Federation:
        return cls(strategy, start, strategy.begin(start))

    def private(self, site: str) -> Kept:
        return self.kept.get(site) or self.strategy.keep(self.weights)

    def round(self, results: Mapping[str, Result], folder: Path | None, size: int | None = None) -> Federation:
        """One round with given local results, in dict order, of a federation of ``size`` sites."""
        parts, kept = {}, dict(self.kept)
        for site, (after, done) in results.items():
            parts[site], kept[site] = self.strategy.report(self.weights, after, self.shared, self.private(site), done)
        folded = aggregate(parts, folder)
        new, shared = self.strategy.step(self.weights, self.shared, folded, size or len(results))
        return replace(self, weights=new, shared=shared, kept=kept)

    def stored(self, folder: Path) -> Federation:
        """The same after everything was written to a tensor file and read again."""
        parts = {"weights": self.weights, "shared": self.shared, **{f"kept-{s}": k for s, k in self.kept.items()}}
        write_tensors(folder / "all", *pack({name: Part(arrays, 1.0) for name, arrays in parts.items()}))
        back = {name: part.arrays for name, part in unpack(folder / "all").items()}
        kept = {site: back[f"kept-{site}"] for site in self.kept}
        return replace(self, weights=back["weights"], shared=back["shared"], kept=kept)


@dataclass(frozen=True)
class Quadratic:
    """A site whose loss is ``curvature / 2 * (w - centre)^2``; its gradient is exact."""

    curvature: float
    centre: float
    cases: int = 1
    steps: int = 1
    momentum: float = 0.0

    def train(self, now: Federation, name: str, rate: float) -> Result:
        w = {key: np.array(value) for key, value in now.weights.items()}
        loss = self.loss(w)
        private, speed = now.private(name), {key: np.zeros_like(value) for key, value in w.items()}
        for _ in range(self.steps):
            pull = now.strategy.pull(w, now.weights, now.shared, private)
            self.step(w, pull, speed, rate)
        return w, Work(self.cases, (rate,) * self.steps, self.momentum, loss, score=1 / (1 + self.loss(w)))

    def loss(self, w: Arrays) -> float:
        return sum(float(0.5 * self.curvature * ((v - self.centre) ** 2).sum()) for v in w.values())

    def step(self, w: dict[str, Array], pull: Arrays, speed: dict[str, Array], rate: float) -> None:
        for key in list(w):
            gradient = self.curvature * (w[key] - self.centre) + pull.get(key, 0)
            speed[key] = self.momentum * speed[key] + gradient
            w[key] -= rate * (gradient + self.momentum * speed[key])

    def train_own(self, now: Federation, own: Arrays, rate: float) -> dict[str, Array]:
        """One round of the site's own model (see `Strategy.companion`), held against the model that was sent."""
        companion = now.strategy.companion()
        assert companion is not None
        v = {key: np.array(value) for key, value in own.items()}
        speed = {key: np.zeros_like(value) for key, value in v.items()}
        for _ in range(self.steps):
            self.step(v, companion.pull(v, now.weights, {}, {}), speed, rate)
        return v


def descend(
    now: Federation, sites: Mapping[str, Quadratic], rounds: int, rate: float, folder: Path | None = None
) -> Federation:
    for _ in range(rounds):
        now = now.round({name: site.train(now, name, rate) for name, site in sites.items()}, folder)
    return now
