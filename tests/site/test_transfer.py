"""Encoded transfers through real sites and real rounds: nothing is lost for good, and nothing else changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tiny import make_plan, plan_dict, write_site
from wardround.coordinator.checkpoint import load, sent_file
from wardround.coordinator.rounds import Run, one_round, run_rounds
from wardround.core.containers import compress, expand, is_compressed
from wardround.core.encoding import is_encoded
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.parcels import contents, pack_as, unpack_decoded
from wardround.core.rundir import EventLog, RunDir, read_events
from wardround.core.weights import Part, file_digest, read_tensors, weights_digest, write_tensors
from wardround.planning.plan import Plan
from wardround.site.hospital import Source
from wardround.site.post import LOST, carried
from wardround.site.worker import Setting, Site

NETWORK = {"name": "unet", "features": [8, 16], "norm": "batch"}
SGD = {"name": "sgd", "rate": 0.05, "momentum": 0.0, "weight_decay": 0.0}
WAYS: list[dict[str, Any]] = [
    {"up": "int8"}, {"up": "bf16", "down": "bf16"}, {"up": "int8", "down": "int8", "block": 64},
    {"up": "int8", "down": "bf16", "zstd": 1},
]  # fmt: skip


def plan_of(transfer: dict[str, Any], steps: int = 2, **changes: Any) -> Plan:
    section = {**plan_dict()["training"], "steps": steps, **changes.pop("training", {})}
    return make_plan(training=section, network=NETWORK, transfer=transfer, **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospitals")
    write_site(folder / "A", seed=1)
    write_site(folder / "B", cases=5, seed=2, scale=4)
    return folder


def begin(plan: Plan, place: Path, data: Path, store: Path) -> Run:
    """A run whose sites are objects made anew, as after a restart."""
    root = RunDir(place)
    if not place.exists():
        root.make()
    sites = {
        name: Site(plan, Setting(name, (Source(data / name),), place / "sites" / name, store)) for name in ("A", "B")
    }

    def ask(task: Task, tensors: Path | None, names: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        return (sites[name].answer(task, tensors) for name in names)

    return Run(plan, root, ask, ("A", "B"), ("A", "B"), EventLog(root.events))


def carry_out(plan: Plan, place: Path, data: Path, store: Path) -> dict[str, Any]:
    run_rounds(begin(plan, place, data, store))
    return read_tensors(place / "last.safetensors")


def answers(place: Path, site: str, number: int) -> Path:
    return place / "sites" / site / "answers" / f"{number:06d}-train-0"


@pytest.mark.parametrize("transfer", WAYS, ids=str)
def test_resumed_after_a_round_gives_the_same_bits(
    transfer: dict[str, Any], data: Path, store: Path, tmp_path: Path
) -> None:
    """From a copy of everything on disk: model, what is sent, and what rounding took at each site."""
    plan = plan_of(transfer)
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    run = begin(plan, straight, data, store)
    run_rounds(Run(plan, run.dir, run.ask, run.sites, (), run.log, fixed=1))
    shutil.copytree(straight, resumed)
    ends = []
    for place, again in ((straight, run), (resumed, begin(plan, resumed, data, store))):
        point = load(again.dir)
        assert point is not None
        end = one_round(again, point)
        kept = {site: read_tensors(answers(place, site, 1) / "kept.safetensors") for site in "AB"}
        assert all(carried(own) for own in kept.values())
        ends.append((weights_digest(end.weights), file_digest(sent_file(end.file)),
                     {site: weights_digest(own) for site, own in kept.items()}))  # fmt: skip
    assert ends[0] == ends[1]


def test_compression_alone_changes_no_bit(data: Path, store: Path, tmp_path: Path) -> None:
    plain, small = (carry_out(plan_of(t), tmp_path / f"{t}", data, store) for t in ({}, {"zstd": 3}))
    assert weights_digest(plain) == weights_digest(small)
    assert is_compressed(answers(tmp_path / "{'zstd': 3}", "A", 1) / "tensors.safetensors.zst")


LONGER: dict[str, Any] = {"training": {"optimiser": SGD}, "rounds": {"limit": 3}}


@pytest.fixture(scope="module")
def exact(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], float]:
    """First and last weights, and the last validation Dice, of a run in float32."""
    root = tmp_path_factory.mktemp("exact")
    plan = plan_of({}, 8, **LONGER)
    first = unpack_decoded(_first(root, plan, data, root / "store"))["weights"].arrays
    return dict(first), carry_out(plan, root / "run", data, root / "store"), last_dice(root / "run")


def last_dice(place: Path) -> float:
    return [float(e["mean_dice"]) for e in read_events(place / "events.jsonl") if e["event"] == "round_ended"][-1]


@pytest.mark.parametrize("transfer", WAYS, ids=str)
def test_a_run_ends_close_to_that_in_float32(
    transfer: dict[str, Any], data: Path, store: Path, tmp_path: Path, exact: tuple[Any, Any, float]
) -> None:
    """Nearer than a fiftieth of the way that training went, and with as good a model."""
    first, last, dice = exact
    other = carry_out(plan_of(transfer, 8, **LONGER), tmp_path / "run", data, store)
    way = np.sqrt(sum(np.square(last[n] - first[n]).sum() for n in last))
    off = np.sqrt(sum(np.square(last[n] - other[n]).sum() for n in last))
    assert 0 < off < way / 50, (off, way)
    assert abs(dice - last_dice(tmp_path / "run")) < 0.02


def _first(tmp_path: Path, plan: Plan, data: Path, store: Path) -> Path:
    site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / "first", store))
    answer = site.answer(Task(plan=plan.digest(), round=0, verb="init"), None)
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    return answer.tensors


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What strategies reported, before it was encoded: (model received, parts)."""
    from wardround.site import worker

    found: list[tuple[dict[str, Any], dict[str, Any]]] = []
    real = worker.train

    def train(plan: Plan, machine: Any, batches: Any, sent: Any, *rest: Any) -> Any:
        parts, kept, facts = real(plan, machine, batches, sent, *rest)
        found.append((dict(sent[0]), dict(parts)))
        return parts, kept, facts

    monkeypatch.setattr(worker, "train", train)
    return found


def changes(learned: Part, received_model: dict[str, Any]) -> Part:
    return Part({name: x - received_model[name] for name, x in learned.arrays.items()}, learned.weight)


def add_up(total: dict[str, Any], parts: dict[str, Part]) -> None:
    for part, content in parts.items():
        for name, x in content.arrays.items():
            total[f"{part}/{name}"] = total.get(f"{part}/{name}", 0) + x.astype(float)


@pytest.mark.parametrize("transfer", [{"up": "int8", "down": "bf16"}, {"up": "bf16"}], ids=str)
@pytest.mark.parametrize("strategy", ["fedavg", "scaffold"])
def test_what_was_sent_and_what_is_kept_is_what_was_learned(
    transfer: dict[str, Any], strategy: str, data: Path, store: Path, tmp_path: Path, told: list[Any]
) -> None:
    """Over the rounds that counted: sum of decoded changes + what rounding took last = sum of true changes.

    Round 2 is answered but does not count; what rounding took from it is forgotten with it.
    """
    plan = plan_of(transfer, strategy={"name": strategy}, training={"optimiser": SGD}, rounds={"limit": 5})
    place = tmp_path / "A"
    site = Site(plan, Setting("A", (Source(data / "A"),), place, store))
    exact = dict(unpack_decoded(_first(tmp_path, plan, data, store))["weights"].arrays)
    shared, accepted = plan.strategy.begin(exact), {}
    true: dict[str, Any] = {}
    decoded: dict[str, Any] = {}
    for number in range(5):
        file = tmp_path / f"model-{number}"
        parts = {"weights": Part(exact, 1.0), "shared": Part(plan.strategy.told(shared), 1.0)}
        write_tensors(file, *pack_as(parts, plan.transfer.downward))
        task = Task(plan=plan.digest(), round=number, verb="train", tensors=file_digest(file), accepted=accepted)
        answer = site.answer(task, file)
        assert isinstance(answer, Answer), answer.reason
        if number == 2:
            continue
        accepted = {"A": number}
        received_model, learned = told[-1]
        assert answer.tensors is not None
        leaves = unpack_decoded(answer.tensors)
        assert contents(answer.tensors).encoding == plan.transfer.upward
        add_up(true, {**learned, "weights": changes(learned["weights"], received_model)})
        add_up(decoded, leaves)
        exact = {n: exact[n] + leaves["weights"].arrays[n] for n in exact}
    kept = read_tensors(place / "answers" / "000004-train-0" / "kept.safetensors")
    rests = carried(kept)
    assert {k.removeprefix(LOST) for k in rests} == {
        key for key, value in true.items() if is_encoded(plan.transfer.upward, "<f4", value.shape)
    }
    assert any(key.startswith(f"{LOST}control/") for key in rests) == (strategy == "scaffold")
    for key, value in true.items():
        rest = rests.get(LOST + key, np.zeros(()))
        # float32 rounds once an addition, and each change is at most a few hundredths
        np.testing.assert_allclose(decoded[key] + rest, value, rtol=0, atol=1e-7 * 4 * max(1, np.abs(value).max()))
        if LOST + key in rests:
            assert np.abs(decoded[key] - value).max() > 0


def test_a_round_that_did_not_count_leaves_no_trace(data: Path, store: Path, tmp_path: Path) -> None:
    plan = plan_of({"up": "int8"}, rounds={"limit": 5})
    first = unpack_decoded(_first(tmp_path, plan, data, store))["weights"].arrays
    file = tmp_path / "model"
    write_tensors(file, *pack_as({"weights": Part(first, 1.0)}, plan.transfer.downward))
    ends = []
    for name, rounds in (("one", (0, 1, 2)), ("two", (0, 2))):
        site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / name, store))
        for number in rounds:
            accepted = {} if number == 0 else {"A": 0}
            task = Task(plan=plan.digest(), round=number, verb="train", tensors=file_digest(file), accepted=accepted)
            answer = site.answer(task, file)
        assert isinstance(answer, Answer), answer.reason
        assert answer.tensors is not None
        ends.append(file_digest(answer.tensors))
    assert ends[0] == ends[1]


def test_a_site_says_what_is_wrong_with_a_compressed_model(data: Path, store: Path, tmp_path: Path) -> None:
    plan = plan_of({"zstd": 1})
    site = Site(plan, Setting("A", (Source(data / "A"),), tmp_path / "A", store))
    model = _first(tmp_path, plan, data, store)
    compress(model, tmp_path / "small", 1)
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "small").read_bytes()[:-10])
    task = Task(plan=plan.digest(), round=0, verb="train", tensors=file_digest(cut))
    failed = site.answer(task, cut)
    assert isinstance(failed, SiteFailed)
    assert "cannot be used" in failed.reason
    assert str(tmp_path) not in failed.reason
    good = Task(plan=plan.digest(), round=0, verb="train", tensors=file_digest(tmp_path / "small"))
    answer = site.answer(good, tmp_path / "small")
    assert isinstance(answer, Answer), answer.reason
    assert answer.tensors is not None
    assert answer.reply.size == answer.tensors.stat().st_size
    expand(answer.tensors, tmp_path / "out", 1 << 24)
    assert set(unpack_decoded(tmp_path / "out")) == {"weights"}
    again = site.answer(good, tmp_path / "small")
    assert again == answer


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
