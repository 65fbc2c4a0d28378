"""An encoded and compressed run as a user starts it: killed, resumed and reported."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from test_run_and_resume import ROUNDS, World, children, final, until

from tiny import make_plan, plan_dict, write_plan
from wardround.core.containers import is_compressed
from wardround.core.rundir import read_events
from wardround.core.weights import read_tensors, weights_digest
from wardround.runtimes.assemble import ordinary

TRAINING = {**plan_dict()["training"], "steps": 4}


class Encoded(World):
    """The same small hospitals, with a plan that encodes both ways."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.plan = write_plan(
            root / "encoded.yaml",
            rounds={"limit": ROUNDS, "quorum": 1},
            training=TRAINING,
            transfer={"up": "int8", "down": "bf16", "zstd": 3},
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return Encoded(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: Encoded) -> Path:
    out = world.root / "whole"
    world.run("run", world.plan, "--sites", world.sites, "--out", out)
    return out


def events(place: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_events(place / "events.jsonl") if event["event"] == kind]


def test_what_travels_is_encoded_and_what_is_kept_is_whole(whole: Path) -> None:
    answer = whole / "sites" / "A" / "answers" / f"{ROUNDS - 1:06d}-train-0" / "tensors.safetensors.zst"
    sent = whole / "rounds" / f"{ROUNDS:04d}" / "sent.safetensors.zst"
    assert is_compressed(answer)
    assert is_compressed(sent)
    last = [
        e for e in events(whole, "site_replied") if (e["verb"], e["round"], e["site"]) == ("train", ROUNDS - 1, "A")
    ]
    assert last[0]["bytes_up"] == answer.stat().st_size
    validated = [e for e in events(whole, "site_replied") if (e["verb"], e["round"]) == ("validate", ROUNDS)]
    assert {event["bytes_down"] for event in validated} == {sent.stat().st_size}
    model = read_tensors(whole / "last.safetensors")
    assert weights_digest(model) == weights_digest(
        {name.removeprefix("weights/"): array
         for name, array in read_tensors(sent.with_name("model.safetensors")).items()}
    )  # fmt: skip
    page = (whole / "report.html").read_text(encoding="utf-8")
    assert "rounded to 8 bits a number" in page
    assert not (whole / "unpacked").exists()


def test_a_baseline_is_ordinary_training() -> None:
    """Nothing travels, so nothing is rounded."""
    plan = make_plan(transfer={"up": "int8", "zstd": 3}, strategy={"name": "fedprox"})
    assert ordinary(plan) == make_plan()


def test_killed_and_resumed_gives_the_same_bits(world: Encoded, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = world.train(out)
    until(process, "round 2/3")
    assert children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    world.run("resume", out)
    assert final(out) == final(whole)
