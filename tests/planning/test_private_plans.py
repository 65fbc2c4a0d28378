"""Private tensors in a plan: what names what, what makes no sense, and all of it without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import make_plan, write_plan
from wardround.core.errors import InputError
from wardround.networks.catalog import AttentionUNet, UNet
from wardround.networks.names import tensor_roles
from wardround.planning.personal import Private
from wardround.planning.plan import load_plan

BATCH = {"name": "unet", "features": [4, 8], "norm": "batch"}


def private(*tensors: str, unseen: str = "initial", **more: Any) -> Any:
    return make_plan(private={"tensors": list(tensors), "unseen": unseen}, **more)


def test_roles_and_patterns_name_tensors_in_the_networks_order() -> None:
    roles = tensor_roles(UNet(features=(4, 8), norm="batch"))
    of = {role: [name for name, its in roles.items() if its == role] for role in set(roles.values())}
    for role, names in of.items():
        if role != "body":
            assert list(private(role, network=BATCH).private_tensors) == names
    both = private("norm", network=BATCH).private_tensors
    assert set(both) == {*of["norm.affine"], *of["norm.statistics"]}
    assert [name for name in roles if name in both] == list(both)
    assert private("*.norm1.weight", "heads.0.bias").private_tensors == (
        "encoder.0.norm1.weight", "encoder.1.norm1.weight", "heads.0.bias", "decoder.0.block.norm1.weight"
    )  # fmt: skip
    assert private("encoder.[01].conv1.*").private_tensors == ("encoder.0.conv1.weight", "encoder.1.conv1.weight")
    assert make_plan().private_tensors == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"private": {"tensors": ["nrom.affine"]}}, r"'nrom.affine' names no tensor .*did you mean 'norm.affine'\?"),
        ({"private": {"tensors": ["encoder.7.*"]}}, r"'encoder.7.\*' names no tensor .*norm, norm.affine"),
        ({"private": {"tensors": ["norm.statistics"]}}, "instance norm has no running statistics"),
        ({"private": {"tensors": ["*"]}}, "nothing would be shared.*--baseline local"),
        ({"private": {"tensors": ["norm", "body", "head"]}}, "nothing would be shared"),
        ({"private": {"tensors": ["encoder.0.*"], "unseen": "mean"}}, r"mean is for norms and heads.*encoder.0.conv1"),
        ({"private": {"tensors": []}}, "at least 1"),
        ({"private": {"tensors": ["a b"]}}, "pattern"),
        ({"private": {"tensors": ["head"]}, "strategy": {"name": "ditto"}}, "private: ditto: at each site it trains"),
        ({"finetune": {"steps": 3}, "strategy": {"name": "ditto"}}, "finetune: ditto: .*nothing more to fine-tune"),
        ({"finetune": {"steps": 0}}, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_plan(**changes)


def test_all_faults_of_the_section_are_named_with_their_line(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "plan.yaml")
    text = path.read_text().replace("private: null", "private:\n  tensors: [nothing.here, norm.statistics]")
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_plan(path)
    (fault,) = caught.value.faults
    assert (fault.field, text.splitlines()[(fault.line or 0) - 1].strip()[:8]) == ("private.tensors", "tensors:")
    assert "nothing.here" in fault.message
    assert "running statistics" in fault.message


def test_mean_is_allowed_for_norms_and_heads() -> None:
    assert private("norm.affine", "head", unseen="mean").private is not None


def test_what_ends_with_a_model_of_the_sites_own() -> None:
    assert not make_plan().personal
    assert private("head").personal
    assert make_plan(finetune={}).personal
    assert make_plan(strategy={"name": "ditto"}).personal


def test_fine_tuning_is_slower_by_default() -> None:
    plan = make_plan(finetune={})
    assert plan.finetune is not None
    assert plan.finetune.rate_for(0.01) == pytest.approx(0.001)
    again = make_plan(finetune={"rate": 0.5}).finetune
    assert again is not None
    assert again.rate_for(0.01) == 0.5


def test_plan_check_lists_the_tensors_without_torch(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "plan.yaml", private={"tensors": ["head", "norm.affine"], "unseen": "mean"})
    code = (
        "import sys; from wardround.faces.cli.app import app\n"
        f"try: app(['plan', 'check', {str(path)!r}])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "private 14 of 22 tensors never leave a site" in done.stdout
    assert "        heads.0.bias\n" in done.stdout
    assert done.stdout.rstrip().endswith("False")


@given(st.text(alphabet="abenorcdhi.*?[]!-0123456789_", min_size=1, max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_pattern_names_tensors_or_is_a_fault(pattern: str) -> None:
    network = AttentionUNet(features=(4, 8, 8))
    section = Private(tensors=(pattern,))
    names = section.names(network)
    assert set(names) <= set(tensor_roles(network))
    assert bool(names) != any("names no tensor" in f or "running statistics" in f for f in section.faults(network))
