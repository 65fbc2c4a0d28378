"""`adapt`: which cases are used for what, what may change, and what is written."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from real_sites import small_plan, whole_run

from tiny import write_site
from wardround.core.errors import InputError, RunError, SiteError, StorageError
from wardround.core.rundir import RunDir
from wardround.core.weights import read_tensors, weights_digest
from wardround.data.split import Split, deal, split_cases
from wardround.site import finetune
from wardround.site.adapt import Effort, adapt, choose
from wardround.site.use import Model


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two hospitals that trained a model with private scale and shift, and a third that did not."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("world")
    write_site(root / "data" / "A", seed=1)
    write_site(root / "data" / "B", cases=5, seed=2, scale=4)
    write_site(root / "new", cases=9, seed=3, scale=30)
    plan = small_plan(private={"tensors": ["norm.affine"]}, training={"steps": 6})
    whole_run(plan, root / "run", root / "data", root / "store")
    plain = small_plan(training={"steps": 6})
    whole_run(plain, root / "plain", root / "data", root / "store")
    return root


@pytest.fixture(autouse=True)
def _store(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(world / "store"))


def said(monkeypatch: pytest.MonkeyPatch, *dice: float) -> None:
    """What validation says of the model before and after."""
    values = iter(dice)
    monkeypatch.setattr(finetune, "quick_scores", lambda *_: type("S", (), {"mean_dice": next(values)})())


def test_only_private_tensors_change_where_the_plan_has_them(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(monkeypatch, 0.1, 0.2)
    done = adapt(RunDir(world / "run"), world / "new", tmp_path / "out", Effort(6, steps=4))
    before, after = read_tensors(world / "run" / "model.safetensors"), read_tensors(tmp_path / "out/model.safetensors")
    changed = {name for name, array in after.items() if (array != before[name]).any()}
    assert changed
    assert changed <= set(done.tensors) == {name for name in before if ".norm" in name}
    assert (done.kept, done.updates, done.rate) == (True, 4, 0.05)
    assert (len(done.trained_on), len(done.decided_on), done.others) == (4, 2, 3)
    said(monkeypatch, 0.1, 0.2)
    done = adapt(RunDir(world / "plain"), world / "new", tmp_path / "whole", Effort(6, steps=4))
    assert set(done.tensors) == set(before)
    assert done.rate == pytest.approx(0.005)


def test_what_does_not_help_is_thrown_away_and_said(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(monkeypatch, 0.3, 0.3)
    done = adapt(RunDir(world / "run"), world / "new", tmp_path / "out", Effort(6, steps=2))
    assert not done.kept
    assert done.others_before == done.others_after
    models = [read_tensors(place / "model.safetensors") for place in (world / "run", tmp_path / "out")]
    assert weights_digest(models[0]) == weights_digest(models[1])


def test_the_command_writes_a_model_that_evaluate_takes(world: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "wardround", "adapt", world / "run", "--data", world / "new", "--cases", "6"]
    more = ["--steps", "20", "--out", tmp_path / "out", "--device", "cpu"]
    env = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command + more)], env=env, capture_output=True, text=True, check=True)
    assert "on 4 cases" in done.stdout
    assert "decided on 2 other cases" in done.stdout
    assert "on 3 cases that were not used" in done.stdout
    facts = json.loads((tmp_path / "out" / "adapt.json").read_text())
    assert ("better, so the tuned model is kept" in done.stdout) == facts["kept"]
    assert not set(facts["trained_on"]) & set(facts["decided_on"])
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    result = Model.open(RunDir(tmp_path / "out"), "cpu").evaluate(world / "new", lambda items, _: items)
    assert result["cases"] == 9
    again = subprocess.run([*map(str, command + more)], env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 3
    assert "choose another --out" in again.stderr


def test_the_same_twice_gives_the_same_model(world: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        adapt(RunDir(world / "run"), world / "new", tmp_path / name, Effort(6, steps=3), "cpu")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert models[0] == models[1]


def test_what_cannot_be_adapted_is_said(world: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="run directory"):
        adapt(RunDir(tmp_path / "none"), world / "new", tmp_path / "out", Effort())
    with pytest.raises(InputError, match="--cases 1 is too few"):
        adapt(RunDir(world / "run"), world / "new", tmp_path / "out", Effort(1))
    write_site(tmp_path / "two", cases=2)
    with pytest.raises(SiteError, match="at least 3"):
        adapt(RunDir(world / "run"), tmp_path / "two", tmp_path / "out", Effort())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(StorageError, match="not empty"):
        adapt(RunDir(world / "run"), world / "new", tmp_path / "full", Effort())


def dealt(owners: list[int], fold: int) -> tuple[Split, dict[str, str]]:
    subjects = {f"case_{n:03d}": f"s{owner}" for n, owner in enumerate(owners)}
    return split_cases(subjects, deal(sorted(set(subjects.values())), "key", 5), fold), subjects


@given(st.lists(st.integers(0, 8), min_size=8, max_size=30), st.integers(0, 4), st.integers(1, 40), st.integers(0, 3))
@settings(deadline=None)
def test_cases_are_whole_subjects_never_of_the_test_part(owners: list[int], fold: int, wanted: int, seed: int) -> None:
    if len(set(owners)) < 5:
        return
    split, subjects = dealt(owners, fold)
    try:
        train, decide = choose(split, subjects, wanted, seed)
    except InputError:
        sizes = sorted(owners.count(int(s[1:])) for s in {subjects[c] for c in (*split.train, *split.validation)})
        assert wanted < sum(sizes)  # with room for all of them it is never refused
        return
    assert train
    assert decide
    assert len(train) + len(decide) <= wanted
    assert not set(split.test) & {*train, *decide}
    assert not {subjects[c] for c in train} & {subjects[c] for c in decide}
    for case in (*train, *decide):
        part: Any = train if case in train else decide
        fellows = {c for c in (*split.train, *split.validation) if subjects[c] == subjects[case]}
        assert fellows <= set(part)
    assert choose(split, subjects, wanted, seed) == (train, decide)


def test_a_quarter_decides_validation_cases_first() -> None:
    split, subjects = dealt(list(range(40)), 0)
    train, decide = choose(split, subjects, 10, 0)
    assert (len(train), len(decide)) == (7, 3)
    assert set(decide) <= set(split.validation)
    assert set(train) <= set(split.train)
    train, decide = choose(split, subjects, 1000, 0)
    assert {*train, *decide} == {*split.train, *split.validation}
