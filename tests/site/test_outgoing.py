"""What the page says would leave is what a site's worker gives: kinds, times and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import make_plan, plan_dict, write_site
from wardround.core.messages import Answer, Task
from wardround.core.weights import Part, file_digest, pack, unpack, write_tensors
from wardround.planning.plan import Plan
from wardround.site.hospital import Source
from wardround.site.outgoing import bytes_a_round, message_bytes, outgoing, times
from wardround.site.worker import Setting, Site

SGD = {**plan_dict()["training"], "optimiser": {"name": "sgd", "momentum": 0}}
PLANS = [
    make_plan(),
    make_plan(strategy={"name": "scaffold"}, training=SGD),
    make_plan(
        task={"dimensions": 3, "modalities": ["T1"], "labels": {"ball": 1, "other thing": 2}, "lesions": ["ball"]}
    ),
]


def answers(plan: Plan, folder: Path) -> dict[str, Answer]:
    """One answer of every kind; the names and facts are a real worker's."""
    site = Site(plan, Setting("A", (Source(write_site(folder / "data")),), folder / "state", folder / "store"))
    found: dict[str, Any] = {}
    sent: Path | None = None
    for verb in ("describe", "init", "train", "validate", "test"):
        number = 1 if verb in ("validate", "test") else 0
        tensors = file_digest(sent) if sent else None
        task = Task(plan=plan.digest(), round=number, verb=verb, tensors=tensors)  # type: ignore[arg-type]
        found[verb] = site.answer(task, sent)
        assert isinstance(found[verb], Answer), found[verb]
        if verb == "init":
            weights = {name: np.array(a) for name, a in unpack(found[verb].tensors)["weights"].arrays.items()}
            shared = dict(plan.strategy.begin(weights))
            arrays, metadata = pack({"weights": Part(weights, 1.0), "shared": Part(shared, 1.0)})
            sent = folder / "sent.safetensors"
            write_tensors(sent, arrays, metadata)
    return found


@pytest.mark.parametrize("plan", PLANS, ids=["fedavg", "scaffold", "labels"])
def test_sizes_are_those_of_a_workers_answers(plan: Plan, tmp_path: Path) -> None:
    for verb, answer in answers(plan, tmp_path).items():
        rows = [row for row in outgoing(plan) if row.verb == verb]
        tensors = sum(row.bytes_each for row in rows if row.tensors)
        assert bool(tensors) == (answer.reply.tensors is not None)
        message = len(answer.reply.model_dump_json())
        said = message_bytes(plan, verb)  # type: ignore[arg-type]
        assert 0.5 * said < message <= said
        if verb == "train":
            assert 0.9 * tensors < answer.reply.size <= tensors


@pytest.mark.parametrize("plan", PLANS)
def test_sums(plan: Plan) -> None:
    rows = outgoing(plan)
    assert times(plan, "train") == plan.rounds.limit
    assert bytes_a_round(plan) == sum(row.bytes_each for row in rows if row.verb in ("train", "validate"))
    assert all(row.total == row.bytes_each * (row.times or 0) for row in rows)


def test_validation_is_counted_as_the_rounds_do() -> None:
    plan = make_plan(rounds={"limit": 7}, evaluation={"folds": 3, "every": 3})
    assert times(plan, "validate") == 3  # after rounds 3, 6 and the last
