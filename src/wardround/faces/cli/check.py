"""``wardround check``: what is wrong with a dataset folder, before anybody trains on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.core.errors import StorageError, WardRoundError

if TYPE_CHECKING:
    from rich.table import Table

    from wardround.data.checks import CheckReport
    from wardround.data.dataset import Dataset

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class _Wanted:
    """What a plan asks of a case; None: whatever the dataset has."""

    modalities: tuple[str, ...] | None = None
    labels: dict[str, int] | None = None
    dimensions: int | None = None
    optional: tuple[str, ...] = ()


def check(
    dataset: Annotated[Path, typer.Argument(help="The dataset's folder.")],
    plan: Annotated[Path | None, typer.Option(help="Check against this plan's modalities and labels.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")] = False,
    preview: Annotated[Path | None, typer.Option(help="Write a picture of every usable case to this folder.")] = None,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="Cases need no mask.")] = False,
) -> None:
    """Read every case of a dataset and list all that is wrong with it.

    Nothing is changed and nothing leaves this machine. The layouts images/ + masks/, nnU-Net, Decathlon
    and BIDS are recognised. Exit code: 0 if every case can be used, 1 if not, 2 if a document is wrong.

    Examples:
      wardround check /data/ms

      wardround check /data/ms --plan plan.yaml --preview pictures

      wardround check /data/ms --json > report.json
    """
    from wardround.data.checks import check_dataset  # noqa: PLC0415 - keeps --help fast
    from wardround.data.dataset import open_dataset  # noqa: PLC0415

    try:
        wanted = _wanted(plan)
        opened = open_dataset(dataset)
        with _progress("Reading cases") as step:
            report = check_dataset(
                opened,
                wanted.modalities,
                wanted.labels,
                wanted.dimensions,
                step,
                need_mask=not unlabelled,
                optional=wanted.optional,
            )
        if json_:
            typer.echo(json.dumps(_document(opened, report), indent=2))
        else:
            _print(opened, report)
        if preview is not None:
            _previews(opened, report, wanted, preview)
    except WardRoundError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(error.exit_code) from error
    raise typer.Exit(0 if report.clean else 1)


def _wanted(plan: Path | None) -> _Wanted:
    if plan is None:
        return _Wanted()
    from wardround.planning.plan import load_plan  # noqa: PLC0415

    task = load_plan(plan).task
    return _Wanted(tuple(task.modalities), dict(task.labels), int(task.dimensions), tuple(task.optional))


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on stderr; nothing where that is no terminal."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _document(dataset: Dataset, report: CheckReport) -> dict[str, Any]:
    """The report for programs. It names cases: it is for this site alone."""
    return {
        "dataset": str(dataset.root),
        "layout": dataset.layout,
        "usable": report.cases - len(report.unusable),
        "unusable": list(report.unusable),
        "modalities": list(dataset.modalities),
        "labels": {str(number): {"cases": c, "voxels": v} for number, (c, v) in report.labels().items()},
        "spacing": _ranges([trait.spacing for trait in report.traits]),
        "shape": _ranges([trait.shape for trait in report.traits]),
        "subjects": _subjects(dataset),
        "synthetic": dataset.spec.synthetic,
        "counts": report.counts(),
        "findings": [
            {"case": finding.case, "severity": finding.severity, "code": finding.code, "message": finding.message}
            for finding in report.findings
        ],
        "cases": [
            {"case": trait.case, "subject": trait.subject, "shape": trait.shape, "spacing": trait.spacing}
            for trait in report.traits
        ],
    }


def _subjects(dataset: Dataset) -> int | None:
    return len({case.subject for case in dataset.cases}) if dataset.subjects_known else None


def _ranges(rows: list[Any]) -> list[list[float]]:
    """Per axis the smallest and the largest value."""
    return [[min(axis), max(axis)] for axis in zip(*(row for row in rows if row), strict=True)]


def _print(dataset: Dataset, report: CheckReport) -> None:
    from rich.console import Console  # noqa: PLC0415

    console = Console()
    console.print(_summary(dataset, report))
    if report.findings:
        console.print(_findings(report))
    bad = len(report.unusable)
    verdict = f"[red]{bad} of {report.cases} cases cannot be used.[/]" if bad else "[green]Every case can be used.[/]"
    console.print(verdict)


def _summary(dataset: Dataset, report: CheckReport) -> Table:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(show_header=False, box=None, pad_edge=False)
    spec, subjects = dataset.spec, _subjects(dataset)
    known = f"{subjects} known" if subjects is not None else "unknown: say in dataset.yaml how case names tell them"
    labels = [
        f"{number}{f' {spec.labels[number]}' if number in spec.labels else ''} ({cases} cases, {voxels:,} voxels)"
        for number, (cases, voxels) in report.labels().items()
    ]
    rows = {
        "dataset": str(dataset.root),
        "layout": dataset.layout + (", synthetic" if spec.synthetic else ""),
        "cases": f"{report.cases}, {report.cases - len(report.unusable)} usable",
        "modalities": ", ".join(name or "one without a name" for name in dataset.modalities),
        "labels": ", ".join(labels) or "no mask",
        "shape": _spans(report, "shape", "voxels"),
        "spacing": _spans(report, "spacing", "mm"),
        "subjects": known,
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(_printable(value)))
    return table


def _spans(report: CheckReport, attribute: str, unit: str) -> str:
    traits = [trait for trait in report.traits if not (trait.picture and attribute == "spacing")]
    spans = [
        f"{low:.4g}" if low == high else f"{low:.4g}-{high:.4g}"
        for low, high in _ranges([getattr(t, attribute) for t in traits])
    ]
    return f"{' x '.join(spans)} {unit}" if spans else "unknown"


def _findings(report: CheckReport) -> Table:
    """File names may hold anything, also what a terminal or markup would obey: all of it is plain text here."""
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("case", "", "what", show_lines=False)
    last = None
    for finding in report.findings:
        case = "" if finding.case == last else finding.case or "(dataset)"
        last = finding.case
        row = (case, finding.severity, f"{finding.code}: {finding.message}")
        style = _COLOURS[finding.severity]
        table.add_row(*(Text(_printable(text), style=style if i == 1 else "") for i, text in enumerate(row)))
    return table


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _previews(dataset: Dataset, report: CheckReport, wanted: _Wanted, folder: Path) -> None:
    """One PNG for each usable case."""
    from wardround.data.inspection import inspect_case  # noqa: PLC0415
    from wardround.data.preview import write_preview  # noqa: PLC0415

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    usable = [files for files in dataset.cases if files.id not in report.unusable]
    with _progress("Writing pictures") as step:
        for number, files in enumerate(usable, start=1):
            case, _, _ = inspect_case(
                files, wanted.modalities, wanted.labels, dataset.spec, need_mask=False, optional=wanted.optional
            )
            if case is not None:
                write_preview(case, folder / f"{files.id}.png", title=files.id, names=tuple(wanted.labels or ()))
            step(number, len(usable))
