"""Whole runs whose requests are carried by messages: as over HTTPS to the last bit, and nothing is lost by a cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import answers
import pytest
from answers import Pool
from flare_kit import Federation

from tiny import make_plan
from wardround.core.rundir import RunDir, read_events
from wardround.core.weights import read_tensors
from wardround.planning.plan import Plan
from wardround.runtimes.https.conduct import Conduct, Means
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.people import Person, act
from wardround.runtimes.https.people_wire import Submit
from wardround.runtimes.https.wire import PIECE
from wardround.runtimes.nvflare.enrolment import hold_places
from wardround.runtimes.nvflare.pipe import Request

SITES = ("A", "B", "C")


def plan_of(**rounds: Any) -> Plan:
    return make_plan(rounds={"limit": 3, "patience": 100, **rounds})


def submit(federation: Federation, plan: Plan, sites: tuple[str, ...] = SITES) -> None:
    hold_places(federation.office, sites)
    act(federation.office, Person("anna", "owner"), Submit(plan=plan.canonical(), sites=sites))


@contextmanager
def serving(federation: Federation, plan: Plan, pools: dict[str, Any], approved: str = "ABC") -> Iterator[None]:
    """Agents of enrolled sites, one thread each."""
    over, threads = threading.Event(), []
    agents = [federation.agent(name, pool) for name, pool in pools.items() if federation.enrol(name)]
    for agent, name in zip(agents, pools, strict=True):
        threads.append(threading.Thread(target=agent.serve, args=(lambda: not over.is_set(),), daemon=True))
        consents = federation.home(name).consents()
        consents.receive(plan.canonical().encode())
        if name in approved:
            consents.decide(plan.digest(), "approved", "Dr. A. Meyer")
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def conduct(federation: Federation, plan: Plan) -> str:
    told: list[Any] = []
    means = Means(federation.office, lambda _place: None, lambda event, facts: told.append((event, facts)))
    Conduct(means, plan.digest()).go()
    assert not [facts for event, facts in told if event == "run_crashed"]
    return federation.office.store.run(plan.digest()).state


def weights(place: RunDir) -> list[float]:
    return sorted(set(read_tensors(place.root / "last.safetensors")["w"].tolist()))


def place_of(federation: Federation, plan: Plan) -> RunDir:
    return run_dir(federation.office.folder, plan.digest())


def test_a_run_goes_through_and_its_results_arrive(federation: Federation) -> None:
    plan = plan_of()
    bridge = federation.open()
    submit(federation, plan)
    with serving(federation, plan, {name: Pool() for name in SITES}):
        assert conduct(federation, plan) == "ended"
        bridge.see_off(lambda: True, 30)
    assert weights(place_of(federation, plan)) == [9.0]  # three rounds, each of the mean of 1, 2 and 6
    final = place_of(federation, plan).model.read_bytes()
    for name in SITES:
        assert (federation.home(name).result(plan.digest()) / "model.safetensors").read_bytes() == final
    for name in SITES:
        events = [event["event"] for event in _audit(federation, name)]
        assert "head_signed" in events
        assert "approved" in events


def test_a_model_that_is_larger_than_a_message_goes_in_pieces(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the line is fast enough for all of it at once."""
    monkeypatch.setattr(answers, "SIZE", 4_000_000)
    plan = make_plan(rounds={"limit": 2, "patience": 100, "quorum": 1})
    federation.open()
    submit(federation, plan, ("A",))
    with serving(federation, plan, {"A": Pool()}, approved="A"):
        assert conduct(federation, plan) == "ended"
    assert PIECE // 2 <= federation.largest <= PIECE + (64 << 10) < 4 * answers.SIZE


def test_a_site_that_has_not_approved_is_skipped(federation: Federation) -> None:
    plan = plan_of(quorum=2)
    federation.open()
    submit(federation, plan)
    with serving(federation, plan, {name: Pool() for name in SITES}, approved="AB"):
        assert conduct(federation, plan) == "ended"
    assert weights(place_of(federation, plan)) == [4.5]
    failed = [event for event in read_events(place_of(federation, plan).events) if event["event"] == "site_failed"]
    assert {(event["site"], event["kind"]) for event in failed} == {("C", "pending")}
    assert not (federation.home("C").result(plan.digest())).exists()


def test_a_site_that_never_came_is_skipped(federation: Federation) -> None:
    plan = plan_of(quorum=2)
    federation.open()
    submit(federation, plan)
    with serving(federation, plan, {name: Pool() for name in "AB"}):
        assert conduct(federation, plan) == "ended"
    assert weights(place_of(federation, plan)) == [4.5]


def test_a_cut_and_a_continuation_change_no_bit(federation: Federation) -> None:
    """The server's process ends in the second round; another bridge and another conduct go on."""
    plan = plan_of()
    first = federation.open()
    submit(federation, plan)
    stop, begun = threading.Event(), threading.Event()

    def second_round(task: Any) -> bool:
        if (task.verb, task.round) == ("train", 1) and not begun.is_set():
            begun.set()
            federation.cut.set()
            stop.set()
        return False

    with serving(federation, plan, {"A": Pool(second_round), "B": Pool(), "C": Pool()}):
        means = Means(federation.office, lambda _place: None, lambda *_: None, stop)
        Conduct(means, plan.digest()).go()
        assert federation.office.store.run(plan.digest()).state == "running"
        first.close()
        federation.open()
        federation.cut.clear()
        assert conduct(federation, plan) == "ended"
    assert weights(place_of(federation, plan)) == [9.0]
    assert "run_resumed" in [event["event"] for event in read_events(place_of(federation, plan).events)]


def test_an_abort_ends_it(federation: Federation) -> None:
    from wardround.runtimes.https.people_wire import Abort

    plan = plan_of()
    federation.open()
    submit(federation, plan)

    def abort(task: Any) -> bool:
        if task.verb == "train":
            act(federation.office, Person("anna", "owner"), Abort(run=plan.digest()[:12], reason="wrong labels"))
        return False

    with serving(federation, plan, {"A": Pool(abort), "B": Pool(), "C": Pool()}):
        assert conduct(federation, plan) == "aborted"


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", "/healthz", (), b""),
        Request("POST", "/v1/next", (), b"{}"),
        Request("POST", "/v1/next", (("content-length", "2"),), b"{}"),
        Request("PUT", "/../etc", (("x", "ü€"),), b""),
        Request("NONE", "", (), b""),
        Request("GET", "/v1/plans/" + "0" * 64 + "?x=€", (), b""),
    ],
    ids=str,
)
def test_what_nobody_signed_gets_nothing(federation: Federation, request_: Request) -> None:
    response = federation.open().answer("A", request_)
    assert (response.status == 200) == (request_.target == "/healthz")


def _audit(federation: Federation, name: str) -> list[dict[str, Any]]:
    from wardround.core.audit import read_entries

    return list(read_entries(federation.home(name).audit))


def test_a_request_of_another_site_is_that_sites_whatever_the_carrier_says(
    federation: Federation, tmp_path: Path
) -> None:
    """The sender that the carrier names decides nothing: the signature does."""
    plan = plan_of(quorum=1)
    bridge = federation.open()
    submit(federation, plan)
    federation.enrol("A")
    captured: list[Request] = []
    agent = federation.agent("A", Pool())
    real = bridge.answer
    bridge.answer = lambda _, request: captured.append(request) or real("B", request)  # type: ignore[method-assign]
    agent.step()
    agent.close()
    assert federation.home("A").consents().desk.holds(plan.digest())
    again = real("B", captured[0])
    assert again.status >= 400  # a nonce is used once
