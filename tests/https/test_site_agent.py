"""What `serve` does, against a real coordinator: nothing before approval, each answer once, nothing lost by dying."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_kit import PLAN, Coordinator, FakePool, agent_of, approve, coordinating, joined, model_file

from wardround.core.audit import read_entries, verify
from wardround.core.messages import Answer, SiteFailed
from wardround.core.weights import file_digest
from wardround.runtimes.https.agent import Agent
from wardround.runtimes.https.connection import Link
from wardround.runtimes.https.heads import signed_by_coordinator
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.patience import Hold
from wardround.runtimes.https.wire import Consent
from wardround.site.heads import read_heads

DIGEST = PLAN.digest()


class Killed(BaseException):
    """As `kill -9`: no handler may catch it."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(tmp_path / "store"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "WARDROUND_SITE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinating(tmp_path) as found:
        yield found


@pytest.fixture
def home(coordinator: Coordinator, tmp_path: Path) -> Home:
    found = joined(coordinator, tmp_path)
    coordinator.submit()
    return found


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, bytes]]:
    """Every request that leaves in this test, as it leaves."""
    seen: list[tuple[str, str, bytes]] = []
    send = Link.send

    def record(self: Link, method: str, target: str, headers: Any, body: bytes | None, read: float) -> Any:
        seen.append((method, target, body or b""))
        return send(self, method, target, headers, body, read)

    monkeypatch.setattr(Link, "send", record)
    return seen


def ready(home: Home, pool: FakePool | None = None, **parts: Any) -> Agent:
    """An agent whose site has approved the plan."""
    agent = agent_of(home, pool, **parts)
    agent.step()
    approve(home)
    return agent


def entries(home: Home, event: str, **facts: Any) -> list[dict[str, Any]]:
    return [e for e in read_entries(home.audit) if e["event"] == event and facts.items() <= e.items()]


def outcome(coordinator: Coordinator, task_id: str) -> Any:
    return coordinator.store.outcomes(task_id).get("A")


def test_work_is_fetched_answered_sent_written_down_and_countersigned(
    coordinator: Coordinator, home: Home, tmp_path: Path, wire: list[tuple[str, str, bytes]]
) -> None:
    pool = FakePool()
    agent = ready(home, pool)
    model = model_file(tmp_path)
    task = coordinator.ask("train", model)
    agent.step()
    answer = outcome(coordinator, task.id)
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    assert file_digest(answer.tensors) == answer.reply.tensors
    assert pool.asked[0]["setting"]["folder"] == str(home.run(DIGEST))
    assert pool.asked[0]["setting"]["threads"] == 1
    assert [path.name for path in home.inbox(DIGEST).iterdir()] == [f"{task.tensors}.safetensors"]
    left = entries(home, "left", plan=DIGEST)
    assert {entry["kind"] for entry in left} == {"consent", "tensors", "reply"}
    (tensors,) = [entry for entry in left if entry["kind"] == "tensors"]
    assert (tensors["bytes"], tensors["sha256"]) == (answer.reply.size, answer.reply.tensors)
    sent = sum(len(body) for _, target, body in wire if target.startswith(f"/v1/tasks/{DIGEST}/0/train/0/"))
    assert sum(entry["bytes"] for entry in left if "task" in entry) == sent
    assert entries(home, "received", kind="tensors")[0]["sha256"] == task.tensors
    assert entries(home, "answered", verb="train", round=0, plan=DIGEST)
    (head,) = read_heads(home.heads)
    assert signed_by_coordinator(home.settings(), head)
    found = verify(home.audit, [head])
    assert found.clean
    assert found.signed == head


def test_the_coordinator_gets_its_own_head_back_signed(coordinator: Coordinator, home: Home, tmp_path: Path) -> None:
    agent = ready(home)
    for number in range(2):
        coordinator.ask("train", model_file(tmp_path, number), number)
        agent.step()
    theirs = coordinator.store.last_head("A", own=True)
    assert theirs is not None
    assert coordinator.office.audit.hash_at(theirs.length) == theirs.hash
    assert len(read_heads(home.heads)) == 2


def test_an_answer_is_worked_out_once_and_sent_again_as_often_as_need_be(
    coordinator: Coordinator, home: Home, tmp_path: Path
) -> None:
    agent = ready(home)
    task = coordinator.ask("train", model_file(tmp_path))
    agent.step()
    first = outcome(coordinator, task.id)
    agent.step()
    assert outcome(coordinator, task.id) == first
    assert len(entries(home, "answered")) == 1


@pytest.mark.parametrize("where", ["before", "after"])
def test_killed_at_any_request_the_next_process_goes_on(
    coordinator: Coordinator, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    task = coordinator.ask("train", model_file(tmp_path))
    send, count = Link.send, 0
    real, limit = threading.Lock(), 1

    def cut(self: Link, method: str, target: str, headers: Any, body: bytes | None, read: float) -> Any:
        nonlocal count
        with real:
            count += 1
            dying = count >= limit
        if dying and where == "before":
            raise Killed
        response = send(self, method, target, headers, body, read)
        if dying:
            response.close()
            raise Killed
        return response

    def relay(news: Any, name: str, action: Any) -> None:  # in this thread, so that dying ends the agent
        try:
            value = action()
        except Exception as error:  # noqa: BLE001 - as `aside` does
            value = error
        news.put((name, value))

    monkeypatch.setattr(Link, "send", cut)
    monkeypatch.setattr("wardround.runtimes.https.agent.aside", relay)
    deaths = 0
    for limit in range(1, 40):  # noqa: B007 - `cut` reads it
        count = 0
        try:
            agent = agent_of(home)
            while outcome(coordinator, task.id) is None or not read_heads(home.heads):
                agent.step()
                if (home.requests / f"{DIGEST}.json").is_file() and home.consents().standing(DIGEST) == "pending":
                    approve(home)
            break
        except Killed:
            deaths += 1
    else:
        pytest.fail("it never came to an end")
    assert deaths >= (5 if where == "before" else 4)
    answer = outcome(coordinator, task.id)
    assert isinstance(answer, Answer)
    assert answer.tensors is not None
    assert file_digest(answer.tensors) == answer.reply.tensors
    assert verify(home.audit, read_heads(home.heads)).clean


def test_a_task_that_nobody_wants_any_more_is_stopped(
    coordinator: Coordinator, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.runtimes.https.errand.MOVED", 0.0)
    pool = FakePool(hold=True)
    agent = ready(home, pool)
    task = coordinator.ask("train", model_file(tmp_path))
    working = threading.Thread(target=agent.step, daemon=True)
    working.start()
    assert pool.begun.wait(15)
    coordinator.store.close_task(task.id)
    pool.progress("A", "training", 1, 3)
    working.join(15)
    assert not working.is_alive()
    assert pool.closed == 1
    assert entries(home, "left", kind="moved", messages=1)


def test_signs_of_life_are_sent_of_progress_alone(
    coordinator: Coordinator, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wardround.runtimes.https.errand.MOVED", 0.0)
    monkeypatch.setattr("wardround.runtimes.https.errand.TICK", 0.01)
    touched = threading.Event()
    touch = coordinator.store.touch
    coordinator.store.touch = lambda *arguments: (touch(*arguments), touched.set())[0]
    pool = FakePool(hold=True)
    agent = ready(home, pool)
    task = coordinator.ask("train", model_file(tmp_path))
    touched.clear()
    working = threading.Thread(target=agent.step, daemon=True)
    working.start()
    assert pool.begun.wait(15)
    for _ in range(3):
        pool.progress("A", "training", 2, 3)
    assert touched.wait(10)
    pool.finish()
    working.join(15)
    (sums,) = entries(home, "left", kind="moved")
    assert sums["messages"] == 1
    assert isinstance(outcome(coordinator, task.id), Answer)


def test_a_failure_at_the_site_is_told_once(coordinator: Coordinator, home: Home) -> None:
    agent = ready(home, FakePool(fails=True))
    task = coordinator.ask("describe")
    agent.step()
    failed = outcome(coordinator, task.id)
    assert isinstance(failed, SiteFailed)
    assert failed.reason == "it does not work"
    assert entries(home, "failed", plan=DIGEST, verb="describe")
    agent.step()
    assert len(entries(home, "failed")) == 1


def test_a_coordinator_that_is_away_loses_nothing(
    coordinator: Coordinator, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = ready(home)
    task = coordinator.ask("train", model_file(tmp_path))
    send, left = Link.send, [3]

    def flaky(self: Link, method: str, target: str, *rest: Any) -> Any:
        if method != "GET" and left[0]:
            left[0] -= 1
            raise ConnectionResetError("away")
        return send(self, method, target, *rest)

    monkeypatch.setattr(Link, "send", flaky)
    while left[0] or outcome(coordinator, task.id) is None:
        agent.step()
    assert isinstance(outcome(coordinator, task.id), Answer)


def test_idle_polls_are_written_down_once(coordinator: Coordinator, home: Home) -> None:
    agent = agent_of(home)
    for _ in range(6):
        agent.step()
    assert len(entries(home, "left", kind="poll")) == 2  # before and after the plan was known


def test_a_line_that_cuts_what_is_idle_is_asked_for_shorter() -> None:
    hold = Hold()
    hold.cut(20.0)
    assert hold.seconds == 30.0
    hold.cut(20.0)
    assert hold.seconds == 10.0
    hold.went()
    assert hold.seconds == 11.0
    for _ in range(9):
        hold.cut(3.0)
    assert hold.seconds == 2.0


def test_a_restored_coordinator_is_told_again_without_a_restart(
    coordinator: Coordinator, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = ready(home)
    agent.step()
    assert coordinator.store.standings(DIGEST).get("A") == "approved"
    before = Consent(plan=DIGEST, standing="pending", reason="as it was when the backup was made")
    coordinator.store.set_standing(DIGEST, "A", before)
    agent.step()
    assert coordinator.store.standings(DIGEST).get("A") == "pending", "nothing changed for the site"
    send, left = Link.send, [1]

    def away(self: Link, *rest: Any) -> Any:
        if left[0]:
            left[0] -= 1
            raise ConnectionResetError("away")
        return send(self, *rest)

    monkeypatch.setattr(Link, "send", away)
    agent.step()
    agent.step()
    assert coordinator.store.standings(DIGEST).get("A") == "approved"
