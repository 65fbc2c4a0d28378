from __future__ import annotations

import io
from pathlib import Path

import pytest
import report_fixtures as made
from rich.console import Console

from wardround.faces.alerts import alert_words
from wardround.faces.cli.live import LiveRun
from wardround.faces.report.attendance import conspicuous
from wardround.faces.report.history import Notice, read_history
from wardround.faces.report.page import write_report


def test_alerts_of_one_kind_are_one_line_with_what_stood_out_most() -> None:
    notices = [
        Notice(1, "A", "clipped", 30.0, 10.0),
        Notice(2, "B", "rejected", None, None),
        Notice(2, "A", "clipped", 400.0, 10.0),
        Notice(2, "A", "clipped", 400.0, 10.0),  # the round was repeated after an interruption
        Notice(3, "A", "clipped", 20.0, 10.0),
    ]
    first, second = conspicuous(notices)
    assert (first.site, first.rounds, first.count) == ("A", "1–3", 3)
    assert "norm 400, at most 10" in first.words
    assert (second.site, second.rounds, second.count) == ("B", "2", 1)


def test_the_report_lists_alerts(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", rounds=2, baselines=False, overlays=False)
    log = made.Log(run.events)
    log.write("site_alert", round=0, verb="train", site="Delft", kind="clipped", value=812.0, limit=24.5)
    log.write("site_alert", round=1, verb="train", site="Delft", kind="<b>new", value=1e300, limit=None)
    log.write("site_alert", round=1, verb="train", site="Delft")
    page = write_report(run).read_text(encoding="utf-8")
    assert "Conspicuous contributions" in page
    assert "its update was shortened: norm 812, at most 24.5" in page
    assert "&lt;b&gt;new" in page
    assert "1 lines of events.jsonl could not be understood" in page


def test_a_run_without_alerts_has_no_such_table(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", rounds=2, baselines=False, overlays=False)
    assert "Conspicuous" not in write_report(run).read_text(encoding="utf-8")
    assert read_history([]).notices == []


@pytest.mark.parametrize("kind", ["clipped", "rejected", "replayed", "unmoved", "heavy", "contrary"])
def test_live_prints_one_line(kind: str) -> None:
    out = io.StringIO()
    with LiveRun(Console(file=out, width=200), 5) as live:
        event = {"event": "site_alert", "round": 2, "site": "B", "kind": kind, "value": 3.0, "limit": None}
        live.listen("federated", event)
    assert f"federated: round 3: B: {alert_words(kind, 3.0, None)}" in out.getvalue()
    assert out.getvalue().count("\n") == 1
