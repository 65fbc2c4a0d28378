"""Contributions made up for tests, and one exchange of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wardround.core.contracts import Aggregate, Aggregation, Lost
from wardround.core.messages import Answer, InitFacts, Reply, Task
from wardround.core.weights import Part, Parts, pack, write_tensors

TASK = Task(plan="0" * 64, round=0, verb="train")


def model(values: object, weight: float = 1.0) -> dict[str, Part]:
    """A contribution of one tensor."""
    return {"weights": Part({"w": np.asarray(values, np.float32)}, weight)}


def save(path: Path, parts: Parts) -> Path:
    arrays, metadata = pack(parts)
    write_tensors(path, arrays, metadata)
    return path


def exchange(
    rule: Aggregation,
    folder: Path,
    sites: Mapping[str, Parts],
    sent: Parts | None = None,
    *,
    order: Sequence[str] | None = None,
    quorum: int = 1,
) -> Aggregate | Lost:
    """``rule.collect`` of ``sites``, whose replies come in ``order``."""
    files = {site: save(folder / site, parts) for site, parts in sites.items()}

    def ask(task, tensors, names):
        for site in order or names:
            yield Answer(Reply(task=task.id, site=site, facts=InitFacts(parameters=1)), files[site])

    tensors = None if sent is None else save(folder / "sent-model", sent)
    return rule.collect(ask, TASK, tensors, list(sites), quorum)


def folded(*args: object, **options: object) -> dict[str, Part]:
    """The parts of an `exchange` that must have counted."""
    result = exchange(*args, **options)  # type: ignore[arg-type]
    assert isinstance(result, Aggregate), result
    return dict(result.parts)
