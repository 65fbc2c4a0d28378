"""Cross-validation: one federation a fold, so that every case of every site is a test case once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from wardround.core.rundir import RunDir
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.planning.plan import Plan
from wardround.planning.sites import SitesFile
from wardround.runtimes.assemble import create

MARK = "cross-validation.json"


def create_folds(
    root: RunDir, plan: Plan, sites: SitesFile, folders: Mapping[str, Path], chosen: list[str], text: str
) -> None:
    """A folder that holds a run directory for each of the plan's folds."""
    root.make()
    for fold in range(plan.evaluation.folds):
        evaluation = plan.evaluation.model_copy(update={"fold": fold})
        place = RunDir(root.root / f"fold-{fold}")
        create(place, plan.model_copy(update={"evaluation": evaluation}), sites, folders, chosen, text)
    root.write_json(MARK, {"folds": plan.evaluation.folds, "plan": plan.digest()})


def folds(root: RunDir) -> list[RunDir]:
    """The runs of a cross-validation, in order; none where the folder is an ordinary run."""
    if not (root.root / MARK).is_file():
        return []
    return [RunDir(root.root / f"fold-{fold}") for fold in range(root.read_json(MARK)["folds"])]


def merged(runs: list[RunDir]) -> dict[str, Scores]:
    """Test scores per site over all folds, worst site first."""
    parts: dict[str, list[Scores]] = {}
    for run in runs:
        for site, value in run.read_json("scores.json")["sites"].items():
            parts.setdefault(site, []).append(Scores.model_validate(value))
    sums = {site: merge_all(scores, Scores()) for site, scores in parts.items()}
    return dict(sorted(sums.items(), key=lambda item: item[1].mean_dice or 0.0))


def print_merged(root: RunDir, runs: list[RunDir], console: Console) -> None:
    """The table over all folds; also written to scores.json."""
    table = Table(title="Test scores over all folds: every case once, worst site first", title_justify="left")
    for name in ("Site", "Cases", "Dice", "Lesion F1"):
        table.add_column(name, justify="left" if name == "Site" else "right")
    sites = merged(runs)
    for site, scores in sites.items():
        table.add_row(site, str(scores.cases), _number(scores.mean_dice), _number(scores.lesion_f1))
    console.print(table)
    written = {site: scores.model_dump(mode="json") for site, scores in sites.items()}
    root.write_json("scores.json", {"model": "cross-validation", "sites": written})


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
