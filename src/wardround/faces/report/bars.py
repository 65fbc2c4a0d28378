"""Charts of rows and columns: arms by site, histograms, time per round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.core.stats import Histogram
from wardround.faces.report import svg
from wardround.faces.report.shown import decimal, duration, shortened

WIDTH = 960.0
_ARMS = (("local", 0), ("pooled", 3), ("own", 0))  # class and marker shape


@dataclass(frozen=True)
class Dots:
    """One row of the arms' chart: a site's Dice under local-only, pooled and this run's model."""

    name: str
    values: tuple[float | None, float | None, float | None]


def dots(rows: Sequence[Dots], names: tuple[str, str, str]) -> Markup | None:
    """The arms side by side, one row a site, Dice from left to right; None where there is no value."""
    values = [v for row in rows for v in row.values if v is not None]
    if not values:
        return None
    low = max(0.0, math.floor((min(values) - 0.04) * 10) / 10)
    high = min(1.0, math.ceil((max(values) + 0.02) * 10) / 10)
    x = svg.Scale(low, high, 150, WIDTH - 84)
    top, step = 34.0, 34.0
    bottom = top + step * len(rows)
    marks = svg.ticks(low, high, 5)
    parts = [svg.line(x(v), top - 6, x(v), bottom, "grid") for v in marks]
    parts += [svg.text(x(v), bottom + 18, svg.tick_text(v, marks), anchor="middle") for v in marks]
    parts.append(svg.text(WIDTH - 84, bottom + 36, "Dice on test cases", "axis-name", "end"))
    shown = [i for i in range(3) if any(row.values[i] is not None for row in rows)]
    place = 157.0
    for i in shown:
        parts += [
            svg.marker(_ARMS[i][1], place, 10, 6 if i == 2 else 5, f"arm {_ARMS[i][0]}"),
            svg.text(place + 12, 14, names[i], "name"),
        ]
        place += 44 + 7.5 * len(names[i])
    for i, row in enumerate(rows):
        parts.append(_dot_row(row, x, top + step * (i + 0.5), names))
    label = "Test Dice by site. " + "; ".join(
        f"{row.name}: " + ", ".join(f"{names[i]} {decimal(row.values[i])}" for i in shown) for row in rows
    )
    return svg.picture(WIDTH, bottom + 42, label, *parts, class_="chart")


def _dot_row(row: Dots, x: svg.Scale, y: float, names: tuple[str, str, str]) -> Markup:
    present = [v for v in row.values if v is not None]
    parts = [svg.text(0, y + 4.5, shortened(row.name, 18), "name")]
    if present:
        parts.append(svg.line(x(min(present)), y, x(max(present)), y, "reach"))
    for i, value in enumerate(row.values):
        if value is not None:
            mark = svg.marker(_ARMS[i][1], x(value), y, 7 if i == 2 else 5.5, f"arm {_ARMS[i][0]}")
            parts.append(svg.el("g", svg.el("title", f"{row.name}: {names[i]} {decimal(value)}"), mark))
    parts.append(svg.text(WIDTH, y + 4.5, decimal(row.values[2]), "value strong", "end"))
    return Markup("").join(parts)


def histogram(title: str, counts: Histogram, tallest: float) -> Markup:
    """One site's label volumes, log10 of ml; ``tallest`` is the largest share of a bin at any site."""
    x = svg.Scale(counts.low, counts.high, 4, 226)
    y = svg.Scale(0, tallest, 110, 8)
    edges, total = counts.edges(), max(counts.n, 1)
    parts = []
    for low, high, n in zip(edges, edges[1:], counts.counts, strict=False):
        if n:
            words = f"{volume(low)} to {volume(high)}: {n}"
            parts.append(
                svg.el(
                    "rect", svg.el("title", words), class_="bar", x=x(low) + 0.75, y=y(n / total),
                    width=max(1.0, x(high) - x(low) - 1.5), height=110 - y(n / total),
                )
            )  # fmt: skip
    parts.append(svg.line(4, 110, 226, 110, "axis"))
    marks = range(math.ceil(counts.low), math.floor(counts.high) + 1)
    for mark in marks:
        parts.append(svg.line(x(mark), 110, x(mark), 114, "axis"))
        if len(marks) <= 4 or mark % 2 == 0:  # 1 ml is always there
            parts.append(svg.text(x(mark), 128, volume(mark), anchor="middle"))
    median = counts.quantile(0.5)
    if median is not None:
        parts.append(svg.line(x(median), 4, x(median), 110, "median"))
    said = "nothing to show" if median is None else f"{counts.n} cases, median {volume(median)}"
    return svg.picture(230, 134, f"Histogram of {title}: {said}", *parts, class_="chart small")


def volume(log: float) -> str:
    """A volume in words out of log10 of ml: ``1 µl``, ``3.2 ml``, ``1 l``."""
    value, unit = 10**log, "ml"
    if value < 0.0995:
        value, unit = value * 1000, "µl"
    elif value >= 999.5:
        value, unit = value / 1000, "l"
    return f"{value:.2g} {unit}" if value < 100 else f"{value:.0f} {unit}"


TIMES = ("data", "compute", "transport", "aggregation", "other")


def stacked(times: Mapping[int, Mapping[str, float]], totals: Mapping[int, float]) -> Markup | None:
    """Wall-clock seconds per round, split; ``totals`` marks the whole round. None without rounds."""
    rounds = sorted(times)
    high = max([*(sum(parts.values()) for parts in times.values()), *totals.values()], default=0.0)
    if not rounds or high <= 0:
        return None
    left, right, top, bottom = 56.0, WIDTH - 8, 40.0, 250.0
    step = (right - left) / (rounds[-1] - rounds[0] + 1)
    thick = min(step * 0.72, 46.0)
    x = svg.Scale(rounds[0], rounds[0] + 1, left + step / 2, left + step * 1.5)
    y = svg.Scale(0, high * 1.04, bottom, top)
    marks = svg.ticks(0, high * 1.04, 4)
    parts = [svg.line(left, y(v), right, y(v), "grid") for v in marks]
    parts += [svg.text(left - 10, y(v) + 4, svg.tick_text(v, marks), anchor="end") for v in marks]
    place = left
    for name in TIMES:
        parts += [
            svg.el("rect", x=place, y=5, width=12, height=12, class_=f"t-{name}"),
            svg.text(place + 19, 15, name, "name"),
        ]
        place += 52 + 7 * len(name)
    for n in rounds:
        parts.append(_stack(n, times[n], (x(n) - thick / 2, thick), y))
    parts.append(svg.line(left, bottom, right, bottom, "axis"))
    parts += [svg.text(x(n), bottom + 19, str(n), anchor="middle") for n in svg.whole_ticks(rounds[0], rounds[-1], 20)]
    parts += [svg.text(right, bottom + 38, "round", "axis-name", "end"), svg.text(0, 33, "seconds", "axis-name")]
    label = f"Seconds of wall clock per round for {len(rounds)} rounds, split into {', '.join(TIMES)}"
    return svg.picture(WIDTH, bottom + 44, label, *parts, class_="chart")


def _stack(n: int, times: Mapping[str, float], place: tuple[float, float], y: svg.Scale) -> Markup:
    below, parts = 0.0, []
    for name in TIMES:
        value = times.get(name, 0.0)
        if value > 0:
            height = y(below) - y(below + value)
            parts.append(
                svg.el("rect", x=place[0], y=y(below + value), width=place[1], height=height, class_=f"stack t-{name}")
            )
        below += value
    words = f"Round {n}: " + ", ".join(f"{name} {duration(times.get(name, 0.0))}" for name in TIMES)
    return svg.el("g", svg.el("title", words), *parts)
