"""The report: one HTML file that needs nothing else, made from a run directory and nothing else.

Every text in it (site names, study texts, failure reasons) may be hostile: templates escape all of
them, and a content security policy lets only the page's own style and script act, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wardround import __version__
from wardround.core.rundir import RunDir
from wardround.core.weights import write_bytes
from wardround.data.findings import CODES
from wardround.faces.report import attendance, shown, sites
from wardround.faces.report.bars import stacked
from wardround.faces.report.collect import Material, at, collect, synthetic_sites
from wardround.faces.report.history import mean_of, std_of
from wardround.faces.report.personal import personal
from wardround.faces.report.pictures import pictures
from wardround.faces.report.results import results, skipped_words
from wardround.faces.report.rounds import both_curves
from wardround.faces.report.timing import timing
from wardround.faces.report.words import plan_words, stop_words

# the colours of wardround.data.overlay
LEGEND = "Blue outlines are the reference, orange ones the prediction, white where both run."
_FILTERS = ("counted", "decimal", "duration", "listed", "percent", "signed", "size", "whole")


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
    style, script = _asset("style.css"), _asset("readout.js")
    notes = list(material.notes)
    overlays = pictures(material, notes) if with_pictures else []
    return _environment().get_template("report.html.j2").render(
        style=Markup(style),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        policy=(
            f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        overlays=overlays,
        with_pictures=with_pictures,
        legend=LEGEND,
        notes=notes,
        **_context(material),
    )  # fmt: skip


def _context(material: Material) -> dict[str, Any]:
    history, clock = material.own.history, timing(material)
    last = history.closed[-1].number if history.closed else None
    state, state_words = stop_words(material.plan, history.stopped, last)
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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("wardround.faces.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(shown, name) for name in _FILTERS})
    environment.filters.update(moment=_moment, mean=mean_of, std=std_of)
    return environment


def _moment(value: datetime | None) -> str:
    return shown.NOTHING if value is None else value.astimezone(UTC).strftime("%d %b %Y, %H:%M UTC")


@cache
def _asset(name: str) -> str:
    return (resources.files("wardround.faces.report") / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
