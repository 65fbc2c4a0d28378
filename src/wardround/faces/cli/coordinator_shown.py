"""What ``wardround coordinator status`` prints. Whatever a stranger wrote is text here, never markup."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wardround.faces.cli.site_log import printable
from wardround.faces.report.shown import duration
from wardround.runtimes.https.people_wire import Member, RunStatus, Status, Taking, is_carried

LOST = 120.0  # seconds without a request after which a site is shown as away: a waiting one calls every 30
SOON = 30 * 86_400  # seconds before the end of a key from which it is mentioned
_COLOURS = {"approved": "green", "refused": "red", "revoked": "red", "failed": "red", "late": "yellow", "error": "red"}
_COLOURS |= {"pending": "yellow", "waiting": "yellow", "running": "green", "ended": "green", "aborted": "red"}


def shown(status: Status, directory: Path, one: bool = False) -> RenderableType:
    """The whole federation, or (``one``) a single run; ``directory`` is where the command was given."""
    parts: list[RenderableType] = []
    if not one:
        parts.append(Text(f"{printable(status.federation)}  {status.url}", style="bold"))
    if not status.served and not is_carried(status.url):
        parts.append(Text("nobody serves it now: sites get no answer and no run goes on. Start it with", style="red"))
        parts.append(Text(f"  wardround coordinator serve {directory}", no_wrap=True, overflow="ignore"))
    if not one:
        parts.append(_members(status))
        if not status.runs:
            parts.append(Text("no plan was submitted yet"))
    for run in status.runs:
        parts += ["", _head(run), *_notes(run)]
        if one or run.state in ("waiting", "running", "failed"):
            parts.append(_sites(run, status.now))
    return Group(*parts)


def _members(status: Status) -> RenderableType:
    if not status.members:
        return Text("nobody has joined yet: `wardround coordinator invite` makes invitations")
    table = Table("name", "role", "last seen", "software", "", box=None, pad_edge=False, header_style="dim")
    for member in status.members:
        seen = "never" if member.seen is None else f"{duration(max(0.0, status.now - member.seen))} ago"
        away = member.role == "site" and member.active and (member.seen is None or status.now - member.seen > LOST)
        style = "yellow" if away else ""
        note, colour = _remark(member, status.now)
        cells = Text(member.name), Text(member.role), Text(seen, style=style), Text(printable(member.software))
        table.add_row(*cells, Text(note, style=colour))
    return table


def _remark(member: Member, now: float) -> tuple[str, str]:
    if not member.active:
        return "revoked" + (f": {printable(member.reason)}" if member.reason else ""), "red"
    if member.expires < now:
        return "its key has expired: invite it again with --rekey", "red"
    if member.expires < now + SOON:
        return f"its key expires on {_day(member.expires)}", "yellow"
    return "", ""


def _head(run: RunStatus) -> Text:
    text = Text(f"{run.plan[:12]}  ", style="bold")
    text.append(run.state, style=_COLOURS.get(run.state, ""))
    text.append(f"  {printable(run.title)}")
    text.append(f"  round {run.round} of at most {run.limit}")
    if run.best is not None:
        text.append(f"  best validation Dice {run.best:.3f} (round {run.best_round})")
    if run.task:
        text.append(f"  now: {run.task}")
    return text


def _notes(run: RunStatus) -> list[RenderableType]:
    notes: list[RenderableType] = [Text(f"  submitted by {printable(run.owner)} on {_day(run.created)}", style="dim")]
    if run.state == "waiting":
        ready = sum(taking.standing == "approved" for taking in run.sites)
        notes.append(Text(f"  {ready} of {len(run.sites)} sites have approved, {run.needed} are needed"))
    notes += [Text(f"  {printable(line)}") for line in run.note.splitlines()]
    if run.revoked:
        names = ", ".join(run.revoked)
        words = f"  its model contains contributions of {names}, revoked since; nothing is unlearned"
        notes.append(Text(words, style="yellow"))
    return notes


def _sites(run: RunStatus, now: float) -> Table:
    table = Table("  site", "standing", "task", "last counted in", "", box=None, pad_edge=False, header_style="dim")
    for taking in run.sites:
        table.add_row(
            Text(f"  {taking.site}"),
            Text(taking.standing, style=_COLOURS.get(taking.standing, "")),
            Text(_doing(taking, now), style=_COLOURS.get(taking.doing, "")),
            Text("" if taking.counted is None else f"round {taking.counted}"),
            Text(printable(taking.reason)),
        )
    return table


def _doing(taking: Taking, now: float) -> str:
    if taking.doing != "working" or taking.moved is None:
        return taking.doing
    return f"working, last sign {duration(max(0.0, now - taking.moved))} ago"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d")
