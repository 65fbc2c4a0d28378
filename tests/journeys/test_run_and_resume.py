"""The whole loop as a user starts it: real processes, real files, real kills."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tiny import plan_dict, write_case, write_plan, write_sites
from wardround.core.rundir import read_events
from wardround.core.weights import read_tensors, weights_digest

ROUNDS = 3


class World:
    """Two small hospitals, a plan, and a store of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sites = write_sites(root)
        training = {**plan_dict()["training"], "steps": 4}
        self.plan = write_plan(root / "plan.yaml", rounds={"limit": ROUNDS, "quorum": 1}, training=training)
        self.env = {**os.environ, "WARDROUND_STORE": str(root / "store"), "COLUMNS": "200"}

    def start(self, *args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "wardround", *map(str, args)]
        return subprocess.Popen(
            command,
            env=self.env,
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_heed_ctrl_c,  # noqa: PLW1509 - no lock is held across the fork
        )

    def run(self, *args: object, code: int = 0) -> tuple[str, str]:
        process = self.start(*args)
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        return out, err

    def train(self, out: Path) -> subprocess.Popen[str]:
        return self.start("run", self.plan, "--sites", self.sites, "--out", out)


def _heed_ctrl_c() -> None:
    """Tests that were started in the background of a shell ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def until(process: subprocess.Popen[str], words: str) -> None:
    """Wait for a line of progress; no clock involved."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"{words!r} never came")


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def whole(world: World) -> Path:
    """An uninterrupted run with all baselines."""
    out = world.root / "whole"
    stdout, _ = world.run(
        "run", world.plan, "--sites", world.sites, "--out", out, "--baseline", "local", "--baseline", "pooled"
    )
    assert str(out / "report.html") in stdout
    return out


def final(out: Path) -> tuple[str, str]:
    models = (read_tensors(out / name) for name in ("last.safetensors", "model.safetensors"))
    first, second = (weights_digest(model) for model in models)
    return first, second


def test_the_run_directory_holds_what_it_promises(whole: Path) -> None:
    names = "plan.json plan.yaml run.json events.jsonl scores.json report.html model.safetensors best.safetensors"
    for name in (*names.split(), "tensorboard/federated"):
        assert (whole / name).exists(), name
    assert {p.name for p in (whole / "baselines").iterdir()} == {"pooled", "local-A", "local-B"}
    assert not [p for p in whole.rglob("*") if p.suffix in (".pkl", ".pt", ".pth", ".npz", ".part")]


def test_baselines_take_equal_updates(whole: Path) -> None:
    for arm in (whole, *(whole / "baselines").iterdir()):
        taken: dict[str, int] = {}
        for event in read_events(arm / "events.jsonl"):
            if event["event"] == "site_replied" and event["verb"] == "train":
                taken[event["site"]] = taken.get(event["site"], 0) + event["facts"]["updates"]
        assert set(taken.values()) == {ROUNDS * 4}, arm
    assert set(json.loads((whole / "baselines/pooled/scores.json").read_text())["sites"]) == {"A", "B"}
    assert set(json.loads((whole / "baselines/local-A/scores.json").read_text())["sites"]) == {"A", "B"}


@pytest.fixture(params=["round 1/3", "round 2/3", "limit"])
def killed_after(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_killed_and_resumed_gives_the_same_bits(world: World, whole: Path, tmp_path: Path, killed_after: str) -> None:
    out = tmp_path / "run"
    process = world.train(out)
    until(process, killed_after)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    world.run("resume", out)
    assert final(out) == final(whole)
    assert workers
    assert not any(Path(f"/proc/{pid}/cmdline").exists() and "worker_process" in
                   Path(f"/proc/{pid}/cmdline").read_text() for pid in workers)  # fmt: skip


def test_ctrl_c_leaves_a_run_that_goes_on(world: World, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = world.train(out)
    until(process, "round 1/3")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"wardround resume {out}" in err
    world.run("resume", out)
    assert final(out) == final(whole)


def failures(out: Path) -> list[tuple[str, str]]:
    events = [e for e in read_events(out / "events.jsonl") if e["event"] == "site_failed"]
    assert all("killed, or out of memory" in event["reason"] for event in events)
    return [(event["kind"], event["verb"]) for event in events]


def test_what_a_killed_worker_was_doing_is_done_once_more(world: World, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = world.train(out)
    until(process, "round 1/3")
    for worker in children(process.pid):
        os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert not failures(out)
    assert final(out) == final(whole)


def test_a_site_under_which_two_workers_die_is_missing(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = world.train(out)
    until(process, "round 1/3")
    while not (out / "events.jsonl").is_file() or not failures(out):
        assert process.poll() is None
        with suppress(ProcessLookupError, FileNotFoundError):  # threads and workers come and go
            for worker in children(process.pid):
                os.kill(worker, signal.SIGKILL)
    process.communicate(timeout=300)
    assert failures(out)[0] == ("error", "train")
    world.run("resume", out)


def test_resuming_a_finished_run_changes_nothing(world: World, whole: Path) -> None:
    before, log = final(whole), (whole / "events.jsonl").read_bytes()
    world.run("resume", whole)
    assert final(whole) == before
    assert (whole / "events.jsonl").read_bytes() == log


def test_evaluate_scores_every_case(world: World, whole: Path) -> None:
    out, _ = world.run("evaluate", whole, "--data", world.root / "site_B", "--json")
    scores = json.loads(out)
    assert scores["cases"] == 4
    assert len(scores["per_case"]) == 4
    per_case = [row["dice"] for row in scores["per_case"]]
    assert scores["mean_dice"] == pytest.approx(np.mean(per_case))
    assert scores["per_label"]["ball"]["dice"] == pytest.approx(np.mean(per_case))


def test_evaluate_takes_a_folder_of_sites_and_names_bad_cases(world: World, whole: Path, tmp_path: Path) -> None:
    for name in ("X", "Y"):
        write_case(tmp_path / name, "good", 5)
    (tmp_path / "Y" / "images" / "bad.nii.gz").write_bytes(b"")
    (tmp_path / "Y" / "masks" / "bad.nii.gz").write_bytes(b"")
    out, _ = world.run("evaluate", whole, "--data", tmp_path, "--json", code=1)
    scores = json.loads(out)
    assert set(scores["per_dataset"]) == {"X", "Y"}
    assert [(row["dataset"], row["case"], row["code"]) for row in scores["left_out"]] == [("Y", "bad", "unreadable")]


def test_predictions_lie_on_the_images_own_grid(world: World, whole: Path, tmp_path: Path) -> None:
    """Oblique, flipped and permuted axes, anisotropic voxels, header text that must not travel."""
    write_case(tmp_path, "p1", 3, size=(13, 11, 17))
    source = nib.load(tmp_path / "images" / "p1.nii.gz")
    affine = np.array([[0, -2.0, 0.1, 7], [1.2, 0, 0, -3], [0, 0.1, -0.8, 11], [0, 0, 0, 1]])
    image = nib.Nifti1Image(np.asarray(source.dataobj), affine)
    image.header["descrip"] = b"Jane Doe"
    nib.save(image, tmp_path / "images" / "p1.nii.gz")
    out, _ = world.run("predict", whole, tmp_path / "images" / "p1.nii.gz", "--out", tmp_path / "out")
    label = nib.load(out.strip())
    assert label.shape == image.shape
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    assert b"Jane" not in label.header["descrip"].tobytes()
    assert set(np.unique(np.asarray(label.dataobj))) <= {0, 1}


def test_predictions_never_overwrite_images(world: World, whole: Path, tmp_path: Path) -> None:
    write_case(tmp_path, "p1", 3)
    image = tmp_path / "images" / "p1.nii.gz"
    before = image.read_bytes()
    _, err = world.run("predict", whole, image, "--out", tmp_path / "images", code=2)
    assert "choose another folder" in err
    assert image.read_bytes() == before


def test_a_damaged_model_and_a_flat_image_are_named(world: World, whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(whole, copy)
    (copy / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:100])
    _, err = world.run("evaluate", copy, "--data", world.root / "site_A", code=4)
    assert "is damaged" in err
    write_case(tmp_path / "X", "flat", 5, size=(12, 16, 1))
    out, _ = world.run("evaluate", whole, "--data", tmp_path / "X", "--json", code=1)
    assert [row["code"] for row in json.loads(out)["left_out"]] == ["wrong_dimensions"]


def test_equal_runs_write_equal_model_files(world: World, whole: Path, tmp_path: Path) -> None:
    process = world.train(tmp_path / "run")
    process.communicate(timeout=300)
    for name in ("model.safetensors", "last.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def test_ctrl_c_while_baselines_run_ends_at_once(world: World, tmp_path: Path) -> None:
    """More baselines than workers, so that tasks are queued when it comes."""
    out = tmp_path / "run"
    process = world.start(
        "run", world.plan, "--sites", world.sites, "--out", out, "--baseline", "local", "--baseline", "pooled"
    )
    until(process, "pooled: round 1/3")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err


def test_a_folder_in_use_is_refused(world: World, whole: Path) -> None:
    _, err = world.run("run", world.plan, "--sites", world.sites, "--out", whole, code=3)
    assert "is not empty" in err
    assert "wardround resume" in err
