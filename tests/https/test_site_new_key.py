"""A site that is given another key while it trains goes on, and what it trained counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from site_kit import PLAN, QUICK, Coordinator, FakePool, agent_of, approve, coordinating, joined, model_file

from wardround.core.messages import Answer
from wardround.runtimes.https import joining
from wardround.runtimes.https.home import Home


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(tmp_path / "store"))


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinating(tmp_path) as made:
        yield made


@pytest.mark.parametrize("told", [True, False], ids=["by a sign of life", "by its answer"])
def test_training_goes_on_with_the_new_key(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr("wardround.runtimes.https.errand.MOVED", 0.0)
    monkeypatch.setattr("wardround.runtimes.https.errand.TICK", 0.01)
    home, pool = joined(coordinator, tmp_path), FakePool(hold=True)
    agent = agent_of(home, pool)
    coordinator.submit()
    agent.step()
    approve(home)
    agent.step()
    task = coordinator.ask("train", model_file(tmp_path))
    touched = threading.Event()
    working = threading.Thread(target=agent.step, daemon=True)
    working.start()
    assert pool.begun.wait(15)
    joining.rekey(home, patience=QUICK)
    if told:
        reload = agent._errands._renewed
        monkeypatch.setattr(agent._errands, "_renewed", lambda: (reload(), touched.set())[0])
        pool.progress("A", "training", 1, 3)
        assert touched.wait(15)
    pool.finish()
    working.join(15)
    assert not working.is_alive()
    assert pool.closed == 0
    assert isinstance(coordinator.store.outcomes(task.id)["A"], Answer)
    assert len(pool.asked) == 1
    assert Home(home.root).settings() == agent._settings
    assert PLAN.digest() == task.plan
