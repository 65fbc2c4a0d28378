"""Live progress of a run: a moving display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from wardround.faces.alerts import alert_words

VERBS = {"preparing": "preparing images"}


class LiveRun:
    """Give `listen` and `progress` to `wardround.runtimes.assemble.carry_out`."""

    def __init__(self, console: Console, rounds: int) -> None:
        self._console, self._rounds = console, rounds
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._rows: dict[str, dict[str, str]] = {}
        self._bars = Progress(
            TextColumn("{task.fields[site]:<14}"), TextColumn("{task.description:<17}"), BarColumn(30),
            TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn(), console=console,
        )  # fmt: skip
        self._tasks: dict[str, Any] = {}
        self._live = Live(self._draw(), console=console, refresh_per_second=4) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.stop()

    def progress(self, site: str, what: str, done: int, total: int) -> None:
        """A site's worker is at ``done`` of ``total``."""
        if self._live is None:
            return
        with self._lock:
            if site not in self._tasks:
                self._tasks[site] = self._bars.add_task(what, total=total, site=site)
            self._bars.update(self._tasks[site], description=VERBS.get(what, what), completed=done, total=total)
            self._live.update(self._draw())

    def listen(self, arm: str, event: dict[str, Any]) -> None:
        """An event was written to an arm's log."""
        with self._lock:
            line = self._line(arm, event)
            if line is not None and self._live is None:
                self._console.print(f"{self._clock()}  {line}", highlight=False, markup=False, soft_wrap=True)
            if self._live is not None:
                self._live.update(self._draw())

    def _line(self, arm: str, event: dict[str, Any]) -> str | None:
        kind = event["event"]
        if kind == "site_described" and arm == "federated":
            cases, left_out = event["summary"]["cases"], sum(event["summary"]["left_out"].values())
            note = f", {left_out} left out (see `wardround check`)" if left_out else ""
            return (
                f"{event['site']}: {cases['train']} training, {cases['validation']} validation, "
                f"{cases['test']} test cases{note}"
            )
        if kind == "site_failed":
            return f"{arm}: round {event['round'] + 1}: {event['site']} is missing ({event['kind']}): {event['reason']}"
        if kind == "site_alert":
            words = alert_words(event["kind"], event["value"], event["limit"])
            return f"{arm}: round {event['round'] + 1}: {event['site']}: {words}"
        if kind == "round_ended":
            return self._round(arm, event)
        if kind == "run_stopped":
            return f"{arm}: {event['reason']} after {event['rounds']} rounds"
        return f"{arm}: goes on where it was interrupted" if kind == "run_resumed" else None

    def _round(self, arm: str, event: dict[str, Any]) -> str:
        if not event["scores"]:
            return f"{arm}: round {event['round'] + 1}/{self._rounds}  {event['seconds']['total']:.1f} s"
        sites = {s: "-" if v is None else f"{v:.3f}" for s, v in event["scores"].items()}
        mean = "-" if event["mean_dice"] is None else f"{event['mean_dice']:.3f}"
        number = f"{event['round'] + 1}/{self._rounds}"
        self._rows[arm] = {
            "arm": arm, "round": number, "Dice": mean + (" (best)" if event["best"] else ""),
            "sites": "  ".join(f"{s} {v}" for s, v in sites.items()), "s": f"{event['seconds']['total']:.1f}",
        }  # fmt: skip
        each = "  ".join(f"{s} {v}" for s, v in sites.items())
        return f"{arm}: round {number}: validation Dice {mean}  [{each}]  {event['seconds']['total']:.1f} s"

    def _draw(self) -> Group:
        return Group(self._table(), self._bars)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("model", "round", "validation Dice", "by site", "s/round"):
            table.add_column(name)
        for row in self._rows.values():
            table.add_row(row["arm"], row["round"], row["Dice"], row["sites"], row["s"])
        table.caption = f"{self._clock()} elapsed"
        return table

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._begin)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"
