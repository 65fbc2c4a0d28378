"""What is not a sound contribution is a failed site; what is far too long is shortened; nothing else is touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TASK, exchange, folded, model, save

from wardround.aggregation import contributions
from wardround.aggregation.catalog import AGGREGATIONS
from wardround.aggregation.checked import Checked
from wardround.aggregation.plain import Plain
from wardround.core.contracts import Aggregate, Lost
from wardround.core.messages import Answer, InitFacts, Reply
from wardround.core.weights import Part, Parts, write_tensors

MEMBERS = [pytest.param(member(), id=member().name) for member in AGGREGATIONS]
GOOD = {"A": model([1.0, 2.0]), "B": model([2.0, 1.0]), "C": model([1.5, 1.5])}
SENT = model([1.0, 1.0])


def failed(result: Aggregate | Lost) -> dict[str, str]:
    return {failure.site: failure.reason for failure in result.failures}


BAD: dict[str, tuple[Parts, str]] = {
    "NaN": (model([np.nan, 1]), "NaN"),
    "infinity": (model([1, -np.inf]), "infinity"),
    "huge": (model([1e25, 1]), "beyond 1e\\+18"),
    "NaN in another part": ({**model([1, 1]), "c": Part({"c": np.array([np.nan], np.float32)}, 1)}, "."),
    "longer": (model([1, 1, 1]), "shapes and types"),
    "another name": ({"weights": Part({"v": np.ones(2, np.float32)}, 1)}, "shapes and types"),
    "another type": ({"weights": Part({"w": np.ones(2)}, 1)}, "shapes and types"),
    "whole numbers": ({"weights": Part({"w": np.ones(2, np.int32)}, 1)}, "not floating-point"),
    "one part more": ({**model([1, 1]), "x": Part({}, 1.0)}, "differs from the other sites'"),
    "no part": ({}, "no part at all"),
    "weight 0": (model([1, 1], 0), "weight"),
    "negative weight": (model([1, 1], -3), "weight"),
    "NaN weight": (model([1, 1], float("nan")), "weight"),
    "infinite weight": (model([1, 1], float("inf")), "weight"),
    "absurd weight": (model([1, 1], 1e16), "weight"),
}


@pytest.mark.parametrize("rule", MEMBERS)
@pytest.mark.parametrize("fault", BAD)
def test_an_unsound_contribution_is_a_failed_site(rule: Checked, fault: str, tmp_path: Path) -> None:
    parts, words = BAD[fault]
    result = exchange(rule, tmp_path, {**GOOD, "X": parts}, SENT)
    assert isinstance(result, Aggregate)
    assert [*failed(result)] == ["X"]
    assert re.search(words, failed(result)["X"])
    assert [(alert.site, alert.kind) for alert in result.alerts] == [("X", "rejected")]
    assert [answer.reply.site for answer in result.answers] == ["A", "B", "C"]
    without = folded(rule, tmp_path, GOOD, SENT)["weights"]
    assert result.parts["weights"].arrays["w"].tobytes() == without.arrays["w"].tobytes()
    assert result.parts["weights"].weight == without.weight


@pytest.mark.parametrize("rule", MEMBERS)
def test_the_quorum_applies_again(rule: Checked, tmp_path: Path) -> None:
    for fault in ("NaN", "longer"):
        result = exchange(rule, tmp_path, {**GOOD, "X": BAD[fault][0]}, SENT, quorum=4)
        assert isinstance(result, Lost)
        assert (result.needed, result.got, [*failed(result)]) == (4, 3, ["X"])
        assert [alert.site for alert in result.alerts] == ["X"]


def not_tensors(path: Path) -> None:
    path.write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def metadata(text: str) -> Callable[[Path], None]:
    return lambda path: write_tensors(path, {"weights/w": np.ones(2, np.float32)}, {"weights": text})


BROKEN: dict[str, Callable[[Path], None]] = {
    "not tensors": not_tensors,
    "empty": empty,
    "gone": Path.unlink,
    "weights are a list": metadata("[1]"),
    "weights are no JSON": metadata("{"),
    "weight is a text": metadata(json.dumps({"weights": "many"})),
    "weights are nested without end": metadata("[" * 100_000),
    "weight is beyond numbers": metadata('{"weights": 1' + "0" * 400 + "}"),
    "weight is null": metadata(json.dumps({"weights": None})),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_is_a_failed_site(how: str, tmp_path: Path) -> None:
    files = {site: save(tmp_path / site, parts) for site, parts in {**GOOD, "X": model([1, 1])}.items()}
    BROKEN[how](files["X"])

    def ask(task, tensors, names):
        for site in names:
            yield Answer(Reply(task=task.id, site=site, facts=InitFacts(parameters=1)), files[site])
        yield Answer(Reply(task=task.id, site="Y", facts=InitFacts(parameters=1)), None)

    result = Plain().collect(ask, TASK, save(tmp_path / "sent", SENT), [*files], 2)
    assert isinstance(result, Aggregate)
    assert [*failed(result)] == ["X"]
    assert str(tmp_path) not in failed(result)["X"]


def test_a_reply_without_a_contribution_is_a_failed_site(tmp_path: Path) -> None:
    def ask(task, tensors, names):
        yield Answer(Reply(task=task.id, site="A", facts=InitFacts(parameters=1)), None)

    result = Plain().collect(ask, TASK, None, ["A"], 1)
    assert isinstance(result, Lost)
    assert failed(result) == {"A": "it sent no contribution"}


def test_a_part_of_the_model_may_stay_at_the_sites(tmp_path: Path) -> None:
    sent = {"weights": Part({"w": np.ones(2, np.float32), "norm": np.ones(3, np.float32)}, 1.0)}
    assert set(folded(Plain(), tmp_path, GOOD, sent)["weights"].arrays) == {"w"}


@pytest.mark.parametrize("rule", MEMBERS)
def test_without_a_long_update_clipping_changes_no_bit(rule: Checked, tmp_path: Path) -> None:
    off = type(rule)(clip=None)
    one, two = (folded(each, tmp_path, GOOD, SENT)["weights"].arrays["w"] for each in (rule, off))
    assert one.tobytes() == two.tobytes()


def test_two_sites_are_not_clipped_and_switched_off_nobody_is(tmp_path: Path) -> None:
    two = {"A": model([2.0]), "B": model([1001.0])}
    result = exchange(Plain(), tmp_path, two, model([1.0]))
    assert isinstance(result, Aggregate)
    assert result.alerts == ()
    many = {**two, "C": model([2.0]), "D": model([2.0])}
    off = exchange(Plain(clip=None), tmp_path, many, model([1.0]))
    assert isinstance(off, Aggregate)
    assert off.alerts == ()
    assert off.parts["weights"].arrays["w"].tolist() == [(2 + 1001 + 2 + 2) / 4]


def test_what_is_conspicuous_is_told(tmp_path: Path) -> None:
    sites = {"A": model([2.0], 10), "B": model([3.0], 10), "C": model([2.0], 10), "D": model([1.0], 300)}
    result = exchange(Plain(), tmp_path, {**sites, "E": model([101.0], 10)}, model([1.0]))
    assert isinstance(result, Aggregate)
    # Norms 1, 2, 1, 0, 100; median of those that moved 1.5, limit 4.5. Median weight 10, limit 20 * 10.
    told = {(alert.site, alert.kind, alert.value, alert.limit) for alert in result.alerts}
    assert told == {("D", "unmoved", 0.0, None), ("E", "clipped", 100.0, 4.5), ("D", "heavy", 300.0, 200.0)}


@given(st.integers(3, 7), st.integers(1, 90), st.floats(5, 1e4), st.booleans(), st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_clipped_mean_agrees_with_numpy_and_its_bound(
    tmp_path_factory: pytest.TempPathFactory, honest: int, size: int, scale: float, flip: bool, seed: int
) -> None:
    random, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("clip")
    sent = random.normal(size=size).astype(np.float32)
    updates = random.normal(size=(honest + 1, size)) + 0.2
    updates[-1] *= -scale if flip else scale
    after = (sent + updates).astype(np.float32)
    sites = {f"S{number}": model(row) for number, row in enumerate(after)}
    before = contributions.BLOCK, contributions.CHUNK
    contributions.BLOCK, contributions.CHUNK = 16, 5
    try:
        found = folded(Plain(), folder, sites, model(sent))["weights"].arrays["w"]
    finally:
        contributions.BLOCK, contributions.CHUNK = before
    moved = after.astype(float) - sent
    norms = np.linalg.norm(moved, axis=1)
    factors = np.minimum(1, 3 * np.median(norms) / norms)
    np.testing.assert_allclose(found, sent + (factors[:, None] * moved).mean(axis=0), rtol=1e-4, atol=1e-4)
    # The faulty update b is at most 3 m long, with m the median norm. The median of n + 1 norms of which one
    # is anything is at most the longest honest norm h. So |mean - honest mean| = |b - u| / (n + 1) <= 4 h / (n + 1).
    longest = norms[:-1].max()
    honest_mean = sent + moved[:-1].mean(axis=0)
    assert np.linalg.norm(found - honest_mean) <= 4 * longest / (honest + 1) + 1e-3


@pytest.mark.parametrize("rule", MEMBERS)
def test_memory_does_not_grow_with_the_sites(rule: Checked, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sizes = {f"t{number}": (500_000,) for number in range(4)}  # 8 MB a site
    base = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in sizes.items()}
    sent = save(tmp_path / "sent", {"weights": Part(base, 1.0)})
    files = []
    for number in range(12):
        faulty = {name: array + np.float32(500 if number == 0 else number + 1) for name, array in base.items()}
        files.append(save(tmp_path / f"S{number}", {"weights": Part(faulty, 1.0)}))
    peaks = [peak(rule, sent, files[:count]) for count in (3, 12)]
    # Nine sites more are 72 MB of files; what may grow is bookkeeping.
    assert peaks[1] - peaks[0] < 8, peaks


def peak(rule: Checked, sent: Path, files: list[Path]) -> float:
    """VmHWM in MB of a process that does one exchange in which the first site is clipped."""
    code = """
import sys
from pathlib import Path
from pydantic import TypeAdapter
from wardround.aggregation.catalog import AnyAggregation
from wardround.core.messages import Answer, InitFacts, Reply, Task
rule = TypeAdapter(AnyAggregation).validate_json(sys.argv[1])
files = {Path(name).name: Path(name) for name in sys.argv[3:]}
def ask(task, tensors, sites):
    for site in sites:
        yield Answer(Reply(task=task.id, site=site, facts=InitFacts(parameters=1)), files[site])
result = rule.collect(ask, Task(plan="0" * 64, round=0, verb="train"), Path(sys.argv[2]), list(files), 1)
assert [alert.kind for alert in result.alerts] == ["clipped"], result.alerts
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""
    command = [sys.executable, "-c", code, rule.canonical(), str(sent), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024
