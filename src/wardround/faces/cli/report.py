"""``wardround report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wardround.core.rundir import RunDir


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")],
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Embed the pictures of cases that a simulation keeps.")
    ] = True,
) -> None:
    """Write the HTML report of a run, also while it is running, and print where it is.

    Of a cross-validation, one report a fold.

    Example: `wardround report runs/hippocampus --no-pictures`
    """
    from wardround.faces.cli.crossval import folds  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.faces.report.page import write_report  # noqa: PLC0415

    place = RunDir(directory.resolve())
    for run in folds(place) or [place]:
        print(write_report(run, pictures))
