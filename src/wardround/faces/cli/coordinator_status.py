"""``wardround coordinator status``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wardround.runtimes.https.people_wire import Status

WIDE = 160  # columns where no terminal says how many there are
EVERY = 2.0  # seconds between two looks of --watch


def register(app: typer.Typer) -> None:
    """Add the command to ``wardround coordinator``."""
    app.command()(status)


def status(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder, or a person's.")],
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="One run, by 6 or more digits.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document for programs.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every two seconds, until Ctrl-C.")] = False,
) -> None:
    """Sites (when they called last, with which software), people, and runs with each site's standing and task.

    Says so where nobody serves the federation.

    Examples: `wardround coordinator status /srv/federation`,
    `wardround coordinator status /srv/federation 3f2a9c --watch`
    """
    from wardround.core.errors import InputError  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.faces.cli.coordinator_shown import shown  # noqa: PLC0415
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import AskStatus, Status, run_name  # noqa: PLC0415

    if json_ and watch:
        raise InputError("--json prints once: leave out --watch")
    asked, desk = AskStatus(run=None if run is None else run_name(run)), open_desk(directory)

    def look() -> Status:
        return desk.ask(asked, Status)

    if json_:
        print(look().model_dump_json(indent=2))
    elif watch:
        _watch(look, directory, run is not None)
    else:
        from rich.console import Console  # noqa: PLC0415

        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = WIDE
        console.print(shown(look(), directory, one=run is not None))


def _watch(look: Callable[[], Status], directory: Path, one: bool) -> None:
    """Until Ctrl-C, which is how it is meant to end."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from wardround.faces.cli.coordinator_shown import shown  # noqa: PLC0415

    with suppress(KeyboardInterrupt), Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            live.update(shown(look(), directory, one), refresh=True)
            time.sleep(EVERY)
