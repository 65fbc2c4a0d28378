"""A plan's transfer in plain words: in which encoding models come to a site and contributions leave it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround.faces.report.collect import at

Json = Mapping[str, Any]


def received_words(plan: Json) -> str:
    """What a site receives each round."""
    kind = at(plan, "transfer.down", "fp32")
    if kind == "fp32":
        return "Every site receives the current model."
    return (
        f"Every site receives the current model, its large layers {_rounded(plan, kind)}; the coordinator adds what "
        "the sites learned to the model as it was before that."
    )


def contribution_words(plan: Json) -> str:
    """What of the weights leaves a site each round."""
    updates = any(at(plan, f"transfer.{way}", "fp32") != "fp32" for way in ("up", "down"))
    return "what training changed in the weights" if updates else "the trained weights"


def encoding_words(plan: Json) -> str:
    """How they are written before they leave; empty: as they are."""
    kind, level = at(plan, "transfer.up", "fp32"), at(plan, "transfer.zstd", False)
    sentences = []
    if kind != "fp32":
        sentences.append(
            f"They leave encoded: large layers are {_rounded(plan, kind)}, normalisation layers, biases and small "
            "layers are sent as they are. What rounding takes stays at the site and is added to what it sends the next "
            "time. Rounding saves bytes; it protects nothing."
        )
    if level:
        sentences.append(f"The file is compressed (zstd, level {level}), which loses nothing and makes it smaller.")
    return " ".join(sentences)


def _rounded(plan: Json, kind: str) -> str:
    if kind == "int8":
        return f"rounded to 8 bits a number (one scale per {at(plan, 'transfer.block', 1024)} numbers)"
    return "rounded to 16 bits a number (bfloat16)"
