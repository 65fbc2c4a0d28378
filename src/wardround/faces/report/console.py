"""The summary table in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.core.rundir import RunDir
from wardround.faces.report.collect import collect, synthetic_sites
from wardround.faces.report.personal import Personal, personal
from wardround.faces.report.results import Results, results
from wardround.faces.report.shown import decimal, percent, signed, whole


def print_summary(run: RunDir, console: Console) -> None:
    """Print test scores per site and the work per arm; one line where nothing was tested yet.

    Raises:
        RunError: this is no run directory.
    """
    material = collect(run)
    shown = results(material)
    if not shown.rows:
        console.print("No test scores yet: they come when the run has stopped.")
        return
    made_up = " (SYNTHETIC data)" if synthetic_sites(material) is not None else ""
    console.print(_scores(shown, material.label, made_up))
    if own := personal(material):
        console.print(_personal(own))
    if shown.work:
        console.print(_work(shown))
    for words in _verdict(shown, material.label):
        console.print(words, markup=False, highlight=False)


def _scores(shown: Results, label: str, made_up: str) -> Table:
    table = Table(title=f"Test scores, worst site first{made_up}", title_justify="left")
    table.add_column("Site")
    table.add_column("Cases", justify="right")
    for name, there in (("Local-only", shown.has_local), ("Pooled", shown.has_pooled), (label, True)):
        if there:
            table.add_column(f"{name}\nDice", justify="right")
    if shown.has_lesions:
        table.add_column(f"{label}\nlesion F1", justify="right")
    table.add_column(f"{label}\nHD95 mm", justify="right")
    for row in shown.rows:
        if row.mean:
            table.add_section()
        cells = [whole(row.cases)]
        cells += [decimal(row.local.dice)] if shown.has_local else []
        cells += [decimal(row.pooled.dice)] if shown.has_pooled else []
        cells.append(decimal(row.federated.dice))
        cells += [decimal(row.federated.lesion_f1)] if shown.has_lesions else []
        cells.append(decimal(row.federated.hd95, 1))
        table.add_row(Text(row.site), *cells)
    return table


def _personal(rows: list[Personal]) -> Table:
    table = Table(title="The sites' own models, Dice on the same test cases", title_justify="left")
    for name in ("Site", "Shared", "Own", "Local-only", "Fine-tuning"):
        table.add_column(name, justify="left" if name in ("Site", "Fine-tuning") else "right")
    for row in rows:
        table.add_row(Text(row.site), decimal(row.shared), decimal(row.own), decimal(row.local), row.note or "none")
    return table


def _work(shown: Results) -> Table:
    table = Table(title="Work (an update is one optimiser step of one model)", title_justify="left")
    table.add_column("Arm")
    for name in ("Models", "Updates", "of the kept model", "Samples"):
        table.add_column(name, justify="right")
    for item in shown.work:
        table.add_row(item.arm, str(item.models), item.updates, item.kept, whole(item.samples))
    return table


def _verdict(shown: Results, label: str) -> list[str]:
    found = shown.verdict
    if found.worst is None or found.best is None:
        return [f"No test scores of the {label.lower()} model."]
    words = [
        f"Worst site: {found.worst.site}, Dice {decimal(found.worst.federated.dice)}; "
        f"{decimal(found.gap)} below the best ({found.best.site})."
    ]
    if found.of_pooled is not None:
        words.append(f"{percent(found.of_pooled)} of the pooled model's mean Dice.")
    if found.over_local is not None:
        words.append(f"{signed(found.over_local)} Dice against local-only, mean over sites.")
    return [*words, *shown.remarks]
