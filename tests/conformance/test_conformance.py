"""What every engine keeps to: the same plan gives the same weights, bit for bit, and tells the same of it.

The engines are in ``engines.py``, what a new one has to offer in ``engine_contract.py``. Arithmetic is fp32 on
processors, with one thread.
"""

from __future__ import annotations

from typing import Any

from engine_contract import References, World, log_of, plan_file, spoiled, weights_of

from wardround.core.rundir import read_events


def test_weights_and_log_are_those_of_the_reference(world: World, references: References) -> None:
    place = world.start(plan_file(world.root, "whole"))
    world.wait(place)
    assert weights_of(place) == weights_of(references.whole)
    assert log_of(place) == log_of(references.whole)


def test_a_site_that_fails_is_missing_and_the_quorum_goes_on(world: World, references: References) -> None:
    with spoiled(world.data("C")):
        place = world.start(plan_file(world.root, "without-c", quorum=2))
        world.wait(place)
    assert weights_of(place) == weights_of(references.without_c) != weights_of(references.whole)
    assert without_reasons(log_of(place)) == without_reasons(log_of(references.without_c))
    reasons = [(e["kind"], e["reason"]) for e in log_of(place) if e["event"] == "site_failed"]
    expected = [(e["kind"], e["reason"]) for e in log_of(references.without_c) if e["event"] == "site_failed"]
    assert reasons[-1] == expected[-1]
    assert "4 unreadable" in reasons[-1][1]


def without_reasons(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """In a network the rounds may begin while the third approval is still on its way."""
    return [
        {k: v for k, v in event.items() if event["event"] != "site_failed" or k not in ("kind", "reason")}
        for event in log
    ]


def test_below_the_quorum_it_stops_and_goes_on_when_mended(world: World, references: References) -> None:
    with spoiled(world.data("C")):
        place = world.start(plan_file(world.root, "quorum"))
        world.lose(place)
    stops = [(e["reason"], e["rounds"]) for e in read_events(place / "events.jsonl") if e["event"] == "run_stopped"]
    assert stops == [("failed", 0)]
    world.resume(place)
    world.wait(place)
    assert weights_of(place) == weights_of(references.whole)


def test_a_run_that_was_aborted_goes_on_to_the_same_bits(world: World, references: References) -> None:
    place = world.start(plan_file(world.root, "aborted"))
    world.until_event(place, "round_started", round=1)
    world.abort(place)
    world.resume(place)
    world.wait(place)
    assert weights_of(place) == weights_of(references.whole)
    log = log_of(place)
    assert "run_resumed" in [event["event"] for event in log]
    ended = [event for event in log if event["event"] == "round_ended"]
    assert ended == [event for event in log_of(references.whole) if event["event"] == "round_ended"]


def test_what_a_killed_worker_was_doing_is_done_once_more(world: World, references: References) -> None:
    place = world.start(plan_file(world.root, "killed"))
    world.until_event(place, "round_started", round=1)
    assert world.kill_site("A")
    world.wait(place)
    assert weights_of(place) == weights_of(references.whole)
    assert log_of(place) == log_of(references.whole)
