"""What each site's data looks like, in the sums it sent, laid out so that differences are seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wardround.core.messages import SiteSummary
from wardround.core.stats import Histogram, Moments
from wardround.faces.report import bars
from wardround.faces.report.collect import Material, at
from wardround.faces.report.history import std_of
from wardround.faces.report.shown import counted
from wardround.faces.report.spans import spans

Summaries = Mapping[str, SiteSummary]


@dataclass(frozen=True)
class Panel:
    """A small chart with its title."""

    title: str
    chart: Markup
    note: str = ""


@dataclass(frozen=True)
class Group:
    """Panels of one kind."""

    title: str
    words: str
    panels: tuple[Panel, ...]


def groups(material: Material) -> list[Group]:
    """All small multiples that the sites' summaries allow, one group a quantity."""
    summaries, sites = material.own.history.summaries, material.sites
    found = [
        _moments(
            "Image intensity",
            "Mean foreground intensity of the cases as they were scanned, before normalisation.",
            _by_name(sites, summaries, lambda summary: summary.intensity),
            "",
        ),
        _moments(
            "Voxel size",
            "In millimetres, before resampling.",
            _by_axis(sites, summaries, lambda summary: summary.spacing),
            "mm",
        ),
        _moments(
            "Image size",
            "In voxels, before resampling.",
            _by_axis(sites, summaries, lambda summary: summary.shape),
            "voxels",
        ),
    ]
    return [group for group in found if group.panels]


def lacking(material: Material) -> list[str]:
    """What each site went without, one sentence a site; nothing for sites that had everything."""
    sentences = []
    for site in material.sites:
        summary = material.own.history.summaries.get(site)
        if summary is None:
            continue
        parts = [f"no {name} in {counted(cases, 'case')}" for name, cases in summary.lacks.items()]
        parts += [f"{name} not outlined in {counted(cases, 'case')}" for name, cases in summary.unlabelled.items()]
        if summary.largest_batch is not None and summary.largest_batch < at(material.plan, "training.batch", 0):
            parts.append(f"batches taken in parts of {summary.largest_batch}, for want of memory")
        if parts:
            sentences.append(f"{site}: {'; '.join(parts)}")
    return sentences


def _moments(title: str, words: str, rows: Mapping[str, Sequence[tuple[str, Moments]]], unit: str) -> Group:
    drawn = {
        name: spans(name, unit, [(site, m if std_of(m) is not None else Moments()) for site, m in values])
        for name, values in rows.items()
    }
    return Group(title, words, tuple(Panel(name, chart) for name, chart in drawn.items() if chart is not None))


def _by_name(
    sites: Sequence[str], summaries: Summaries, pick: Callable[[SiteSummary], Mapping[str, Moments]]
) -> dict[str, list[tuple[str, Moments]]]:
    known = [(site, pick(summaries[site])) for site in sites if site in summaries]
    names = dict.fromkeys(name for _, values in known for name in values)
    return {name: [(site, values.get(name, Moments())) for site, values in known] for name in names}


def _by_axis(
    sites: Sequence[str], summaries: Summaries, pick: Callable[[SiteSummary], Sequence[Moments]]
) -> dict[str, list[tuple[str, Moments]]]:
    known = [(site, pick(summaries[site])) for site in sites if site in summaries]
    most = max((len(values) for _, values in known), default=0)
    return {
        f"Axis {axis + 1}": [(site, values[axis] if axis < len(values) else Moments()) for site, values in known]
        for axis in range(most)
    }


def volumes(material: Material) -> list[Group]:
    """Per label, one histogram a site, all on the same axes (share of cases against log10 of ml)."""
    summaries = material.own.history.summaries
    known = {site: summaries[site] for site in material.sites if site in summaries}
    labels = dict.fromkeys(label for summary in known.values() for label in summary.volume)
    found = []
    for label in labels:
        counts = {site: s.volume[label] for site, s in known.items() if label in s.volume and _sane(s.volume[label])}
        tallest = max((max(h.counts) / h.n for h in counts.values()), default=0.0)
        window = _window(list(counts.values()))
        panels = tuple(
            Panel(
                site,
                bars.histogram(f"{label} volume at {site}", _cut(h, window), tallest),
                _present(known[site], label, h),
            )
            for site, h in counts.items()
        )
        if panels:
            found.append(Group(label, "", panels))
    return found


def _sane(histogram: Histogram) -> bool:
    return histogram.n > 0 and histogram.low >= -12 and histogram.high <= 12


def _window(histograms: Sequence[Histogram]) -> tuple[int, int]:
    """First and one past the last bin to show: what any site uses and a little more, the same for all.

    Nothing is cut where the sites' bins differ.
    """
    if len({(h.low, h.high, len(h.counts)) for h in histograms}) != 1:
        return 0, 0
    used = [i for h in histograms for i, n in enumerate(h.counts) if n]
    bins, start, end = len(histograms[0].counts), min(used) - 1, max(used) + 2
    missing = max(0, 12 - (end - start))  # three decades at least, or a few broad blocks would fill the chart
    return max(0, start - missing // 2), min(bins, end + missing - missing // 2)


def _cut(histogram: Histogram, window: tuple[int, int]) -> Histogram:
    start, end = window
    if end <= start:
        return histogram
    edges = histogram.edges()
    return Histogram(low=edges[start], high=edges[end], counts=histogram.counts[start:end])


def _present(summary: SiteSummary, label: str, histogram: Histogram) -> str:
    median = histogram.quantile(0.5)
    middle = "" if median is None else f"median {bars.volume(median)}"
    total = sum(summary.cases.values())
    present = summary.present.get(label)
    if present is None or not total:
        return middle
    return f"{middle}; present in {present} of {total} cases"
