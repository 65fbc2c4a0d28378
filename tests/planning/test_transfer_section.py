"""The transfer section: float32 unless the plan says so, and faults with their valid choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tiny import make_plan, plan_dict
from wardround.core.encoding import PLAIN, Encoding
from wardround.core.errors import InputError
from wardround.planning.plan import load_plan
from wardround.planning.transfer import Transfer


def test_by_default_everything_travels_as_it_is() -> None:
    transfer = make_plan().transfer
    assert transfer.exact
    assert transfer.upward == transfer.downward == PLAIN
    assert transfer.upward.plain


@pytest.mark.parametrize(
    ("given", "up", "down", "exact"),
    [
        ({"up": "int8"}, Encoding(kind="int8", updates=True), PLAIN, True),
        ({"down": "bf16"}, Encoding(updates=True), Encoding(kind="bf16"), False),
        ({"zstd": 3}, PLAIN, PLAIN, False),
        (
            {"up": "bf16", "down": "int8", "block": 256},
            Encoding(kind="bf16", block=256, updates=True),
            Encoding(kind="int8", block=256),
            False,
        ),
    ],
    ids=str,
)
def test_what_a_plan_says(given: dict[str, Any], up: Encoding, down: Encoding, exact: bool) -> None:
    """A rounded model or contribution makes sites send changes; compression alone does not."""
    transfer = make_plan(transfer=given).transfer
    assert (transfer.upward, transfer.downward, transfer.exact) == (up, down, exact)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"up": "int4"}, "bf16"),
        ({"down": True}, "fp32"),
        ({"block": 63}, "64"),
        ({"block": 65537}, "65536"),
        ({"zstd": 20}, "19"),
        ({"zstd": True}, "zstd"),
        ({"level": 3}, "level"),
    ],
    ids=str,
)
def test_faults_are_told(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    plan = plan_dict(transfer=given)
    plan["training"]["optimiser"]["name"] = "adamw"
    file.write_text(yaml.safe_dump(plan))
    with pytest.raises(InputError) as caught:
        load_plan(file)
    assert "transfer" in str(caught.value)
    assert words in str(caught.value)


def test_the_section_is_part_of_the_digest() -> None:
    assert make_plan(transfer={"up": "int8"}).digest() != make_plan().digest()
    for nothing in ({}, Transfer().model_dump(), {"zstd": 0}):
        assert make_plan(transfer=nothing).digest() == make_plan().digest()
