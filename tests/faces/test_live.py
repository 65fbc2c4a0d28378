"""Progress on a screen that is no terminal: plain lines, nothing swallowed."""

from __future__ import annotations

import io

from rich.console import Console

from wardround.faces.cli.live import LiveRun

ROUND = {"event": "round_ended", "round": 1, "scores": {"north": 0.5, "b[/red]": None}, "mean_dice": 0.5, "best": True,
         "seconds": {"total": 2.0}}  # fmt: skip


def shown(*events: dict[str, object]) -> str:
    out = io.StringIO()
    with LiveRun(Console(file=out, width=200), rounds=3) as live:
        for event in events:
            live.listen("federated", dict(event))
            live.progress("north", "training", 1, 3)
    return out.getvalue()


def test_names_of_sites_are_text_and_not_markup() -> None:
    assert "round 2/3: validation Dice 0.500  [north 0.500  b[/red] -]  2.0 s" in shown(ROUND)


def test_a_missing_site_and_an_alert_are_one_line_each() -> None:
    text = shown(
        {"event": "site_failed", "round": 0, "site": "S", "kind": "error", "reason": "no [bold]disk", "verb": "train"},
        {
            "event": "site_alert",
            "round": 0,
            "verb": "train",
            "site": "S",
            "kind": "clipped",
            "value": 9.0,
            "limit": 3.0,
        },
        {"event": "run_resumed"},
    )
    assert "round 1: S is missing (error): no [bold]disk" in text
    assert len(text.strip().splitlines()) == 3
