"""The rounds against invented sites: no training, no processes, all decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from invented import Hospitals, start

from tiny import make_plan
from wardround.coordinator import checkpoint
from wardround.coordinator.rounds import run_rounds
from wardround.coordinator.state import State, judged
from wardround.coordinator.stopping import why_stop
from wardround.core.errors import QuorumLost
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.rundir import RunDir, read_events
from wardround.core.weights import read_tensors


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path, {"A": 1.0, "B": 2.0, "C": 6.0}, [0.1, 0.5, 0.5, 0.5, 0.6, 0.7])


def test_rounds_average_and_stop_at_the_limit(tmp_path: Path, hospitals: Hospitals) -> None:
    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 2}), hospitals))
    assert state.round == 2
    # The first weights come from site A alone (0 + 1); each round adds the mean step (1 + 2 + 6) / 3 = 3.
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [7.0, 7.0]
    assert set(json.loads((tmp_path / "run" / "scores.json").read_text())["sites"]) == {"A", "B", "C"}


def test_a_stable_model_ends_the_run_and_the_best_is_kept(tmp_path: Path, hospitals: Hospitals) -> None:
    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 6, "patience": 2}), hospitals))
    assert (state.round, state.best_round, state.barren) == (4, 2, 2)
    assert read_tensors(tmp_path / "run" / "model.safetensors")["w"].tolist() == [7.0, 7.0]  # after round 2
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [13.0, 13.0]
    assert [e["reason"] for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "run_stopped"] == [
        "stabilised"
    ]


def test_a_missing_site_is_counted_out_and_comes_back(tmp_path: Path, hospitals: Hospitals) -> None:
    hospitals.failing = {("C", 0): "no power"}
    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 2}), hospitals))
    # Round 0 without C: 1 + 1.5; round 1 with all: + 3.
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [5.5, 5.5]
    assert state.accepted == {"A": 1, "B": 1, "C": 1}
    failed = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "site_failed"]
    assert [(e["site"], e["round"], e["reason"]) for e in failed] == [("C", 0, "no power")]


def test_below_the_quorum_the_run_stops_and_can_go_on(tmp_path: Path, hospitals: Hospitals) -> None:
    hospitals.failing = {("B", 1): "x", ("C", 1): "y"}
    plan = make_plan(rounds={"limit": 2})
    with pytest.raises(QuorumLost, match=r"1 of 3 sites answered, 2 are needed\n.*B: error: x"):
        run_rounds(start(tmp_path, plan, hospitals))
    hospitals.failing = {}
    run_rounds(start(tmp_path, plan, hospitals))
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [7.0, 7.0]
    assert ("train", 0, "A") not in hospitals.asked[hospitals.asked.index(("train", 1, "A")) + 1 :]


@pytest.mark.parametrize("killed_in", ["train", "validate", "checkpoint", "test"])
def test_killed_anywhere_it_goes_on_to_the_same_weights(
    tmp_path: Path, hospitals: Hospitals, killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(rounds={"limit": 3})
    run = start(tmp_path, plan, hospitals)
    answer, close = hospitals._answer, checkpoint.close

    class Killed(BaseException):
        pass

    def dying(task: Task, tensors: Path | None, site: str) -> Answer:
        if task.verb == killed_in and task.round >= 1 and site == "B":
            raise Killed
        return answer(task, tensors, site)

    def dying_close(run_dir: RunDir, state: State) -> Path:
        if killed_in == "checkpoint" and state.round == 2:
            raise Killed
        return close(run_dir, state)

    monkeypatch.setattr(hospitals, "_answer", dying)
    monkeypatch.setattr(checkpoint, "close", dying_close)
    with pytest.raises(Killed):
        run_rounds(run)
    monkeypatch.undo()
    state = run_rounds(start(tmp_path, plan, hospitals))
    assert state.round == 3
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [10.0, 10.0]


def test_a_baseline_takes_exactly_its_rounds(tmp_path: Path, hospitals: Hospitals) -> None:
    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 6, "patience": 1}), hospitals, fixed=5))
    assert state.round == 5


def test_stopping_rules() -> None:
    plan = make_plan(rounds={"limit": 5, "patience": 2})
    assert why_stop(plan, State(round=4, barren=1)) is None
    assert why_stop(plan, State(round=4, barren=2)) == "stabilised"
    assert why_stop(plan, State(round=5)) == "limit"
    assert why_stop(plan, State(round=2, barren=9), fixed=3) is None


def test_a_small_gain_is_kept_but_does_not_count() -> None:
    state, best = judged(State(round=2, best=0.50, best_round=1, barren=1), 0.505, gain=0.01)
    assert best
    assert (state.best, state.best_round, state.barren) == (0.505, 2, 2)


def test_patience_counts_rounds_however_seldom_the_model_is_validated() -> None:
    state, best = judged(State(round=6, best=0.5, best_round=2, barren=2), 0.4, gain=0.01, rounds=2)
    assert (best, state.barren) == (False, 4)


def test_tasks_are_placed_on_the_global_schedule(tmp_path: Path, hospitals: Hospitals) -> None:
    seen = []
    ask = hospitals.ask

    def spy(task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        seen.append((task.verb, task.round, task.first_update, task.accepted))
        return ask(task, tensors, sites)

    hospitals.ask = spy  # type: ignore[method-assign]
    run_rounds(start(tmp_path, make_plan(rounds={"limit": 2}), hospitals))
    assert ("train", 1, 3, {"A": 0, "B": 0, "C": 0}) in seen
