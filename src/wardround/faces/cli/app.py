"""``wardround``: the commands, and how errors become exit codes.

Exit codes: 0 done; 1 a finding or a failure named on the screen; 2 wrong input; 3 storage (disk
full, folder not writable or in use); 4 the run cannot go on but can be resumed; 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import sys

import typer
from rich.console import Console

from wardround import __version__
from wardround.core.errors import WardRoundError
from wardround.faces.cli.adapt import adapt
from wardround.faces.cli.check import check
from wardround.faces.cli.compare import compare
from wardround.faces.cli.coordinator import coordinator_app
from wardround.faces.cli.demo import demo
from wardround.faces.cli.nvflare import nvflare_app
from wardround.faces.cli.plans import plan_app
from wardround.faces.cli.purge import purge
from wardround.faces.cli.report import report
from wardround.faces.cli.runs import resume, run
from wardround.faces.cli.site import site_app
from wardround.faces.cli.use import evaluate, predict

app = typer.Typer(
    name="wardround",
    help="Hospitals train one medical-image-segmentation model together, and no image leaves a hospital.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (demo, check, run, resume, compare, evaluate, predict, adapt, report, purge):
    app.command()(command)
app.add_typer(plan_app, name="plan")
app.add_typer(coordinator_app, name="coordinator")
app.add_typer(site_app, name="site")
app.add_typer(nvflare_app, name="nvflare")


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point of the ``wardround`` command."""
    console = Console(stderr=True, highlight=False)
    try:
        app(standalone_mode=True)
    except WardRoundError as error:
        console.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        console.print(f"[bold red]error:[/] {_escape(f'{error.strerror}: {error.filename}')}", soft_wrap=True)
        sys.exit(3)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
