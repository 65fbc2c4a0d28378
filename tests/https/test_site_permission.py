"""An agent does what people at the site decided, at once, and nothing else leaves; from the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_kit import PLAN, Coordinator, FakePool, agent_of, approve, coordinating, joined, model_file

from wardround.core.audit import read_entries
from wardround.core.messages import SiteFailed
from wardround.runtimes.https.agent import Agent
from wardround.runtimes.https.connection import Link
from wardround.runtimes.https.home import Home

DIGEST = PLAN.digest()


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


def test_before_approval_nothing_leaves_but_that_it_waits(
    coordinator: Coordinator, home: Home, wire: list[tuple[str, str, bytes]]
) -> None:
    coordinator.ask("describe")
    pool = FakePool()
    agent = agent_of(home, pool)
    for _ in range(4):
        agent.step()
    bodies = {json.dumps(json.loads(body), sort_keys=True) for _, _, body in wire if body}
    said = [json.loads(body) for body in bodies]
    assert sorted(message.pop("wait", None) is None for message in said) == [False, False, True]
    polls = [message for message in said if "protocol" in message]
    assert all(message.keys() == {"protocol", "software", "knows", "fetched"} for message in polls)
    assert [m for m in said if "protocol" not in m] == [
        {"plan": DIGEST, "standing": "pending", "reason": "waiting for approval"}
    ]
    assert {target.partition("?")[0] for _, target, _ in wire} == {"/v1/next", "/v1/consent", f"/v1/plans/{DIGEST}"}
    assert not pool.asked
    assert coordinator.store.standings(DIGEST) == {"A": "pending"}
    assert (home.requests / f"{DIGEST}.json").read_bytes() == PLAN.canonical().encode()


def test_a_decision_in_another_process_is_told_during_a_poll(coordinator: Coordinator, home: Home) -> None:
    agent = agent_of(home)
    agent.step()
    agent.step()
    assert coordinator.store.standings(DIGEST) == {"A": "pending"}
    agent._hold.seconds = 20.0
    told = threading.Event()
    stand = coordinator.store.set_standing

    def noticed(*arguments: Any) -> bool:
        done = bool(stand(*arguments))
        told.set()
        return done

    coordinator.store.set_standing = noticed
    polling = threading.Thread(target=agent.step, daemon=True)
    polling.start()
    approve(home)
    assert told.wait(10)
    assert coordinator.store.standings(DIGEST) == {"A": "approved"}
    coordinator.ask("describe")
    polling.join(15)
    assert not polling.is_alive()


def test_revoked_in_the_middle_of_training_the_worker_is_killed_and_nothing_more_is_sent(
    coordinator: Coordinator, home: Home, tmp_path: Path, wire: list[tuple[str, str, bytes]]
) -> None:
    pool = FakePool(hold=True)
    agent = ready(home, pool)
    task = coordinator.ask("train", model_file(tmp_path))
    working = threading.Thread(target=agent.step, daemon=True)
    working.start()
    assert pool.begun.wait(15)
    assert pool.closed == 0
    approve(home, "revoked")
    working.join(15)
    assert not working.is_alive()
    assert pool.closed == 1
    assert outcome(coordinator, task.id) is None
    agent.step()
    assert coordinator.store.standings(DIGEST) == {"A": "revoked"}
    assert coordinator.store.reasons(DIGEST) == {"A": "for a reason"}
    agent.step()
    assert len(pool.asked) == 1
    assert not [target for _, target, _ in wire if target.endswith(("/reply", "/failure", "/moved"))]
    assert not [target for method, target, _ in wire if method == "PUT"]


def test_a_plan_that_was_tampered_with_after_approval_does_not_run(
    coordinator: Coordinator, home: Home, tmp_path: Path
) -> None:
    pool = FakePool()
    agent = ready(home, pool)
    agent.step()
    assert coordinator.store.standings(DIGEST) == {"A": "approved"}
    path = home.requests / f"{DIGEST}.json"
    path.write_bytes(path.read_bytes().replace(b"A tiny study", b"A huge study"))
    coordinator.ask("describe")
    agent.step()
    agent.step()
    assert not pool.asked
    assert coordinator.store.standings(DIGEST) == {"A": "pending"}


def test_what_the_policy_forbids_is_a_failure_with_the_rules_name_alone(coordinator: Coordinator, home: Home) -> None:
    agent = ready(home)
    text = home.policy.read_text()
    home.policy.write_text(text.replace("tasks: [describe, init,", "tasks: [init,"))
    task = coordinator.ask("describe")
    agent.step()
    failed = outcome(coordinator, task.id)
    assert isinstance(failed, SiteFailed)
    assert (failed.kind, failed.reason) == ("refused", "the site's policy does not allow it now (tasks)")


def test_a_revoked_site_hears_it_and_waits(coordinator: Coordinator, home: Home) -> None:
    agent = ready(home)
    coordinator.store.revoke("A", "left the federation")
    agent.step()
    found = json.loads(home.serving.read_text())
    assert found["doing"] == "refused (revoked)"
    assert "left the federation" in found["problem"] or "revoked" in found["problem"]
