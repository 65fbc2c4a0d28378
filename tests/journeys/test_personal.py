"""Private tensors and fine-tuning as a user meets them: plan, run, report, evaluate, adapt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import plan_dict, write_plan, write_site, write_sites
from wardround.core.weights import read_tensors, weights_digest


def wardround(root: Path, *args: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, args)],
        env={**os.environ, "WARDROUND_STORE": str(root / "store"), "COLUMNS": "200"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    plan = write_plan(
        root / "plan.yaml",
        private={"tensors": ["norm.affine"], "unseen": "mean"},
        finetune={"steps": 6, "rate": 0.01},
        training={**plan_dict()["training"], "steps": 4},
    )
    wardround(
        root, "run", plan, "--sites", write_sites(root), "--out", "run", "--baseline", "local", "--baseline", "pooled"
    )
    return root


def test_the_run_ends_with_a_whole_model_here_and_one_at_each_site(world: Path) -> None:
    run = world / "run"
    written = json.loads((run / "scores.json").read_text())
    assert set(written["finetune"]) == {"A", "B"}
    model = read_tensors(run / "model.safetensors")
    for site in "AB":
        own = read_tensors(run / "sites" / site / "model.safetensors")
        assert set(own) == set(model)
        assert weights_digest(own) != weights_digest(model)
        scores = json.loads(wardround(world, "evaluate", run / "sites" / site, "--data", f"site_{site}", "--json"))
        cases = json.loads((run / "sites" / site / "overlays" / "cases.json").read_text())
        again = {row["case"]: row["dice"] for row in scores["per_case"]}
        assert {row["case"]: row["dice"] for row in cases}.items() <= again.items()
    report = (run / "report.html").read_text()
    assert "averaged for sites that did not take part" in report
    assert "The sites’ own models" in report


def test_baselines_are_ordinary_training(world: Path) -> None:
    for name in ("pooled", "local-A", "local-B"):
        plan = json.loads((world / "run" / "baselines" / name / "plan.json").read_text())
        assert (plan["private"], plan["finetune"]) == (None, None)
        assert set(read_tensors(world / "run" / "baselines" / name / "last.safetensors")) == set(
            read_tensors(world / "run" / "model.safetensors")
        )


def test_a_hospital_that_did_not_train_adapts_the_model(world: Path) -> None:
    write_site(world / "new", cases=6, seed=9, scale=50)
    out = wardround(world, "adapt", "run", "--data", "new", "--cases", "4", "--steps", "6")
    assert "tuned 12 tensors for 6 steps on 3 cases" in out
    place = world / "run" / "adapted" / "new"
    assert f"model: {place}" in out
    facts = json.loads((place / "adapt.json").read_text())
    assert facts["others"] == 2
    assert json.loads(wardround(world, "evaluate", place, "--data", "new", "--json"))["cases"] == 6
    wardround(world, "predict", place, "new/images", "--out", "labels")
    assert len(list((world / "labels").iterdir())) == 6
