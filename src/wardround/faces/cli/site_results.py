"""``wardround site results``: a finished run as this site sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(site_app: typer.Typer) -> None:
    """Add the command to ``wardround site``."""
    site_app.command()(results)


def results(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The plan's digest, or its first 6 letters or more.")],
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")
    ] = None,
) -> None:
    """Write this site's own report about a finished run, and print where it is and where the model is.

    It shows the final model on this site's own test cases, case by case and in pictures, beside the federation's
    mean, and everything that left this site. Where the site has a model of its own, it shows
    that one. It names cases: it is for this hospital alone and never sent.

    Example: `wardround site results 3f2a91`
    """
    from wardround.core.rundir import RunDir  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.faces.report.own import find_result, shared_model, write_own_report  # noqa: PLC0415
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    home = Home.find(directory).root
    digest = find_result(home, run)
    print(f"report  {write_own_report(home, digest)}")
    found = RunDir(home / "results" / digest)
    print(f"model   {found.model}" if found.model.is_file() else "model   has not been received yet")
    if (shared := shared_model(found.root)) is not None:
        print(f"shared  {shared}: what all sites have; the model above is this site's own")
    print(f"use it  wardround predict {found.root} IMAGES --out FOLDER")
