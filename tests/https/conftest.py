"""A coordinator's state with a run under way; on PostgreSQL too, where one is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import MODEL, SHA256, joined
from sqlalchemy import create_engine

from tiny import make_plan
from wardround.core.messages import Task
from wardround.planning.plan import Plan
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.tables import recent, state
from wardround.runtimes.https.wire import Consent

POSTGRES = os.environ.get("WARDROUND_POSTGRES")  # SQLAlchemy's name of a database whose tables may be dropped
DATABASES = [None, *([POSTGRES] if POSTGRES else [])]


@pytest.fixture(params=DATABASES, ids=lambda url: (url or "sqlite").partition(":")[0])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    url: str | None = request.param
    if url is not None:
        engine = create_engine(url)
        for tables in (recent, state):
            tables.drop_all(engine)
        engine.dispose()
    store = Store.open(tmp_path / "coordinator", url)
    store.url = url
    yield store
    store.close()


@pytest.fixture
def running(store: Store) -> Plan:
    """A run that A, B and C were asked for, and that A and B approved."""
    joined(store, "A", "B", "C")
    plan = make_plan()
    store.add_run(plan, ["B", "A", "C"], "owner")
    for site in ("A", "B"):
        store.set_standing(plan.digest(), site, Consent(plan=plan.digest(), standing="approved"))
    store.set_run(plan.digest(), "running")
    return plan


@pytest.fixture
def task(store: Store, running: Plan) -> Task:
    """Open at all three sites."""
    task = Task(plan=running.digest(), round=0, verb="train", tensors=SHA256)
    model = store.folder / "model"
    model.write_bytes(MODEL)
    store.open_task(task, model, ["B", "A", "C"])
    return task
