"""``wardround check`` as a person and as a program uses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from dataset_folders import cube, make_site, save
from typer.testing import CliRunner, Result

from wardround.faces.cli.check import check

APP = typer.Typer()
APP.command()(check)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments])


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return make_site(tmp_path / "site")


@pytest.fixture
def broken(site: Path) -> Path:
    (site / "images/p1_T1.nii.gz").write_bytes(b"")
    save(site / "masks/p2_mask.nii.gz", cube(value=0))
    return site


def test_a_clean_site(site: Path) -> None:
    result = run(site)
    assert result.exit_code == 0
    for word in ("images + masks", "4, 4 usable", "FLAIR, T1", "1 (4 cases, 192 voxels)", "unknown", "Every case"):
        assert word in result.stdout


def test_findings_are_listed_by_case(broken: Path) -> None:
    result = run(broken)
    assert result.exit_code == 1
    for word in ("1 of 4 cases cannot be used", "p1", "unreadable", "p2", "empty_mask"):
        assert word in result.stdout


def test_json_is_all_that_is_on_stdout(broken: Path) -> None:
    result = run(broken, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["unusable"] == ["p1"]
    assert report["counts"] == {"empty_mask": 1, "unreadable": 1}
    assert report["spacing"] == [[1, 1], [1, 1], [2, 2]]
    assert report["subjects"] is None
    assert [finding["case"] for finding in report["findings"]] == ["p1", "p2"]


def test_previews_of_usable_cases(broken: Path, tmp_path: Path) -> None:
    result = run(broken, "--preview", tmp_path / "new" / "pictures")
    assert result.exit_code == 1
    assert sorted(path.name for path in (tmp_path / "new/pictures").iterdir()) == ["p0.png", "p2.png", "p3.png"]
    (broken / "dataset.yaml").touch()
    assert run(broken, "--preview", broken / "dataset.yaml" / "x").exit_code == 3


def test_a_plan_says_what_is_expected(site: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(
        "wardround: 1\ntask: {dimensions: 3, modalities: [T1, PD], labels: {lesion: 1}}\n"
        "training: {patch: [32, 32, 32]}\n"
    )
    result = run(site, "--plan", plan, "--json")
    assert result.exit_code == 1, result.stderr
    assert json.loads(result.stdout)["counts"] == {"missing_modality": 4}


def test_documents_that_are_wrong(site: Path, tmp_path: Path) -> None:
    assert run(tmp_path / "absent").exit_code == 1
    (site / "dataset.yaml").write_text("labels: 3\n")
    result = run(site)
    assert result.exit_code == 2
    assert "line 1: labels" in result.stderr
    assert result.stdout == ""


def test_unlabelled_cases(site: Path) -> None:
    for mask in (site / "masks").iterdir():
        mask.unlink()
    assert run(site).exit_code == 1
    assert run(site, "--unlabelled").exit_code == 0


def test_names_cannot_command_the_terminal(site: Path) -> None:
    save(site / "masks" / "p\x1b[31m[red]_mask.nii.gz", cube())
    result = run(site)
    assert result.exit_code == 0
    assert "\x1b[31m" not in result.stdout
    assert "[red]" in result.stdout
