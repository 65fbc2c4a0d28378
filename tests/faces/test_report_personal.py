"""The sites' own models in the report and on the console."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as made
from rich.console import Console

from wardround.core.rundir import RunDir
from wardround.faces.report.collect import collect
from wardround.faces.report.console import print_summary
from wardround.faces.report.page import write_report
from wardround.faces.report.personal import personal, personal_remarks

TUNED = {
    "Aarhus": {"kept": True, "before": 0.61, "after": 0.7, "updates": 40, "samples": 80},
    "Delft": {"kept": False, "before": 0.5, "after": 0.48, "updates": 40, "samples": 80},
}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Fine-tuned at two sites, kept at one; local-only models everywhere."""
    plan = {**made.PLAN, "private": {"tensors": ["norm.affine"], "unseen": "initial"}}
    place = made.build(tmp_path / "run", overlays=False, plan=plan)
    change(place, personal={"Aarhus": made.dump(made.scores(0.9, 14, 3))}, finetune=TUNED)
    return place


def change(run: RunDir, **more: Any) -> None:
    run.write_json("scores.json", {**run.read_json("scores.json"), **more})


def test_a_site_whose_fine_tuning_was_not_kept_uses_the_shared_model(run: RunDir) -> None:
    rows = {row.site: row for row in personal(collect(run))}
    assert set(rows) == {"Aarhus", "Delft"}
    assert rows["Delft"].own == rows["Delft"].shared
    assert rows["Delft"].over_shared == 0
    assert rows["Aarhus"].over_shared == pytest.approx((rows["Aarhus"].own or 0) - (rows["Aarhus"].shared or 0))
    assert rows["Aarhus"].note == "fine-tuning kept: validation Dice 0.610 to 0.700 in 40 steps"
    assert rows["Delft"].note == "fine-tuning not kept: validation Dice 0.500 to 0.480 in 40 steps"
    local = json.loads((run.baseline("local-Aarhus").root / "scores.json").read_text())["sites"]["Aarhus"]
    assert rows["Aarhus"].local == pytest.approx(local["labels"]["lesion"]["dice"]["total"] / 14)


def test_the_page_and_the_console_show_them(run: RunDir) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "The sites’ own models" in page
    assert "fine-tuning not kept" in page
    assert "scored with its own private tensors (norm.affine)" in page
    out = io.StringIO()
    print_summary(run, Console(file=out, width=200))
    assert "The sites' own models" in out.getvalue()
    assert "0.610 to 0.700" in out.getvalue()


def test_an_ordinary_run_has_no_such_section(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", overlays=False)
    assert personal(collect(run)) == []
    assert personal_remarks(collect(run)) == []
    assert "own models" not in write_report(run).read_text(encoding="utf-8")


def test_two_models_are_said_to_cost_twice(run: RunDir) -> None:
    lines = run.events.read_text(encoding="utf-8").replace('"personal_updates": 0', '"personal_updates": 30')
    run.events.write_text(lines, encoding="utf-8")
    assert any("costs twice the steps" in remark for remark in personal_remarks(collect(run)))


@pytest.mark.parametrize(
    "broken", [{"personal": 3}, {"personal": {"Aarhus": 3}, "finetune": None}, {"finetune": {"Delft": "x"}},
               {"finetune": {"<b>": {"kept": 1, "before": "<script>", "updates": "y"}}}],
)  # fmt: skip
def test_what_cannot_be_understood_is_passed_over(run: RunDir, broken: dict[str, Any]) -> None:
    change(run, **broken)
    page = write_report(run).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert page.endswith("</html>\n") or "</html>" in page
