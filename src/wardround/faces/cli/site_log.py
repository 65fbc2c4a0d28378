"""``wardround site log``: what happened at this site, and whether the log still says all of it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wardround.core.audit import Findings, SignedHead
    from wardround.runtimes.https.home import Home

LastHead = Callable[[Path], "SignedHead | None"]
"""Takes the site folder, asks the coordinator for the last head of the site's log that it signed (None: it has
signed none), and raises WardRoundError where it cannot be asked."""

_CHAIN = frozenset(("n", "time", "event", "previous", "hash"))


def log_command(last_head: LastHead | None) -> Callable[..., None]:
    """The command, asking the coordinator with ``last_head`` where there is one."""

    def log(
        directory: Annotated[
            Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")
        ] = None,
        verify: Annotated[bool, typer.Option("--verify", help="Find any change, gap or cut in the log.")] = False,
        json_: Annotated[bool, typer.Option("--json", help="Entries, or what was found, as JSON lines.")] = False,
        tail: Annotated[int | None, typer.Option("--tail", min=1, help="Only the last so many entries.")] = None,
    ) -> None:
        """Print the audit log, or with --verify show that nothing in it was changed, removed or cut off.

        It is verified against the heads that the coordinator signed, which lie here, and against the last one
        that the coordinator knows, where it can be reached. Exit code 1 on any finding.

        Examples: `wardround site log --tail 20`, `wardround site log --verify`
        """
        from wardround.runtimes.https.home import Home  # noqa: PLC0415 - keeps the command line's start fast

        home = Home.find(directory)
        if verify:
            _verify(home, last_head, json_)
        else:
            print_entries(home.audit, json_, tail)

    return log


def line_of(entry: dict[str, Any]) -> str:
    """An entry as a person reads it: number, local time, event, facts."""
    facts = [
        f"{name} {_short(value)}" for name, value in entry.items() if name not in _CHAIN and value not in ("", None)
    ]
    text = f"{entry['n']:>6}  {_moment(entry['time'])}  {entry['event'].replace('_', ' '):<18}  {', '.join(facts)}"
    return printable(text).rstrip()


def printable(text: str) -> str:
    """Text as one line that no terminal obeys; all kinds of spaces are spaces."""
    return "".join(c if c.isprintable() else " " if unicodedata.category(c) == "Zs" else "?" for c in text)


def print_entries(path: Path, json_: bool, tail: int | None) -> None:
    """Print the entries of a log, or only the last ``tail``, as lines for people or as JSON."""
    from wardround.core.audit import read_entries  # noqa: PLC0415

    empty = True
    for entry in read_entries(path, tail):
        empty = False
        print(json.dumps(entry, ensure_ascii=False, sort_keys=True) if json_ else line_of(entry))
    if empty and not json_:
        print(f"{path} has no entries")


def print_findings(path: Path, findings: Findings, signer: str, notes: list[str], json_: bool) -> None:
    """Print what `verify` saw; ``signer`` is whoever signs the heads of this log. Exit code 1 on any finding."""
    if json_:
        print(json.dumps(_document(findings, notes), ensure_ascii=False))
    else:
        for text in _report(path, findings, signer, notes):
            print(text)
    if not findings.clean:
        raise typer.Exit(1)


def _verify(home: Home, last_head: LastHead | None, json_: bool) -> None:
    from wardround.core.audit import verify  # noqa: PLC0415
    from wardround.core.errors import StorageError, WardRoundError  # noqa: PLC0415
    from wardround.site.heads import read_heads  # noqa: PLC0415

    notes: list[str] = []
    heads: list[SignedHead] = []
    damaged: list[str] = []
    try:
        heads = read_heads(home.heads)
    except StorageError as error:
        damaged = [str(error)]
    try:
        asked = last_head(home.root) if last_head is not None else None
        if asked is not None:
            heads.append(asked)
        notes.append(_asked_words(last_head is not None, asked))
    except WardRoundError as error:
        notes.append(f"the coordinator was not asked which head it signed last: {str(error).splitlines()[0]}")
    findings = verify(home.audit, heads, _checker(home))
    findings = replace(findings, faults=(*findings.faults, *damaged))
    print_findings(home.audit, findings, "the coordinator", notes, json_)


def _asked_words(possible: bool, head: SignedHead | None) -> str:
    if not possible:
        return "the coordinator was not asked which head it signed last"
    if head is None:
        return "the coordinator has signed no head of this log yet"
    return f"the coordinator says that it last signed entry {head.length}"


def _checker(home: Home) -> Callable[[SignedHead], bool]:
    from wardround.runtimes.https.heads import signed_by_coordinator  # noqa: PLC0415

    return partial(signed_by_coordinator, home.settings())


def _report(path: Path, findings: Findings, signer: str, notes: list[str]) -> list[str]:
    lines = [f"checked {path}: {findings.head.length} entries, last hash {findings.head.hash[:16]}"]
    if findings.signed is not None:
        when = datetime.fromtimestamp(findings.signed.time).strftime("%Y-%m-%d %H:%M:%S")
        lines.append(f"countersigned by {signer} up to entry {findings.signed.length} ({when})")
    if findings.unsigned:
        lines.append(
            f"{findings.unsigned} entries after that are chained, but not countersigned yet"
            if findings.signed
            else "no entry is countersigned yet: the log is only held against itself"
        )
    lines += notes
    lines += [f"entry {number} tells of a last line that a power cut had torn" for number in findings.repairs]
    if findings.clean:
        return [*lines, "nothing was changed, removed, moved or cut off"]
    count = len(findings.faults)
    return [*lines, f"{count} finding{'' if count == 1 else 's'}:", *(f"  - {fault}" for fault in findings.faults)]


def _document(findings: Findings, notes: list[str]) -> dict[str, Any]:
    return {
        "clean": findings.clean,
        "entries": findings.head.length,
        "hash": findings.head.hash,
        "countersigned": findings.signed.model_dump(mode="json") if findings.signed else None,
        "not_countersigned": findings.unsigned,
        "repairs": list(findings.repairs),
        "notes": notes,
        "faults": list(findings.faults),
    }


def _moment(text: str) -> str:
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return text[:19]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    digest = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if digest else text
