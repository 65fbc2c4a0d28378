"""``wardround evaluate`` and ``wardround predict``: use the model of a run."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from wardround.core.rundir import RunDir


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def evaluate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")],
    data: Annotated[Path, typer.Option("--data", help="A dataset folder, or a folder of site folders.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = Device.auto,
) -> None:
    """Score the final model on another dataset, per case and in sum.

    Exit code 1 if any case could not be scored.

    Example: `wardround evaluate runs/hippocampus --data ../hospital-5 --json > scores.json`
    """
    from wardround.site.use import Model  # noqa: PLC0415 - brings torch

    model = Model.open(RunDir(directory.resolve()), device.value)
    result = model.evaluate(data, track_on_stderr)
    if json_:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        _print_scores(result)
    if result["left_out"]:
        raise typer.Exit(1)


def predict(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")],
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Images (all modalities of a case), or folders of them.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the label maps.")],
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = Device.auto,
) -> None:
    """Write a label map for every case, on the image's own grid and affine, with the plan's label values.

    Files of one case are recognised by their names: `p01_FLAIR.nii.gz` and `p01_T1.nii.gz` give `p01.nii.gz`.

    Example: `wardround predict runs/ms p01_FLAIR.nii.gz p01_T1.nii.gz --out predictions`
    """
    from wardround.site.use import Model  # noqa: PLC0415 - brings torch

    model = Model.open(RunDir(directory.resolve()), device.value)
    failed = 0
    for case, path, reason in model.predict(images, out):
        if path is None:
            failed += 1
            print(f"{case}: {reason}", file=sys.stderr)
        else:
            print(path)
    if failed:
        raise typer.Exit(1)


def track_on_stderr(items: list[Any], what: str) -> Iterable[Any]:
    """A progress bar that never mixes with what is printed."""
    return track(items, description=what, console=Console(stderr=True), transient=True)


def _print_scores(result: dict[str, Any]) -> None:
    table = Table(title=f"mean Dice {_number(result['mean_dice'])} over {result['cases']} cases")
    table.add_column("case")
    rows = result["per_case"]
    assert isinstance(rows, list)  # noqa: S101 - built by Model.evaluate
    labels = list(result["per_label"])
    for label in labels:
        table.add_column(f"{label} Dice", justify="right")
        table.add_column("HD95 mm", justify="right")
    for row in sorted(rows, key=lambda row: row["dice"] if row["dice"] is not None else 2):
        cells = [cell for label in labels for cell in (row["labels"][label]["dice"], row["labels"][label]["hd95_mm"])]
        table.add_row(escape(row["case"]), *map(_number, cells))
    console = Console()
    console.print(table)
    for finding in result["left_out"]:
        console.print(f"left out: {finding['message']}", highlight=False, markup=False, soft_wrap=True)


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"
