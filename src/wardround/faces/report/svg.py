"""SVG by hand: elements with escaped text, scales and ticks. Colours are CSS classes, for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

STYLES = 8  # site colours in the style sheet: classes s0 to s7, and sx for the many others
DASHES = ("", "7 4", "2 3", "10 3 2 3", "5 2", "1 3", "12 4", "6 3 1 3 1 3")
_SHAPES = ("circle", "square", "triangle", "diamond", "cross", "circle", "square", "triangle")


@dataclass(frozen=True)
class Scale:
    """A linear map from ``[low, high]`` to ``[start, end]`` in user units; a point range maps to its middle."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of ``value``."""
        if self.high <= self.low:
            return (self.start + self.end) / 2
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def el(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element. Names lose a trailing ``_`` and other ``_`` become ``-``; None leaves an attribute out."""
    written = Markup("").join(
        Markup(' {}="{}"').format(name.rstrip("_").replace("_", "-"), _value(value))
        for name, value in attributes.items()
        if value is not None
    )
    return Markup("<{}{}>{}</{}>").format(tag, written, Markup("").join(map(escape, children)), tag)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        raise ValueError("a chart coordinate is not finite")
    return f"{value:.1f}".rstrip("0").rstrip(".")


def text(x: float, y: float, words: str, class_: str = "tick", anchor: str = "start") -> Markup:
    """A line of text."""
    return el("text", words, x=x, y=y, class_=class_, text_anchor=None if anchor == "start" else anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def picture(width: float, height: float, label: str, *children: str, class_: str = "") -> Markup:
    """A whole drawing; ``label`` is what a screen reader says. The style sheet may stretch it."""
    size = Markup('width="{0}" height="{1}" viewBox="0 0 {0} {1}"').format(_value(width), _value(height))
    return Markup('<svg class="{}" {} role="img" aria-label="{}">{}</svg>').format(
        class_, size, label, Markup("").join(children)
    )


def marker(style: int, x: float, y: float, size: float, class_: str) -> Markup:
    """A point in the shape of ``style``, about ``2 * size`` wide."""
    shape = _SHAPES[style % len(_SHAPES)]
    if shape == "circle":
        return el("circle", cx=x, cy=y, r=size, class_=class_)
    r = size * 1.15
    paths = {
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r:.1f}v{2 * r:.1f}h{-2 * r:.1f}z",
        "triangle": f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {2.3 * r:.1f}h{-2.6 * r:.1f}z",
        "diamond": f"M{x:.1f} {y - 1.4 * r:.1f}l{1.4 * r:.1f} {1.4 * r:.1f}l{-1.4 * r:.1f} {1.4 * r:.1f}"
        f"l{-1.4 * r:.1f} {-1.4 * r:.1f}z",
        "cross": f"M{x - r:.1f} {y - r / 3:.1f}h{2 * r / 3:.1f}v{-2 * r / 3:.1f}h{2 * r / 3:.1f}v{2 * r / 3:.1f}"
        f"h{2 * r / 3:.1f}v{2 * r / 3:.1f}h{-2 * r / 3:.1f}v{2 * r / 3:.1f}h{-2 * r / 3:.1f}v{-2 * r / 3:.1f}"
        f"h{-2 * r / 3:.1f}z",
    }
    return el("path", d=paths[shape], class_=class_)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers in ``[low, high]``, about ``wanted`` of them."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float, marks: Sequence[float]) -> str:
    """A tick's number, with as many decimals as its neighbours need."""
    step = min((b - a for a, b in pairwise(marks)), default=abs(value) or 1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if round(step * 10**digits, 6) % 1:  # steps of 0.25
        digits += 1
    return f"{value:,.{digits}f}".replace("-", "−").replace(",", "\u202f")


def whole_ticks(low: int, high: int, wanted: int = 14) -> list[int]:
    """Whole numbers for an axis of rounds."""
    step = max(1, math.ceil((high - low + 1) / wanted))
    step = next((s for s in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500) if s >= step), step)
    return [n for n in range(low, high + 1) if n % step == 0] or [low]


def spread(places: Sequence[float], apart: float, low: float, high: float) -> list[float]:
    """Label positions near ``places`` (any order), at least ``apart`` from each other, kept in ``[low, high]``.

    Where they cannot all fit they are spaced evenly.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    apart = min(apart, (high - low) / max(len(places) - 1, 1))
    moved = list(places)
    floor = low
    for i in order:
        moved[i] = max(places[i], floor)
        floor = moved[i] + apart
    ceiling = high
    for i in reversed(order):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - apart
    return moved
