"""Several processes that train one site's model together: the same step as one process takes on the whole batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tiny import make_plan, write_plan, write_site, write_sites
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.weights import file_digest, read_tensors, unpack, weights_digest
from wardround.planning.plan import Plan
from wardround.runtimes import worker_process
from wardround.runtimes.ranks import Helpers, Lost
from wardround.site.group import Group
from wardround.site.hospital import Source
from wardround.site.patches import Batch, Batches
from wardround.site.worker import Setting, Site

SIZE = 3
BATCH = 4  # shares of 2, 1 and 1


def plan_of(**training: Any) -> Plan:
    base = {"steps": 4, "batch": BATCH, "patch": [12, 16, 12], "precision": "fp32", "optimiser": {"rate": 0.01}}
    return make_plan(training={**base, **training})


class Together:
    """A site in this process, and its other processes beside it."""

    def __init__(self, root: Path, plan: Plan, processes: int, largest: int | None = None) -> None:
        place, self.plan = root / "plan.json", plan
        place.write_text(plan.canonical())
        data = root / "data"
        if not data.exists():
            write_site(data, seed=1)
        sources = (Source(data),)
        folder = root / f"site-{processes}-{largest}"
        setting = Setting("A", sources, folder, root / "store", 1, "cpu", largest, processes)
        self.helpers = Helpers()
        message = {
            "plan": str(place),
            "plan_digest": plan.digest(),
            "setting": worker_process.setting_to_json(setting),
        }
        self.sizes: list[int] = []

        def together(task: Task, tensors: Path | None, size: int) -> Any:
            self.sizes.append(size)
            return worker_process._together(self.helpers, message, task, tensors, size)

        self.site = Site(plan, setting, together=together)
        self.first = self.answer(Task(plan=plan.digest(), round=0, verb="init"), None)

    def answer(self, task: Task, tensors: Path | None) -> Path:
        answer = self.site.answer(task, tensors)
        assert isinstance(answer, Answer), answer
        assert answer.tensors is not None
        return answer.tensors

    def train(self) -> dict[str, np.ndarray]:
        task = Task(plan=self.plan.digest(), round=0, verb="train", tensors=file_digest(self.first))
        return dict(unpack(self.answer(task, self.first))["weights"].arrays)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Together]]:
    made: list[Together] = []

    def one(*args: Any) -> Together:
        made.append(Together(tmp_path, *args))
        return made[-1]

    yield one
    for together in made:
        together.helpers.close()


class Whole(Batches):
    """What all processes of a group take, in one batch."""

    def make(self, update: int) -> Batch:
        shares = [replace_group(self, Group(rank, SIZE)).make(update) for rank in range(SIZE)]
        return Batch(torch.cat([share.image for share in shares]), torch.cat([share.label for share in shares]))


def replace_group(batches: Batches, group: Group) -> Batches:
    return Batches(batches.cases, batches.training, batches.seed, batches.site, (), batches.classes, None, group)


@pytest.mark.parametrize(
    ("optimiser", "largest"),
    [({"name": "adamw", "rate": 0.01}, 1), ({"name": "sgd", "momentum": 0.9, "rate": 0.05}, None)],
)
def test_a_group_takes_the_steps_of_one_process_on_the_whole_batch(
    optimiser: dict[str, Any], largest: int | None, make: Callable[..., Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(optimiser=optimiser)
    group, alone = make(plan, SIZE, largest), make(plan, 1)
    mine = alone.site._batches()
    whole = Whole(mine.cases, mine.training, mine.seed, mine.site, (), mine.classes)
    monkeypatch.setattr(alone.site, "_batches", lambda: whole)
    together, expected = group.train(), alone.train()
    assert (group.sizes, alone.sizes) == ([SIZE], [])
    before = unpack(alone.first)["weights"].arrays
    moved = max(float(np.abs(expected[name] - before[name]).max()) for name in expected)
    assert moved > 1e-3
    for name, array in together.items():
        np.testing.assert_allclose(array, expected[name], atol=1e-3 * moved, err_msg=name)


def test_a_group_is_no_larger_than_the_batch(make: Callable[..., Together]) -> None:
    group = make(plan_of(batch=2, steps=1), 4)
    group.train()
    assert group.sizes == [2]


def test_who_fails_alone_does_not_leave_the_others_waiting(
    make: Callable[..., Together], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = make(plan_of(), 2)
    monkeypatch.setattr(group.site, "_train", lambda *_: 1 / 0)
    task = Task(plan=group.plan.digest(), round=0, verb="train", tensors=file_digest(group.first))
    failed = group.site.answer(task, group.first)
    assert isinstance(failed, SiteFailed)
    assert "ZeroDivisionError" in failed.reason
    assert group.helpers._all == []


def test_a_killed_process_ends_the_worker(make: Callable[..., Together]) -> None:
    group = make(plan_of(steps=500), 2)
    task = Task(plan=group.plan.digest(), round=0, verb="train", tensors=file_digest(group.first))

    def kill(what: str, done: int, _total: int) -> None:
        if (what, done) == ("training", 3):
            group.helpers._all[0].send_signal(signal.SIGKILL)

    group.site._progress = kill
    with pytest.raises(Lost):
        group.site.answer(task, group.first)


def wardround(*args: object, **env: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, args)],
        env={**os.environ, **env}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_run_with_two_processes_a_site_gives_the_same_bits_twice(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path, ("A", "B")), write_plan(tmp_path / "plan.yaml")
    document = yaml.safe_load(sites.read_text())
    sites.write_text(yaml.safe_dump({**document, "processes": 2}))
    for name in ("first", "second"):
        wardround("run", plan, "--sites", sites, "--out", tmp_path / name, WARDROUND_STORE=str(tmp_path / "store"))
    first, second = (
        weights_digest(read_tensors(tmp_path / name / "model.safetensors")) for name in ("first", "second")
    )
    assert first == second
