"""The report: one HTML file that needs nothing else, made from a run directory and nothing else.

Every text in it (site names, study texts, failure reasons) may be hostile: templates escape all of
them, and a content security policy lets only the page's own style and script act, by their hashes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround import __version__
from wardround.core.rundir import RunDir
from wardround.core.weights import write_bytes
from wardround.data.findings import CODES
from wardround.faces.report import attendance, sites
from wardround.faces.report.bars import stacked
from wardround.faces.report.collect import Material, at, collect, synthetic_sites
from wardround.faces.report.frame import environment, framed
from wardround.faces.report.personal import personal
from wardround.faces.report.pictures import pictures
from wardround.faces.report.results import results, skipped_words
from wardround.faces.report.rounds import both_curves
from wardround.faces.report.timing import timing
from wardround.faces.report.words import plan_words, stop_words

# the colours of wardround.data.overlay
LEGEND = "Blue outlines are the reference, orange ones the prediction, green where both run."


def write_report(run: RunDir, with_pictures: bool = True) -> Path:
    """Write ``report.html`` into the run directory and return its path.

    Works at any moment of a run; what has not happened yet is said in its place. ``with_pictures``
    embeds the overlays of a simulation.

    Raises:
        RunError: this is no run directory.
        StorageError: the file cannot be written.
    """
    write_bytes(run.report, render(collect(run), with_pictures).encode("utf-8"))
    return run.report


def render(material: Material, with_pictures: bool = True) -> str:
    """The page as text."""
    notes = list(material.notes)
    overlays = pictures(material, notes) if with_pictures else []
    return environment().get_template("report.html.j2").render(
        **framed("style.css", script="readout.js"),
        overlays=overlays,
        with_pictures=with_pictures,
        legend=LEGEND,
        notes=notes,
        **_context(material),
    )  # fmt: skip


def _context(material: Material) -> dict[str, Any]:
    history, clock = material.own.history, timing(material)
    last = history.closed[-1].number if history.closed else None
    state, state_words = stop_words(
        material.plan, history.stopped, last, network=material.facts.get("simulation") is False
    )
    names = material.sites
    return {
        "m": material,
        "plan": material.plan,
        "at": at,
        "history": history,
        "state": state,
        "state_words": state_words,
        "last": last,
        "synthetic": synthetic_sites(material),
        "words": plan_words(material.plan, len(names), clock.up_each),
        "results": results(material),
        "personal": personal(material),
        "curve": both_curves(material),
        "lacking": sites.lacking(material),
        "groups": sites.groups(material),
        "volumes": sites.volumes(material),
        "codes": CODES,
        "grid": attendance.grid(names, history),
        "grid_legend": attendance.legend(names, history),
        "absences": attendance.absences(history.failures),
        "alerts": attendance.conspicuous(history.notices),
        "timing": clock,
        "time_chart": stacked(clock.rounds, clock.totals),
        "skipped": skipped_words(material),
        "machine": _machine(material),
        "version": __version__,
        "written": datetime.now(UTC),
    }


def _machine(material: Material) -> list[tuple[str, str]]:
    machine = material.facts.get("machine")
    if not isinstance(machine, dict):
        return []
    return [(str(key), str(value)) for key, value in machine.items() if isinstance(value, str | int | float)]
