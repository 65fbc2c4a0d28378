"""The summary table and the console: numbers are those of scores.json, worst site first."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import report_fixtures as made
from rich.console import Console

from wardround.core.rundir import RunDir
from wardround.core.scores import LesionCounts, Scores
from wardround.faces.report.collect import collect
from wardround.faces.report.console import print_summary
from wardround.faces.report.history import read_history
from wardround.faces.report.page import write_report
from wardround.faces.report.results import work
from wardround.faces.report.shown import decimal
from wardround.faces.report.table import summary_table, verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return made.build(tmp_path_factory.mktemp("run") / "table", overlays=False)


def stored(run: RunDir) -> dict[str, Scores]:
    sites = json.loads((run.root / "scores.json").read_text(encoding="utf-8"))["sites"]
    return {site: Scores.model_validate(value) for site, value in sites.items()}


def test_worst_federated_site_first_and_mean_last(run: RunDir) -> None:
    rows = summary_table(run)
    dice = [row.federated.dice or 0 for row in rows[:-1]]
    assert dice == sorted(dice)
    assert [row.site for row in rows] == ["Delft", "Bologna", "Coimbra", "Aarhus", "Mean over sites"]
    assert [row.mean for row in rows] == [False] * 4 + [True]


def test_numbers_are_those_of_the_files(run: RunDir) -> None:
    own, pooled = stored(run), stored(run.baseline("pooled"))
    page = write_report(run).read_text(encoding="utf-8")
    for row in summary_table(run)[:-1]:
        local = stored(run.baseline(f"local-{row.site}"))[row.site]
        assert row.cases == own[row.site].cases
        assert row.federated.dice == own[row.site].mean_dice
        assert row.pooled.dice == pooled[row.site].mean_dice
        assert row.local.dice == local.mean_dice
        assert row.federated.hd95 == pytest.approx(own[row.site].labels["lesion"].hd95.mean)
        assert row.federated.surface_dice == pytest.approx(own[row.site].labels["lesion"].surface_dice.mean)
        lesions = own[row.site].labels["lesion"].lesions
        assert isinstance(lesions, LesionCounts)
        assert (row.federated.lesion_f1, row.federated.sensitivity, row.federated.precision) == (
            lesions.f1,
            lesions.sensitivity,
            lesions.precision,
        )
        for figures in (row.local, row.pooled, row.federated):
            assert f">{decimal(figures.dice)}<" in page


def test_mean_row_counts_sites_alike(run: RunDir) -> None:
    *sites, mean = summary_table(run)
    assert mean.federated.dice == pytest.approx(sum(row.federated.dice or 0 for row in sites) / 4)
    assert mean.cases == sum(row.cases for row in sites)
    assert mean.over_pooled == pytest.approx((mean.federated.dice or 0) - (mean.pooled.dice or 0))


def test_verdict_compares_only_sites_that_have_both(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", overlays=False)
    place = run.baseline("pooled")
    content = place.read_json("scores.json")
    del content["sites"]["Delft"]
    place.write_json("scores.json", content)
    rows = summary_table(run)
    found = verdict(rows)
    both = [row for row in rows if not row.mean and row.pooled.dice is not None]
    assert len(both) == 3
    share = sum(row.federated.dice or 0 for row in both) / sum(row.pooled.dice or 0 for row in both)
    assert found.of_pooled == pytest.approx(share)
    assert found.worst is not None
    assert found.worst.site == "Delft"
    assert found.gap == pytest.approx((rows[3].federated.dice or 0) - (rows[0].federated.dice or 0))
    assert "The pooled mean covers 3 of 4 sites." in write_report(run).read_text(encoding="utf-8")


def test_site_without_a_score_stands_behind_the_others(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", overlays=False)
    content = run.read_json("scores.json")
    del content["sites"]["Delft"]
    run.write_json("scores.json", content)
    assert [row.site for row in summary_table(run)] == ["Bologna", "Coimbra", "Aarhus", "Delft", "Mean over sites"]
    assert "No test scores of this model from Delft." in write_report(run).read_text(encoding="utf-8")


def test_unreadable_scores_are_said(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", baselines=False, overlays=False, rounds=2)
    run.write_json("scores.json", {"sites": {"Delft": {"cases": "many"}}})
    assert summary_table(run) == []
    assert "The test scores of run cannot be read" in write_report(run).read_text(encoding="utf-8")


def test_work_counts_updates_of_one_model_and_all_samples(run: RunDir) -> None:
    federated, pooled, local = work(collect(run))
    assert (federated.updates, federated.kept, federated.models) == ("360", "270", 1)
    assert federated.samples == (12 * 4 - 2) * 60
    assert (pooled.updates, pooled.samples) == ("360", 12 * 60)
    assert (local.models, local.updates, local.samples) == (4, "360", 4 * 12 * 60)


def test_rounds_are_numbered_from_one_and_repeats_heal() -> None:
    when = "2026-03-02T09:00:00+00:00"
    failed = {"event": "site_failed", "round": 0, "verb": "train", "site": "A", "kind": "late", "reason": "r"}
    facts = {"kind": "train", "cases": 1, "updates": 3, "samples": 6, "loss": 1.0, "rate": 0.1}
    reply = {"event": "site_replied", "round": 0, "verb": "train", "site": "A", "facts": facts}
    events = [{"event": "round_started", "round": 0, "sites": ["A"]}, failed, reply, reply]
    history = read_history([{"time": when, **event} for event in events])
    assert list(history.rounds) == [1]
    assert history.rounds[1].failed == {}
    assert (history.updates(), history.samples()) == (3, 6)
    assert [failure.round for failure in history.failures] == [1]


def test_console_shows_the_table(run: RunDir) -> None:
    file = io.StringIO()
    print_summary(run, Console(width=120, file=file))
    text = file.getvalue()
    for row in summary_table(run):
        assert row.site in text
        assert decimal(row.federated.dice) in text
        assert decimal(row.local.dice) in text
    assert "Worst site: Delft" in text
    assert "360" in text


def test_console_before_any_test(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", rounds=2, finished=False)
    with (tmp_path / "out.txt").open("w", encoding="utf-8") as file:
        print_summary(run, Console(width=100, file=file))
    assert "No test scores yet" in (tmp_path / "out.txt").read_text(encoding="utf-8")
