"""A person who approves reads in which encoding models come and what leaves."""

from __future__ import annotations

from typing import Any

import pytest
import report_fixtures as made

from wardround.faces.report.words import leaves, plan_words

PLAIN = ["Every site receives the current model.", "the trained weights (about 3.5\u00a0MB)"]
INT8 = "rounded to 8 bits a number (one scale per 512 numbers)"
WORDS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, PLAIN, ["rounded", "compressed"]),
    ({"up": "fp32", "down": "fp32", "zstd": False}, PLAIN, ["rounded", "compressed"]),
    ({"zstd": 3}, [*PLAIN, "compressed (zstd, level 3), which loses nothing and makes it smaller"], ["rounded"]),
    ({"up": "int8", "block": 512}, [PLAIN[0], "what training changed in the weights (about", INT8,
                                    "What rounding takes stays at the site"], ["compressed"]),
    ({"down": "bf16"}, ["what training changed in the weights", "rounded to 16 bits a number (bfloat16); the"],
     ["leave encoded"]),
    ({"up": "bf16", "down": "int8", "block": 512, "zstd": 1},
     ["leave encoded: large layers are rounded to 16 bits a number", INT8, "zstd, level 1"], []),
]  # fmt: skip


@pytest.mark.parametrize(("transfer", "said", "unsaid"), WORDS, ids=lambda value: str(value)[:40])
def test_the_transfer_is_said(transfer: dict[str, Any], said: list[str], unsaid: list[str]) -> None:
    plan = {**made.PLAN, "transfer": transfer}
    topics = {topic.title: topic.text for topic in plan_words(plan, 4, 3_482_112)}
    text = topics["What happens each round"] + topics["What leaves a site"]
    for words in said:
        assert words in text
    for words in unsaid:
        assert words not in text


def test_a_plan_without_the_section_is_said_as_before() -> None:
    assert leaves(made.PLAN) == leaves({**made.PLAN, "transfer": {}})
