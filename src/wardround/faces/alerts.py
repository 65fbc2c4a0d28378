"""Alerts about a site's contribution in words, the same on the terminal and in the report."""

from __future__ import annotations

from collections.abc import Callable

_WORDS: dict[str, Callable[[str, str], str]] = {
    "clipped": lambda value, limit: f"its update was shortened: norm {value}, at most {limit} among these sites",
    "rejected": lambda *_: "its contribution did not pass the checks and was left out",
    "replayed": lambda *_: "it sent an earlier contribution again, which was left out",
    "unmoved": lambda *_: "it sent back the model that it had received",
    "heavy": lambda value, limit: f"its weight {value} is over {limit}, far more than the other sites'",
    "contrary": lambda value, _: (
        f"its update points against the others' (cosine {value}): are its images outlined in another way, "
        "or are masks or labels wrong?"
    ),
}


def alert_words(kind: str, value: float | None, limit: float | None) -> str:
    """What was conspicuous, as the end of a sentence. A kind that is not known is given as it is."""
    words = _WORDS.get(kind)
    return words(_short(value), _short(limit)) if words else kind


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
