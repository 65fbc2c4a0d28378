"""``wardround site service``: the site agent as a service of an ordinary user."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wardround.runtimes.https.systemd import Step

_WHAT = typer.Option("--install", help="Write the unit and start it now and with the machine.")


def register(site_app: typer.Typer) -> None:
    """Add the command to ``wardround site``."""
    site_app.command()(service)


def service(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")
    ] = None,
    install: Annotated[bool, _WHAT] = False,
    print_: Annotated[bool, typer.Option("--print", help="Print the unit and change nothing.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Stop it and remove the unit.")] = False,
    name: Annotated[str, typer.Option("--name", help="The unit's name, for several sites.")] = "wardround-site",
) -> None:
    """Run `wardround site serve` as a systemd service of this user; no administrator is needed.

    The proxy variables of this shell are passed on, in a file that only this user can read. Exit code 1 if a
    step did not work; what to do is said.

    Examples: `wardround site service --install`, `wardround site service --remove`
    """
    import os  # noqa: PLC0415 - keeps the command line's start fast
    import sys  # noqa: PLC0415

    from wardround.core.errors import InputError  # noqa: PLC0415
    from wardround.runtimes.https import systemd  # noqa: PLC0415
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    if install + print_ + remove != 1:
        raise InputError("say one of --install, --print and --remove")
    wanted = systemd.Service(Path(sys.executable).absolute(), Home.find(directory).root, name)
    if print_:
        print(systemd.unit_text(wanted), end="")
        return
    act = systemd.install if install else systemd.remove
    if not _said(act(wanted, os.environ, systemd.run_command)):
        raise typer.Exit(1)


def _said(steps: list[Step]) -> bool:
    from rich.console import Console  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(highlight=False)
    for step in steps:
        console.print(Text("ok      " if step.done else "failed  ", "green" if step.done else "red"), end="")
        console.print(Text(step.what), soft_wrap=True)
        if step.remedy:
            console.print(Text(f"        {step.remedy}"), soft_wrap=True)
    return all(step.done for step in steps)
