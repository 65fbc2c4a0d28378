"""A site's own report about one run: its cases by name, its pictures, what left. It is never sent anywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup
from pydantic import ValidationError

from wardround import __version__
from wardround.core.errors import InputError, RunError
from wardround.core.rundir import RunDir
from wardround.core.scores import Scores
from wardround.core.weights import write_bytes
from wardround.faces.report import svg
from wardround.faces.report.collect import at
from wardround.faces.report.frame import environment, framed
from wardround.faces.report.history import number
from wardround.faces.report.own_cases import OwnCases, read_cases
from wardround.faces.report.own_log import OwnLog, read_log
from wardround.faces.report.page import LEGEND
from wardround.faces.report.shown import decimal
from wardround.faces.report.table import FEW
from wardround.faces.report.words import stop_words

SHARED = "shared.safetensors"
WIDTH, HEIGHT = 960.0, 250.0


@dataclass(frozen=True)
class Federation:
    """What the coordinator told every site about the run's end; None or 0 where it did not."""

    dice: float | None = None  # mean over the test cases of all sites
    sites: int = 0  # that contributed
    asked: int = 0
    stopped: Mapping[str, Any] | None = None
    best_round: int | None = None
    shared_dice: float | None = None  # of the shared model at this site, where the site has a whole one of its own


@dataclass(frozen=True)
class Own:
    """Everything that the page shows."""

    home: Path
    digest: str
    site: str
    plan: Mapping[str, Any]
    cases: OwnCases
    federation: Federation
    log: OwnLog
    model: Path | None  # that this site uses
    shared: Path | None = None  # that all sites have, where this one uses another
    personal: bool = False  # the plan gives each site a model of its own

    @property
    def result(self) -> Path:
        """The run directory that `wardround evaluate` and `wardround predict` take."""
        return self.home / "results" / self.digest


def write_own_report(home: Path, digest: str) -> Path:
    """Write ``results/<digest>/report.html`` of a site folder and return its path.

    Args:
        home: the site folder.
        digest: the plan's, in full: `find_result` makes it of a prefix.

    Raises:
        RunError: this site has no results of that run.
        StorageError: the file cannot be written.
    """
    own = collect_own(home, digest)
    path = RunDir(own.result).report
    write_bytes(path, render_own(own).encode("utf-8"))
    path.chmod(0o600)
    return path


def find_result(home: Path, prefix: str) -> str:
    """The digest of the only run with results here whose digest begins so.

    Raises:
        InputError: there is none, or more than one.
    """
    folder = home / "results"
    known = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    found = [digest for digest in known if digest.startswith(prefix.lower())]
    if len(found) == 1 and len(prefix) >= 6:
        return found[0]
    there = ", ".join(digest[:12] for digest in known) or "none yet"
    there += "; results come when a run has ended, to sites that took part"
    what = "is too short: 6 letters at least" if found else "is no run with results at this site"
    raise InputError(f"'{prefix}' {what if len(found) < 2 else 'fits several runs'} (there are: {there})")


def collect_own(home: Path, digest: str) -> Own:
    """Read a site folder's part about one run. Raises RunError where it has no results of it."""
    run = RunDir(home / "results" / digest)
    plan = run.read_json("plan.json")
    if not isinstance(plan, dict):
        raise RunError(f"{run.root} is damaged: plan.json is not a JSON object")
    site = _object(home / "site.json")
    name = str(site.get("name", "this site"))
    return Own(
        home=home,
        digest=digest,
        site=name,
        plan=plan,
        cases=read_cases(home / "runs" / digest / "overlays", name),
        federation=told(_object(run.root / "outcome.json"), name),
        log=read_log(home / "audit.jsonl", digest),
        model=run.model if run.model.is_file() else None,
        shared=shared_model(run.root),
        personal=(run.root / SHARED).is_file(),
    )


def shared_model(result: Path) -> Path | None:
    """The model that all sites have, where the one in this run directory is the site's own."""
    path = result / SHARED
    return path if path.is_file() and _object(result / "run.json").get("model") == "own" else None


def told(outcome: Mapping[str, Any], site: str) -> Federation:
    """An outcome as far as it is understood; it comes from outside."""
    rounds, best = number(outcome.get("rounds")), number(outcome.get("best_round"))
    return Federation(
        dice=number(outcome.get("mean_dice")),
        sites=int(number(outcome.get("sites")) or 0),
        asked=int(number(outcome.get("asked")) or 0),
        stopped=None if rounds is None else {"reason": outcome.get("reason"), "rounds": int(rounds)},
        best_round=None if best is None else int(best),
        shared_dice=_dice(outcome.get("own"), site) if _dice(outcome.get("personal"), site) is not None else None,
    )


def _dice(scores: object, site: str) -> float | None:
    try:
        return Scores.model_validate(scores[site]).mean_dice if isinstance(scores, dict) else None
    except (KeyError, ValidationError):
        return None


def render_own(own: Own) -> str:
    """The page as text."""
    state, state_words = stop_words(own.plan, own.federation.stopped, None)
    if own.federation.stopped is None:
        state, state_words = "done", "The run has ended"
    return environment().get_template("own.html.j2").render(
        **framed("style.css"),
        own=own,
        at=at,
        title=str(at(own.plan, "study.title") or "Untitled study"),
        plan=own.plan,
        state=state,
        state_words=state_words,
        chart=ranked(own.cases, own.federation.dice),
        few=FEW,
        legend=LEGEND,
        version=__version__,
        written=datetime.now(UTC),
    )  # fmt: skip


def ranked(cases: OwnCases, federation: float | None) -> Markup | None:
    """Every scored case from the worst to the best, with this site's and the federation's mean as lines."""
    scored = [(case.name, case.dice) for case in cases.cases if case.dice is not None]
    if not scored:
        return None
    x = svg.Scale(0, max(len(scored) - 1, 1), 60, WIDTH - 190)
    y = svg.Scale(0, 1, HEIGHT - 34, 12)
    parts = [svg.line(44, y(v), WIDTH - 174, y(v), "grid") for v in (0, 0.25, 0.5, 0.75, 1)]
    parts += [svg.text(34, y(v) + 4, decimal(v, 2), anchor="end") for v in (0, 0.25, 0.5, 0.75, 1)]
    means = [("this site", "median", cases.dice), ("all sites", "best", federation)]
    known = [(name, style, value) for name, style, value in means if value is not None]
    places = svg.spread([y(value) for _, _, value in known], 18, 12, HEIGHT - 34)
    for (name, style, value), place in zip(known, places, strict=True):
        parts.append(svg.line(44, y(value), WIDTH - 174, y(value), style))
        parts.append(svg.text(WIDTH - 166, place + 4, f"{name} {decimal(value)}", "best-name"))
    for i, (name, dice) in enumerate(scored):
        mark = svg.marker(0, x(i), y(dice), 5 if len(scored) < 80 else 3, "arm own")
        parts.append(svg.el("g", svg.el("title", f"{name}: {decimal(dice)}"), mark))
    parts.append(svg.text(44, HEIGHT - 8, "worst case", "axis-name"))
    parts.append(svg.text(WIDTH - 174, HEIGHT - 8, "best case", "axis-name", "end"))
    label = f"Dice of {len(scored)} test cases from the worst, {decimal(scored[0][1])}, to {decimal(scored[-1][1])}"
    return svg.picture(WIDTH, HEIGHT, label, *parts, class_="chart")


def _object(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
