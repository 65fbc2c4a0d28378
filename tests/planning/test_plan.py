from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import make_plan, plan_dict
from wardround.core.errors import InputError
from wardround.planning.plan import Plan, load_plan
from wardround.planning.sites import load_sites

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = [*sorted((ROOT / "examples").glob("*/plan.yaml")), ROOT / "src/wardround/faces/demo_plan.yaml"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.parent.name)
def test_examples_survive_every_form(path: Path, tmp_path: Path) -> None:
    plan = load_plan(path)
    as_json = plan.canonical()
    assert Plan.model_validate_json(as_json) == plan
    assert Plan.model_validate_json(as_json).canonical() == as_json
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(json.loads(as_json)))
    assert load_plan(again).digest() == plan.digest()


def test_the_digest_is_of_the_meaning_not_the_text(tmp_path: Path) -> None:
    plan = plan_dict()
    plan["training"]["optimiser"]["name"] = "adamw"
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "b.yaml").write_text("# a comment\n" + json.dumps(plan, indent=3))
    assert load_plan(tmp_path / "a.yaml").digest() == load_plan(tmp_path / "b.yaml").digest()
    assert make_plan(seed=1).digest() != make_plan().digest()


WRONG = """\
wardround: 1
task:
  dimensions: 3
  modalities: [T1]
  labels: {ball: 1}
network:
  name: unett
training:
  steps: 0
  patch: [12, 16, 12]
  learning_rate: 0.1
strategy: {name: fedprx}
"""


def test_every_fault_is_named_with_its_line_and_the_choices(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(WRONG)
    with pytest.raises(InputError) as caught:
        load_plan(tmp_path / "plan.yaml")
    lines = {fault.field: fault.line for fault in caught.value.faults}
    assert lines["training.steps"] == 9
    assert lines["training.learning_rate"] == 11
    text = str(caught.value)
    assert "unet++" in text
    assert "attention_unet" in text
    assert "fedprox" in text
    assert "fedavg" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"patch": [12, 16]}}, "has 2 sizes, a 3D task needs 3"),
        ({"training": {"patch": [11, 16, 12]}}, r"nearest is \[12, 16, 12\]"),
        ({"network": {"name": "unet", "features": [4, 8], "strides": [[2, 2]]}}, "needs 3 numbers"),
        ({"network": {"name": "unet", "features": [4, 8, 8], "strides": [[12, 16, 12]] * 2}}, "strides"),
        ({"evaluation": {"folds": 3, "fold": 3}}, "fold 3 does not exist"),
        ({"training": {"patch": [12, 16, 12], "loss": {"dice": 0, "cross_entropy": 0}}}, "cannot both be 0"),
        ({"training": {"patch": [12, 16, 12], "augmentation": {"flip_axes": [3]}}}, "flip_axes"),
        ({"task": {"dimensions": 3, "modalities": ["a"], "labels": {"x": 1, "y": 1}}}, "same value"),
        ({"task": {"dimensions": 3, "modalities": ["a", "A"], "labels": {"x": 1}}}, "named twice"),
        ({"task": {"dimensions": 3, "modalities": ["a"], "labels": {"x": 1}, "lesions": ["z"]}}, "not among"),
        ({"preprocessing": {"spacing": [1, 0, 1]}}, "spacing"),
        ({"training": {"patch": [12, 16, 12], "augmentation": {"scale_range": [3, -1]}}}, "a range runs from"),
    ],
)
def test_contradictions_are_refused_with_the_reason(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(**changes)


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=5), max_size=4))
@settings(max_examples=100, deadline=None)
def test_no_unknown_field_passes(extra: dict[str, object]) -> None:
    plan = plan_dict()
    plan["training"]["optimiser"]["name"] = "adamw"
    known = {k: v for k, v in extra.items() if k not in Plan.model_fields}
    if known:
        with pytest.raises(ValueError, match="Extra inputs"):
            Plan.model_validate({**plan, **known})


def test_neither_a_plan_nor_the_coordinator_imports_torch() -> None:
    code = (
        "import sys; import wardround.faces.cli.app; import wardround.coordinator.rounds; "
        "import wardround.runtimes.assemble; from pathlib import Path; "
        "from wardround.planning.plan import load_plan; "
        f"load_plan(Path({str(EXAMPLES[0])!r})); "
        "print(sorted(m for m in sys.modules if m in ('torch', 'monai', 'nilearn')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_contradictions_are_listed_each_with_its_line(tmp_path: Path) -> None:
    text = WRONG.replace("unett", "unet").replace("steps: 0", "steps: 1").replace("[12, 16, 12]", "[12, 16]")
    text = text.replace("  learning_rate: 0.1", "  loss: {dice: 0, cross_entropy: 0}").replace("fedprx", "fedprox")
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_plan(tmp_path / "plan.yaml")
    assert {(fault.field, fault.line) for fault in caught.value.faults} == {
        ("training.patch", 10),
        ("training.loss", 11),
    }


def test_two_sites_cannot_share_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "sites.yaml").write_text("sites: [{name: A, folder: a}, {name: B, folder: ./a}]")
    with pytest.raises(InputError, match="site B has the same folder as site A"):
        load_sites(tmp_path / "sites.yaml")


def test_sites_are_found_under_the_root_or_in_the_shared_folder(tmp_path: Path) -> None:
    (tmp_path / "set" / "site_A").mkdir(parents=True)
    file = tmp_path / "sites.yaml"
    file.write_text("sites: [{name: A, folder: set/site_A}]")
    for root in (None, tmp_path, tmp_path / "set"):
        assert load_sites(file, root)[1] == {"A": tmp_path / "set" / "site_A"}


def test_missing_folders_and_double_names_are_all_listed(tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text("sites: [{name: A, folder: a}, {name: B, folder: b}]")
    with pytest.raises(InputError, match=r"(?s)site A: .*site B: "):
        load_sites(file)
    file.write_text("sites: [{name: A, folder: a}, {name: A, folder: b}]")
    with pytest.raises(InputError, match="named twice: A"):
        load_sites(file)
