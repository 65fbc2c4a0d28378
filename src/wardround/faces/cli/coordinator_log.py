"""``wardround coordinator log``."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wardround.runtimes.https.office import Office


def register(app: typer.Typer) -> None:
    """Add the command to ``wardround coordinator``."""
    app.command()(log)


def log(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Find any change, gap or cut in the log.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Entries, or what was found, as JSON lines.")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=1, help="Only the last so many entries.")] = None,
) -> None:
    """Print the coordinator's audit log, or with --verify show that nothing in it was changed, removed or cut off.

    It is verified against the heads that the sites signed, which lie here; also while serving. Whoever wrote log
    and heads anew is found by the sites at the next round: they keep what they signed. Exit code 1 on any finding.

    Examples: `wardround coordinator log /srv/federation --tail 20`,
    `wardround coordinator log /srv/federation --verify`
    """
    from wardround.core.errors import InputError  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.faces.cli.site_log import print_entries, print_findings  # noqa: PLC0415
    from wardround.runtimes.https.office import open_office  # noqa: PLC0415

    if (directory / "person.json").is_file():
        raise InputError(f"{directory} is a person's folder: the log lies in the coordinator's, on its own machine")
    office = open_office(directory)
    try:
        if verify:
            notes = _vouched(office)  # before the log is read: it only grows
            print_findings(office.audit.path, office.verify_log(), "a site", notes, json_)
        else:
            print_entries(office.audit.path, json_, tail)
    finally:
        office.close()


def _vouched(office: Office) -> list[str]:
    """Up to which entry each site has signed."""
    newest = dict(office.store.own_heads())
    lines = []
    for site, head in sorted(newest.items()):
        when = datetime.fromtimestamp(head.time).strftime("%Y-%m-%d %H:%M:%S")
        lines.append(f"{site} last signed entry {head.length} ({when})")
    return lines
