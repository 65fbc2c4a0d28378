from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.aggregation import contributions
from wardround.aggregation.fold import fold_files
from wardround.aggregation.plain import Plain
from wardround.core.contracts import Aggregate, Lost
from wardround.core.errors import WardRoundError
from wardround.core.messages import Answer, InitFacts, Reply, SiteFailed, Task
from wardround.core.weights import Part, pack, write_tensors

TASK = Task(plan="0" * 64, round=0, verb="train")


def write(path: Path, value: float, weight: float, shape: tuple[int, ...] = (4,)) -> Path:
    arrays, metadata = pack({"weights": Part({"w": np.full(shape, value, np.float32)}, weight)})
    write_tensors(path, arrays, metadata)
    return path


def test_mean_by_hand(tmp_path: Path) -> None:
    # (2 * 1 + 6 * 4) / 8 = 3.25
    folded = fold_files([write(tmp_path / "a", 1, 2), write(tmp_path / "b", 4, 6)])
    assert folded["weights"].arrays["w"].tolist() == [3.25] * 4
    assert folded["weights"].weight == 8


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 200))
@settings(max_examples=30, deadline=None)
def test_blocks_agree_with_numpy(tmp_path_factory: pytest.TempPathFactory, weights: list[int], size: int) -> None:
    random, folder = np.random.default_rng(size), tmp_path_factory.mktemp("fold")
    sources = [random.normal(size=size).astype(np.float32) for _ in weights]
    for number, (source, weight) in enumerate(zip(sources, weights, strict=True)):
        arrays, metadata = pack({"weights": Part({"w": source, "v": source[:1]}, weight)})
        write_tensors(folder / str(number), arrays, metadata)
    before = contributions.BLOCK, contributions.RUN
    contributions.BLOCK, contributions.RUN = 16, 2  # several blocks and pieces even in a small array
    try:
        folded = fold_files([folder / str(number) for number in range(len(weights))])
    finally:
        contributions.BLOCK, contributions.RUN = before
    expected = np.average(sources, axis=0, weights=weights)
    np.testing.assert_allclose(folded["weights"].arrays["w"], expected, rtol=1e-5, atol=1e-6)


def test_different_shapes_are_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / "a", 1, 2), write(tmp_path / "b", 4, 6, shape=(5,))]
    with pytest.raises(WardRoundError, match="differ in names, shapes"):
        fold_files(files)


def test_weights_that_add_up_to_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WardRoundError, match="not to a positive number"):
        fold_files([write(tmp_path / "a", 1, 0)])


def answers(tmp_path: Path, order: list[str], failing: tuple[str, ...] = ()) -> Aggregate | Lost:
    values = {"A": 1.0, "B": 4.0, "C": 1e-3}

    def ask(task, tensors, sites):
        for site in order:
            if site in failing:
                yield SiteFailed(task=task.id, site=site, kind="error", reason="x")
            else:
                reply = Reply(task=task.id, site=site, facts=InitFacts(parameters=4))
                yield Answer(reply, write(tmp_path / site, values[site], 3))

    return Plain().collect(ask, TASK, None, ["A", "B", "C"], 2)


def test_order_of_replies_changes_no_bit(tmp_path: Path) -> None:
    first, second = answers(tmp_path, ["A", "B", "C"]), answers(tmp_path, ["C", "A", "B"])
    assert isinstance(first, Aggregate)
    assert isinstance(second, Aggregate)
    one, two = first.parts["weights"].arrays["w"], second.parts["weights"].arrays["w"]
    assert one.tobytes() == two.tobytes()
    assert [a.reply.site for a in first.answers] == [a.reply.site for a in second.answers] == ["A", "B", "C"]


def test_quorum_decides(tmp_path: Path) -> None:
    enough = answers(tmp_path, ["A", "B", "C"], failing=("B",))
    assert isinstance(enough, Aggregate)
    assert [failure.site for failure in enough.failures] == ["B"]
    lost = answers(tmp_path, ["A", "B", "C"], failing=("B", "C"))
    assert isinstance(lost, Lost)
    assert (lost.needed, lost.got) == (2, 1)
