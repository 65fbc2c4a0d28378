"""``wardround site doctor``: what stands between this site and its coordinator, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wardround.runtimes.https.doctor import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "red", "skipped": "dim"}


def register(site_app: typer.Typer) -> None:
    """Add the command to ``wardround site``."""
    site_app.command()(doctor)


def doctor(
    directory: Annotated[
        Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes longer than a few seconds.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Check everything that this site needs, and say what to do about what is not right.

    Name, proxy, TLS, the coordinator's identity, clock, key, what a proxy lets through and how fast, disk, memory,
    processor, dataset, policy, version. Nothing of the dataset is sent. Exit code 1 if a check fails, not for warnings.

    Examples: `wardround site doctor`, `wardround site doctor --quick --json`
    """
    from wardround.runtimes.https.doctor import examine  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    home = Home.find(directory)
    home.check_carrier()
    with _status(json_) as tell:
        findings = list(examine(home, quick, tell))
    if json_:
        print(json.dumps([vars(finding) for finding in findings], indent=2, ensure_ascii=False))
    else:
        _print(findings)
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(1)


@contextmanager
def _status(quiet: bool) -> Iterator[Callable[[str], None]]:
    """What is being done, on stderr where somebody watches."""
    from rich.console import Console  # noqa: PLC0415

    console = Console(stderr=True, quiet=quiet)
    with console.status("looking", spinner="line") as status:
        yield status.update


def _print(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("check", "", "what was seen, and what to do", show_lines=False)
    for finding in findings:
        words = Text(_printable(finding.seen))
        if finding.remedy:
            words.append(f"\n{_printable(finding.remedy)}", style="bold")
        table.add_row(finding.name, Text(finding.state, style=_STYLES[finding.state]), words)
    console = Console()
    console.print(table)
    counts = {state: sum(finding.state == state for finding in findings) for state in ("fail", "warn")}
    if not any(counts.values()):
        console.print("[green]All is well.[/]")
        return
    console.print(f"{counts['fail']} failed, {counts['warn']} to look at.")


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
