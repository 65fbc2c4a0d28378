"""One of four invented sites sends nonsense: the run goes on, the log says who, the model stays where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invented import Hospitals, start

from tiny import make_plan
from wardround.coordinator.replay import REMEMBERED, remembered
from wardround.coordinator.rounds import run_rounds
from wardround.core.errors import QuorumLost
from wardround.core.messages import Answer, InitFacts, Reply
from wardround.core.rundir import read_events
from wardround.core.weights import read_tensors

RULES: list[dict[str, Any]] = [
    {"name": "plain"}, {"name": "median"}, {"name": "trimmed", "trim": 1}, {"name": "geometric"}
]  # fmt: skip
Spoil = Callable[[np.ndarray, np.ndarray], np.ndarray]
FAULTS: dict[str, tuple[Spoil, str]] = {
    "sign flipped": (lambda before, after: before - (after - before), "contrary"),
    "sign flipped x100": (lambda before, after: before - 100 * (after - before), "clipped contrary"),
    "scaled x100": (lambda before, after: before + 100 * (after - before), "clipped"),
    "NaN": (lambda before, after: before + after * np.float32(np.nan), "rejected"),
    "infinity": (lambda before, after: before + after * np.float32(np.inf), "rejected"),
    "beyond all": (lambda before, after: before + after * np.float32(1e30), "rejected"),
    "wrong shape": (np.append, "rejected"),
    "wrong type": (lambda before, after: (before + after).astype(np.float64), "rejected"),
    "nothing learned": (lambda before, after: before + 0 * after, "unmoved"),
}


def events(tmp_path: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(tmp_path / "run" / "events.jsonl") if event["event"] == kind]


def four(tmp_path: Path, **spoil: Spoil) -> Hospitals:
    return Hospitals(tmp_path, {"A": 1.0, "B": 2.0, "C": 3.0, "D": 2.0}, [0.1, 0.2, 0.3, 0.4, 0.5], spoil=spoil)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["name"])
@pytest.mark.parametrize("fault", FAULTS)
def test_one_faulty_site_neither_stops_nor_carries_away(
    tmp_path: Path, rule: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil, words = FAULTS[fault]
    alerts = words.split()
    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 2}, aggregation=rule), four(tmp_path, D=spoil)))
    assert state.round == 2
    found = events(tmp_path, "site_alert")
    assert [(e["round"], e["site"], e["kind"]) for e in found] == [(r, "D", alert) for r in (0, 1) for alert in alerts]
    # Honest steps are 1, 2, 3 (mean 2, longest 3). Median and trimmed mean stay within them. The clipped
    # mean is off the honest mean u by |b - u| / 4 <= (3 m + 2) / 4 with m the median of all four steps,
    # at most 2.5: by at most 2.375. The geometric median is nearer still.
    last = read_tensors(tmp_path / "run" / "last.safetensors")["w"]
    for step in (last - 1) / 2:
        if rule["name"] in ("median", "trimmed"):
            assert 1 <= step <= 3
        assert abs(step - 2) <= 2.375
    if "clipped" in alerts:
        assert found[0]["value"] == pytest.approx(200 * 2**0.5)
        assert found[0]["limit"] == pytest.approx(3 * 2.5 * 2**0.5)


def test_a_rejected_site_counts_as_failed_and_comes_back(tmp_path: Path) -> None:
    hospitals = four(tmp_path, D=FAULTS["NaN"][0])
    plan = make_plan(rounds={"limit": 2})
    ask = hospitals.ask

    def once(task, tensors, sites):
        if task.verb == "train" and task.round == 1:
            hospitals.spoil.clear()
        yield from ask(task, tensors, sites)

    hospitals.ask = once  # type: ignore[method-assign]
    state = run_rounds(start(tmp_path, plan, hospitals))
    failed = events(tmp_path, "site_failed")
    assert [(e["site"], e["round"], e["kind"]) for e in failed] == [("D", 0, "error")]
    assert "NaN" in failed[0]["reason"]
    assert state.accepted["D"] == 1
    assert [e["sites"] for e in events(tmp_path, "round_ended")] == [["A", "B", "C"], ["A", "B", "C", "D"]]


def test_rejected_sites_count_against_the_quorum(tmp_path: Path) -> None:
    nan = FAULTS["NaN"][0]
    with pytest.raises(QuorumLost, match=r"2 of 4 sites answered, 3 are needed\n(.*\n)?.*C: error: .*NaN"):
        run_rounds(start(tmp_path, make_plan(), four(tmp_path, C=nan, D=nan)))
    assert {(e["site"], e["kind"]) for e in events(tmp_path, "site_alert")} == {("C", "rejected"), ("D", "rejected")}


def test_more_trimmed_than_answered_is_below_the_quorum_and_says_so(tmp_path: Path) -> None:
    plan = make_plan(aggregation={"name": "trimmed", "trim": 2})
    with pytest.raises(QuorumLost, match=r"4 of 4 sites answered, 5 are needed \(aggregation.trim leaves out 2"):
        run_rounds(start(tmp_path, plan, four(tmp_path)))


def test_a_replayed_contribution_does_not_count(tmp_path: Path) -> None:
    first: list[np.ndarray] = []

    def replay(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        first.append(after)
        return first[0]

    state = run_rounds(start(tmp_path, make_plan(rounds={"limit": 3}), four(tmp_path, D=replay)))
    found = events(tmp_path, "site_alert")
    assert [(e["site"], e["round"], e["kind"]) for e in found] == [("D", 1, "replayed"), ("D", 2, "replayed")]
    assert state.accepted == {"A": 2, "B": 2, "C": 2, "D": 0}
    assert read_tensors(tmp_path / "run" / "last.safetensors")["w"].tolist() == [7.0, 7.0]  # 1 + 3 rounds of 2


def test_digests_are_remembered_for_some_rounds() -> None:
    def answer(digest: str | None) -> Answer:
        return Answer(Reply(task="t", site="A", facts=InitFacts(parameters=1), tensors=digest))

    folded: dict[str, tuple[str, ...]] = {"B": ("b",)}
    digests = [f"{number:064x}" for number in range(REMEMBERED + 3)]
    for digest in digests:
        folded = remembered(folded, [answer(digest)])
    assert folded == {"A": tuple(digests[3:]), "B": ("b",)}
    assert remembered(folded, [answer(None)]) == folded
