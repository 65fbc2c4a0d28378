"""Small multiples of one quantity by site: a dot for the mean, a bar for the spread, one scale for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.core.stats import Moments
from wardround.faces.report import svg
from wardround.faces.report.shown import decimal, shortened

LEFT, RIGHT, STEP, TOP = 100.0, 310.0, 24.0, 8.0
FAR = 20  # means further apart than so many times need a logarithmic scale
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class _Axis:
    """A horizontal scale, linear or of powers of ten, and its ticks in the scale's own units."""

    scale: svg.Scale
    marks: Sequence[float]
    powers: bool

    def __call__(self, value: float) -> float:
        """The place of ``value``; a logarithmic scale ends at its left edge for what is too small or negative."""
        if not self.powers:
            return self.scale(value)
        return self.scale(max(self.scale.low, math.log10(value)) if value > 0 else self.scale.low)

    def words(self, mark: float) -> str:
        """What is written at a tick."""
        if not self.powers:
            return svg.tick_text(mark, self.marks)
        return (
            f"{10**mark:,.4g}".replace(",", "\u202f") if -3 <= mark <= 3 else f"10{str(int(mark)).translate(_RAISED)}"
        )


def spans(title: str, unit: str, rows: Sequence[tuple[str, Moments]]) -> Markup | None:
    """Mean and one standard deviation to each side, a row a site; None where nothing is known."""
    known = [(name, m.mean, m.std or 0.0) for name, m in rows if m.mean is not None]
    if not known:
        return None
    x = _axis([(mean, std) for _, mean, std in known])
    bottom = TOP + STEP * len(rows)
    parts = [svg.line(x.scale(v), TOP, x.scale(v), bottom, "grid") for v in x.marks]
    parts += [svg.text(x.scale(v), bottom + 17, x.words(v), anchor="middle") for v in x.marks]
    if x.powers:
        parts.append(svg.text(0, bottom + 17, "log scale", "axis-name"))
    for i, (name, moments) in enumerate(rows):
        parts.append(_row(name, moments, unit, x, TOP + STEP * (i + 0.5)))
    label = f"{title}: " + "; ".join(f"{n} {decimal(m, 2)} plus or minus {decimal(s, 2)} {unit}" for n, m, s in known)
    return svg.picture(320, bottom + 24, label, *parts, class_="chart small")


def _axis(values: Sequence[tuple[float, float]]) -> _Axis:
    means = [mean for mean, _ in values]
    if min(means) > 0 and max(means) > FAR * min(means):
        low = math.log10(min(max(mean - std, mean / 2) for mean, std in values)) - 0.1
        high = math.log10(max(mean + std for mean, std in values)) + 0.1
        decades = range(math.ceil(low), math.floor(high) + 1)
        return _Axis(svg.Scale(low, high, LEFT, RIGHT), decades[:: math.ceil(len(decades) / 4)], True)
    low, high = min(mean - std for mean, std in values), max(mean + std for mean, std in values)
    span = max((high - low) * 1.16, abs(high + low) / 8, 1e-9)  # small differences must look small
    scale = svg.Scale((low + high - span) / 2, (low + high + span) / 2, LEFT, RIGHT)
    few = svg.ticks(scale.low, scale.high, 3)
    return _Axis(scale, few if len(few) > 1 else svg.ticks(scale.low, scale.high, 5), False)


def _row(name: str, moments: Moments, unit: str, x: _Axis, y: float) -> Markup:
    called = svg.text(0, y + 4, shortened(name, 12), "name")
    mean, std = moments.mean, moments.std or 0.0
    if mean is None:
        return called + svg.text(LEFT + 4, y + 4, "unknown", "tick")
    words = f"{name}: {decimal(mean, 2)} ± {decimal(std, 2)} {unit} ({moments.n} cases)".replace("  ", " ")
    bar = svg.line(x(mean - std), y, x(mean + std), y, "whisker")
    return called + svg.el("g", svg.el("title", words), bar, svg.marker(0, x(mean), y, 4.5, "dot plain"))
