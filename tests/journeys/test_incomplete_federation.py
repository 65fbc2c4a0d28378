"""Four hospitals: one without a modality, one that outlines half of the labels, one with little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from incomplete import TASK, write_two
from tiny import plan_dict, write_plan
from wardround.core.rundir import read_events

SITES = ("whole", "no_t1", "ball_only", "small")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("incomplete")
    for name in SITES:
        write_two(root / name, t1=name != "no_t1")
    (root / "ball_only" / "dataset.yaml").write_text(yaml.safe_dump({"unlabelled": ["shell"]}))
    sites = [{"name": name, "folder": name} for name in SITES]
    sites[-1]["largest_batch"] = 1  # type: ignore[assignment]
    (root / "sites.yaml").write_text(yaml.safe_dump({"sites": sites, "workers": 1}))
    plan = write_plan(root / "plan.yaml", task=TASK, training={**plan_dict()["training"], "steps": 12})
    args = ["run", plan, "--sites", root / "sites.yaml", "--out", root / "run"]
    done = subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, args)],
        env={**os.environ, "WARDROUND_STORE": str(root / "store"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return root / "run"


def test_all_of_them_train_and_the_model_learns(run: Path) -> None:
    events = list(read_events(run / "events.jsonl"))
    assert not [event for event in events if event["event"] in ("site_failed", "site_alert")]
    ended = [event for event in events if event["event"] == "round_ended"]
    assert [sorted(event["sites"]) for event in ended] == [sorted(SITES)] * 2
    losses = [
        [e["facts"]["loss"] for e in events if e["event"] == "site_replied" and (e["verb"], e["round"]) == ("train", n)]
        for n in (0, 1)
    ]
    assert all(after < before for before, after in zip(*losses, strict=True))


def test_each_is_scored_on_what_it_outlines(run: Path) -> None:
    sites = json.loads((run / "scores.json").read_text())["sites"]
    assert {name: set(scores["labels"]) for name, scores in sites.items()} == {
        "whole": {"ball", "shell"},
        "no_t1": {"ball", "shell"},
        "ball_only": {"ball"},
        "small": {"ball", "shell"},
    }


def test_the_report_says_what_each_lacked(run: Path) -> None:
    text = (run / "report.html").read_text()
    for words in (
        "no_t1: no T1 in 4 cases",
        "ball_only: shell not outlined in 4 cases",
        "small: batches taken in parts of 1",
    ):
        assert text.count(words) == 1, words
