"""Line charts over rounds: one line per site, gaps where a site was missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from wardround.faces.report import svg
from wardround.faces.report.shown import decimal, shortened

WIDTH, HEIGHT = 960.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 792.0, 18.0, 284.0


@dataclass(frozen=True)
class Line:
    """One line: ``values`` by round, ``style`` a site's colour and shape; None: in the background."""

    name: str
    values: Mapping[int, float]
    style: int | None = None
    strong: bool = False  # the mean: thick, in the colour of the text


@dataclass(frozen=True)
class Curves:
    """A chart: what it shows in words, the unit axis, and the round to mark."""

    label: str
    axis: str
    lines: Sequence[Line]
    best: int | None = None
    floor: float | None = None  # the axis reaches at least down to this
    ceiling: float | None = None  # and never above this


def curves(chart: Curves) -> Markup | None:
    """Draw, or None where no line has a point."""
    rounds = sorted({n for item in chart.lines for n in item.values})
    values = [v for item in chart.lines for v in item.values.values()]
    if not rounds:
        return None
    x = svg.Scale(rounds[0], rounds[-1], LEFT + 14, RIGHT - 14)
    low, high = _bounds(values, chart)
    y = svg.Scale(low, high, BOTTOM, TOP)
    best = _best(chart, x) if chart.best is not None and rounds[0] <= chart.best <= rounds[-1] else Markup("")
    back = [item for item in chart.lines if item.style is None and not item.strong]
    front = [item for item in chart.lines if item not in back]
    parts = [
        _axes(x, y, (rounds[0], rounds[-1]), svg.ticks(low, high), chart.axis),
        best,
        svg.line(0, TOP, 0, BOTTOM, "guide"),
        *(_draw(item, rounds, x, y) for item in [*back, *front] if item.values),
        _labels(front, y),
        *_bands(chart.lines, x, rounds, chart.best),
    ]
    return svg.picture(WIDTH, HEIGHT, chart.label, *parts, class_="chart curves")


def _bounds(values: Sequence[float], chart: Curves) -> tuple[float, float]:
    low, high = min(values), max(values)
    if chart.floor is not None:
        low = min(low, chart.floor)
    room = (high - low or abs(high) or 1.0) * 0.06
    high += room
    if chart.ceiling is not None:
        high = max(min(high, chart.ceiling), *values)
    return (low if low == chart.floor else low - room), high


def _axes(x: svg.Scale, y: svg.Scale, rounds: tuple[int, int], marks: Sequence[float], axis: str) -> Markup:
    parts = [svg.text(LEFT - 10, y(v) + 4, svg.tick_text(v, marks), anchor="end") for v in marks]
    parts += [svg.line(LEFT, y(v), RIGHT, y(v), "grid") for v in marks]
    parts += [svg.text(x(n), BOTTOM + 20, str(n), anchor="middle") for n in svg.whole_ticks(*rounds)]
    parts += [svg.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")]
    parts += [svg.text(LEFT - 10, BOTTOM + 20, "round", "axis-name", "end"), svg.text(LEFT, 11, axis, "axis-name")]
    return Markup("").join(parts)


def _best(chart: Curves, x: svg.Scale) -> Markup:
    place = x(chart.best or 0)
    return svg.line(place, TOP, place, BOTTOM, "best") + svg.text(
        place, BOTTOM + 40, f"best: round {chart.best}", "best-name", "middle"
    )


def _draw(item: Line, rounds: Sequence[int], x: svg.Scale, y: svg.Scale) -> Markup:
    style, dash = _style(item)
    there = [i for i, n in enumerate(rounds) if n in item.values]
    points = {i: (x(rounds[i]), y(item.values[rounds[i]])) for i in there}
    parts: list[Markup] = []
    run = [points[there[0]]]
    for before, now in pairwise(there):
        if now != before + 1:  # rounds in which others have a value and this site has none
            parts += [_stroke(run, style, dash), svg.line(*points[before], *points[now], f"bridge {style}")]
            parts += [_absent(x(rounds[i]), points[before], points[now], style) for i in range(before + 1, now)]
            run = []
        run.append(points[now])
    parts.append(_stroke(run, style, dash))
    if (len(rounds) <= 40 and style != "sx") or len(there) == 1:
        parts += [svg.marker(item.style or 0, *point, 2.8, f"dot {style}") for point in points.values()]
    return Markup("").join(parts)


def _style(item: Line) -> tuple[str, str | None]:
    if item.strong:
        return "mean", None
    if item.style is None:
        return "sx", None
    return f"s{item.style % svg.STYLES}", svg.DASHES[item.style % svg.STYLES] or None


def _stroke(points: Sequence[tuple[float, float]], style: str, dash: str | None) -> Markup:
    if len(points) < 2:
        return Markup("")
    where = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    return svg.el("polyline", points=where, class_=f"line {style}", stroke_dasharray=dash)


def _absent(place: float, start: tuple[float, float], end: tuple[float, float], style: str) -> Markup:
    height = start[1] + (place - start[0]) / (end[0] - start[0]) * (end[1] - start[1])
    d = f"M{place - 4:.1f} {height - 4:.1f}l8 8m0 -8l-8 8"
    return svg.el("path", d=d, class_=f"absent {style}")


def _labels(lines: Sequence[Line], y: svg.Scale) -> Markup:
    ends = [(item, item.values[max(item.values)]) for item in lines if item.values]
    places = svg.spread([y(value) for _, value in ends], 17, TOP, BOTTOM)
    parts: list[Markup] = []
    for (item, value), place in zip(ends, places, strict=True):
        style, dash = _style(item)
        key = {"x1": RIGHT + 8, "y1": place, "x2": RIGHT + 30, "y2": place}
        parts.append(svg.el("line", **key, class_=f"line {style}", stroke_dasharray=dash))
        parts.append(svg.marker(item.style or 0, RIGHT + 19, place, 2.8, f"dot {style}"))
        parts.append(
            svg.text(RIGHT + 38, place + 4, shortened(item.name, 11), f"name{' strong' if item.strong else ''}")
        )
        parts.append(svg.text(WIDTH - 2, place + 4, decimal(value, 3), "value", "end"))
    return Markup("").join(parts)


def _bands(lines: Sequence[Line], x: svg.Scale, rounds: Sequence[int], best: int | None) -> list[Markup]:
    step = (x(rounds[-1]) - x(rounds[0])) / max(rounds[-1] - rounds[0], 1) or RIGHT - LEFT
    bands = []
    for n in rounds:
        said = "   ".join(f"{item.name} {decimal(item.values.get(n))}" for item in lines)
        words = f"Round {n}{' (best)' if n == best else ''}:   {said}"
        bands.append(
            svg.el(
                "rect", svg.el("title", words), x=x(n) - step / 2, y=TOP, width=step, height=BOTTOM - TOP,
                class_="band", data_x=x(n), data_words=words,
            )
        )  # fmt: skip
    return bands
