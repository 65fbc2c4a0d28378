"""What the page says would leave is what a site's worker gives: kinds, times and sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tiny import make_plan, plan_dict, write_site
from wardround.core.messages import ANSWERS, Answer, Task, Verb
from wardround.core.parcels import pack_as
from wardround.core.weights import Part, file_digest, pack, unpack, write_tensors
from wardround.networks.build import build, exchange
from wardround.planning.plan import Plan
from wardround.site.announced import announces
from wardround.site.hospital import Source
from wardround.site.outgoing import bytes_a_round, message_bytes, model_numbers, outgoing, private_numbers, times
from wardround.site.worker import Setting, Site

SGD = {**plan_dict()["training"], "optimiser": {"name": "sgd", "momentum": 0}}
PLANS = [
    make_plan(),
    make_plan(strategy={"name": "scaffold"}, training=SGD),
    make_plan(
        task={"dimensions": 3, "modalities": ["T1"], "labels": {"ball": 1, "other thing": 2}, "lesions": ["ball"]}
    ),
    make_plan(private={"tensors": ["norm.affine"], "unseen": "mean"}, finetune={"steps": 8, "rate": 0.01}),
    make_plan(private={"tensors": ["encoder.0.*"]}, strategy={"name": "scaffold"}, training=SGD),
    make_plan(strategy={"name": "ditto"}),
    make_plan(strategy={"name": "fedval"}),
    make_plan(strategy={"name": "fednova"}, training=SGD),
    make_plan(strategy={"name": "qfedavg"}, training=SGD),
]
NAMES = ["fedavg", "scaffold", "labels", "private", "pattern", "ditto", "fedval", "fednova", "qfedavg"]
ROUND = {"describe": 0, "init": 0, "train": 0, "validate": 1, "share": 1, "finetune": 1, "test": 1}


def announced(plan: Plan) -> list[Verb]:
    return [verb for verb in ANSWERS if announces(plan, verb, ROUND[verb])]


def answers(plan: Plan, folder: Path) -> dict[str, Answer]:
    """One answer of every kind; the names and facts are a real worker's."""
    site = Site(plan, Setting("A", (Source(write_site(folder / "data")),), folder / "state", folder / "store"))
    found: dict[str, Any] = {}
    sent: Path | None = None
    for verb in announced(plan):
        number = ROUND[verb]
        tensors = file_digest(sent) if sent else None
        accepted = {"A": 0} if number else {}
        task = Task(plan=plan.digest(), round=number, verb=verb, tensors=tensors, accepted=accepted)
        found[verb] = site.answer(task, sent)
        assert isinstance(found[verb], Answer), found[verb]
        if verb == "init":
            weights = {name: np.array(a) for name, a in unpack(found[verb].tensors)["weights"].arrays.items()}
            shared = dict(plan.strategy.begin(weights))
            arrays, metadata = pack({"weights": Part(weights, 1.0), "shared": Part(shared, 1.0)})
            sent = folder / "sent.safetensors"
            write_tensors(sent, arrays, metadata)
    return found


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_sizes_are_those_of_a_workers_answers(plan: Plan, tmp_path: Path) -> None:
    assert {row.verb for row in outgoing(plan)} == set(announced(plan))
    for verb, answer in answers(plan, tmp_path).items():
        rows = [row for row in outgoing(plan) if row.verb == verb]
        tensors = sum(row.bytes_each for row in rows if row.tensors)
        assert bool(tensors) == (answer.reply.tensors is not None)
        message = len(answer.reply.model_dump_json())
        said = message_bytes(plan, verb)  # type: ignore[arg-type]
        assert 0.5 * said < message <= said
        if answer.reply.tensors is not None:
            leaves = answer.reply.size + (0 if verb == "train" else message)  # one row for both
            assert 0.8 * tensors < leaves <= tensors, verb


@pytest.mark.parametrize("plan", PLANS, ids=NAMES)
def test_sums(plan: Plan) -> None:
    rows = outgoing(plan)
    assert model_numbers(plan) > private_numbers(plan) >= len(plan.private_tensors)
    assert times(plan, "train") == plan.rounds.limit
    assert bytes_a_round(plan) == sum(row.bytes_each for row in rows if row.verb in ("train", "validate"))
    assert all(row.total == row.bytes_each * (row.times or 0) for row in rows)


@pytest.mark.parametrize(
    "transfer",
    [{"up": "int8"}, {"up": "int8", "block": 64}, {"up": "bf16"}, {"down": "int8"}, {"up": "int8", "zstd": 3}],
    ids=str,
)
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_sizes_of_encoded_weights_are_right_to_one_percent(transfer: dict[str, Any], norm: str, tmp_path: Path) -> None:
    """Held against a file as a site writes it, of the built network's shapes."""
    network = {"name": "unet", "features": [16, 64, 256], "norm": norm}
    plan = make_plan(network=network, transfer=transfer)
    module = build(plan.network, plan.task.dimensions, len(plan.task.modalities), plan.classes)
    rng, weights = np.random.default_rng(0), exchange(module)
    drawn = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in weights.items()}
    path = tmp_path / "sent.safetensors"
    write_tensors(path, *pack_as({"weights": Part(drawn, 1.0)}, plan.transfer.upward))
    (row,) = [row for row in outgoing(plan) if row.verb == "train" and row.tensors]
    assert row.bytes_each == pytest.approx(path.stat().st_size, rel=0.01)
    assert row.bytes_each >= path.stat().st_size
    assert row.compressed == ("zstd" in transfer)


def test_validation_is_counted_as_the_rounds_do() -> None:
    plan = make_plan(rounds={"limit": 7}, evaluation={"folds": 3, "every": 3})
    assert times(plan, "validate") == 3  # after rounds 3, 6 and the last
