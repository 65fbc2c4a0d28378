"""Wrong input, broken images, full disks: a clear message, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tiny import write_case, write_plan, write_site, write_sites
from wardround.core.rundir import read_events


def wardround(root: Path, *args: object, code: int, limit: int | None = None) -> tuple[str, str]:
    def bound() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "wardround", *map(str, args)],
        env={**os.environ, "WARDROUND_STORE": str(root / "store"), "COLUMNS": "300"},
        cwd=root,
        capture_output=True,
        text=True,
        preexec_fn=bound,
        timeout=300,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_a_wrong_plan_names_every_fault(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("wardround: 1\ntask:\n  dimensions: 4\nnetwork: {name: unet3}\ntraining: {}\n")
    _, err = wardround(tmp_path, "plan", "check", "plan.yaml", code=2)
    for words in ("line 3: task.dimensions", "task.modalities", "task.labels", "training.patch", "attention_unet"):
        assert words in err


def test_a_plan_that_is_not_there(tmp_path: Path) -> None:
    assert "cannot be read" in wardround(tmp_path, "plan", "check", "none.yaml", code=2)[1]


def test_the_schema_is_a_schema(tmp_path: Path) -> None:
    out, _ = wardround(tmp_path, "plan", "schema", code=0)
    assert "training" in json.loads(out)["properties"]


def test_unknown_baselines_and_missing_folders(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path), write_plan(tmp_path / "plan.yaml")
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--baseline", "localy", "--out", "o", code=2)
    assert "choose among pooled, local, local:A, local:B" in err
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--data-root", tmp_path / "no", "--out", "o", code=2)
    assert "site A" in err
    assert "site B" in err
    assert not (tmp_path / "o").exists()


def test_an_output_folder_that_cannot_be(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path), write_plan(tmp_path / "plan.yaml")
    (tmp_path / "file").write_text("")
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "file" / "run", code=3)
    assert "cannot use" in err


def test_commands_on_what_is_no_run(tmp_path: Path) -> None:
    for command in (["resume", tmp_path], ["report", tmp_path], ["evaluate", tmp_path, "--data", tmp_path]):
        _, err = wardround(tmp_path, *command, code=4)
        assert "run directory" in err


def break_cases(folder: Path) -> None:
    """One case of each kind of damage, with a name that must not leave the site."""
    for name in ("Doe_empty", "Doe_cut", "Doe_nan", "Doe_shape", "Doe_flat"):
        write_case(folder, name, 7)
    images = folder / "images"
    (images / "Doe_empty.nii.gz").write_bytes(b"")
    whole = (images / "Doe_cut.nii.gz").read_bytes()
    (images / "Doe_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    nan = np.full((12, 16, 12), np.nan, np.float32)
    nib.save(nib.Nifti1Image(nan, np.diag([1, 1, 1.5, 1])), images / "Doe_nan.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((5, 5, 5), np.float32), np.eye(4)), images / "Doe_shape.nii.gz")
    nib.save(nib.Nifti1Image(np.ones((12, 16), np.float32), np.eye(4)), images / "Doe_flat.nii.gz")


def test_broken_images_are_left_out_and_never_fatal(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path), write_plan(tmp_path / "plan.yaml", rounds={"limit": 1})
    break_cases(tmp_path / "site_A")
    out, _ = wardround(tmp_path, "check", tmp_path / "site_A", "--plan", plan, code=1)
    for name in ("Doe_empty", "Doe_cut", "Doe_nan", "Doe_shape", "Doe_flat"):
        assert name in out
    wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "run", code=0)
    described = [e for e in read_events(tmp_path / "run" / "events.jsonl") if e["event"] == "site_described"]
    assert sum(described[0]["summary"]["left_out"].values()) >= 5
    assert sum(described[0]["summary"]["cases"].values()) == 4
    leaving = [p for p in (tmp_path / "run").rglob("*") if p.is_file() and "sites" not in p.relative_to(tmp_path).parts]
    assert leaving
    assert not [p for p in leaving if b"Doe_" in p.read_bytes()]


def test_a_site_with_too_few_cases_is_missing_and_named(tmp_path: Path) -> None:
    sites = write_sites(tmp_path, ("A", "B", "C"))
    for part in ("images", "masks"):
        for path in sorted((tmp_path / "site_C" / part).iterdir())[2:]:
            path.unlink()
    plan = write_plan(tmp_path / "plan.yaml", rounds={"limit": 1, "quorum": 2})
    baselines = ("--baseline", "local", "--baseline", "pooled")
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "run", *baselines, code=0)
    assert "C is missing (error): only 2 usable subjects" in err
    assert {path.name for path in (tmp_path / "run" / "baselines").iterdir()} == {"pooled", "local-A", "local-B"}
    for arm in (tmp_path / "run", tmp_path / "run" / "baselines" / "pooled"):
        assert set(json.loads((arm / "scores.json").read_text())["sites"]) == {"A", "B"}


def test_below_the_quorum_the_run_says_so_and_goes_on_when_mended(tmp_path: Path) -> None:
    sites = write_sites(tmp_path)
    broken = sorted((tmp_path / "site_B" / "images").iterdir())
    kept = [(path, path.read_bytes()) for path in broken]
    for path in broken:
        path.write_bytes(b"")
    plan = write_plan(tmp_path / "plan.yaml", rounds={"limit": 1, "quorum": 2})
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "run", code=4)
    assert "1 of 2 sites answered, 2 are needed" in err
    assert "4 unreadable" in err
    for path, data in kept:
        path.write_bytes(data)
    wardround(tmp_path, "resume", tmp_path / "run", code=0)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_a_full_disk_stops_the_run_and_it_goes_on_with_space(tmp_path: Path) -> None:
    """No file may grow beyond 30 kB: the store fits, the model (60 kB) does not."""
    sites = write_sites(tmp_path, ("A",))
    network = {"name": "unet", "features": [8, 16]}
    plan = write_plan(tmp_path / "plan.yaml", rounds={"limit": 1}, network=network)
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "run", code=4, limit=30_000)
    assert "the site's disk cannot be written" in err
    wardround(tmp_path, "resume", tmp_path / "run", code=0)
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_2d_pictures_go_the_whole_way(tmp_path: Path) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for number in range(4):
        label = np.zeros((24, 32), np.uint8)
        label[5:15, 5 + number : 20] = 255
        image = (random.uniform(0, 100, (24, 32, 3)) + label[..., None] / 2).astype(np.uint8)
        for part, array in (("images", image), ("masks", label)):
            (tmp_path / "site" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(tmp_path / "site" / part / f"eye_{number}.png")
    (tmp_path / "sites.yaml").write_text("sites: [{name: S, folder: site}]\nworkers: 1")
    task = {"dimensions": 2, "modalities": ["red", "green", "blue"], "labels": {"vessel": 255}}
    training = {"steps": 2, "patch": [16, 16], "precision": "fp32"}
    plan = write_plan(tmp_path / "plan.yaml", task=task, training=training, rounds={"limit": 1})
    wardround(tmp_path, "run", plan, "--sites", "sites.yaml", "--out", "run", code=0)
    out, _ = wardround(tmp_path, "predict", "run", "site/images", "--out", "labels", code=0)
    assert len(out.split()) == 4
    values = np.unique(np.asarray(Image.open(tmp_path / out.split()[0])))
    assert set(values) <= {0, 255}
    assert np.asarray(Image.open(tmp_path / out.split()[0])).shape == (24, 32)


def test_a_quorum_above_the_number_of_sites_is_refused(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path), write_plan(tmp_path / "plan.yaml", rounds={"limit": 1, "quorum": 3})
    _, err = wardround(tmp_path, "run", plan, "--sites", sites, "--out", "run", code=2)
    assert "asks for 3 sites, the sites file names 2" in err
    assert not (tmp_path / "run").exists()
    wardround(tmp_path, "run", plan, "--sites", sites, "--out", "run", "--seed", 2**31 + 1, code=2)


def test_purge_lists_and_removes_the_stores(tmp_path: Path) -> None:
    sites, plan = write_sites(tmp_path, ("A",)), write_plan(tmp_path / "plan.yaml", rounds={"limit": 1})
    wardround(tmp_path, "run", plan, "--sites", sites, "--out", tmp_path / "run", code=0)
    out, _ = wardround(tmp_path, "purge", code=0)
    assert "4 cases of site_A" in out
    assert "removed" in wardround(tmp_path, "purge", "--all", code=0)[0]
    assert "no stores" in wardround(tmp_path, "purge", code=0)[0]
    assert write_site(tmp_path / "site_A").is_dir()
    assert "is not listed" in wardround(tmp_path, "purge", "nothing", code=2)[1]


COMMANDS = ["demo", "check", "run", "resume", "evaluate", "predict", "adapt", "report", "purge"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(tmp_path: Path, command: str) -> None:
    out, _ = wardround(tmp_path, command, "--help", code=0)
    assert "Example" in out
