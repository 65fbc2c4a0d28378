"""What a site gets when a run has ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from site_kit import PLAN, Coordinator, FakePool, agent_of, approve, coordinating, joined, model_file

from wardround.core.audit import read_entries
from wardround.core.rundir import RunDir
from wardround.runtimes.https.agent import Agent
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


def ready(home: Home, pool: FakePool | None = None, **parts: Any) -> Agent:
    """An agent whose site has approved the plan."""
    agent = agent_of(home, pool, **parts)
    agent.step()
    approve(home)
    return agent


def entries(home: Home, event: str, **facts: Any) -> list[dict[str, Any]]:
    return [e for e in read_entries(home.audit) if e["event"] == event and facts.items() <= e.items()]


def test_the_results_become_a_run_directory(coordinator: Coordinator, home: Home, tmp_path: Path) -> None:
    reports: list[str] = []
    agent = ready(home, report=lambda _home, digest: reports.append(digest))
    coordinator.ask("describe")
    agent.step()
    model = model_file(tmp_path)
    coordinator.store.finish_run(DIGEST, model, {"mean_dice": 0.8})
    agent.step()
    run = RunDir(home.result(DIGEST))
    assert run.model.read_bytes() == model.read_bytes()
    assert run.read_json("outcome.json")["mean_dice"] == 0.8
    assert (run.root / "plan.json").read_bytes() == PLAN.canonical().encode()
    assert reports == [DIGEST]
    agent.step()
    assert reports == [DIGEST]
    assert entries(home, "received", kind="model")


def test_results_of_another_plan_are_left_out_and_stop_nothing(
    coordinator: Coordinator, home: Home, tmp_path: Path
) -> None:
    agent = ready(home)
    coordinator.ask("describe")
    agent.step()
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(model_file(tmp_path).read_bytes().replace(DIGEST.encode(), b"0" * 64))
    coordinator.store.finish_run(DIGEST, wrong, {})
    agent.step()
    agent.step()
    assert entries(home, "run_left_out", plan=DIGEST)
    assert not (home.result(DIGEST) / "outcome.json").exists()


def test_a_report_that_fails_costs_no_model(coordinator: Coordinator, home: Home, tmp_path: Path) -> None:
    def fail(_home: Home, _digest: str) -> None:
        raise RuntimeError("no pictures")

    agent = ready(home, report=fail)
    coordinator.ask("describe")
    agent.step()
    coordinator.store.finish_run(DIGEST, model_file(tmp_path), {})
    agent.step()
    assert (home.result(DIGEST) / "outcome.json").is_file()
