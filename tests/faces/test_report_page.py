"""The page: self-contained, escaped, whole at any moment of a run."""

from __future__ import annotations

import base64
import copy
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as made
from report_html import Page
from typer.testing import CliRunner

from wardround.core.errors import RunError
from wardround.core.rundir import RunDir
from wardround.faces.report.page import write_report

EVIL = '<script src="http://evil.example/x.js">alert(1)</script>"\'><img src=x onerror=alert(2)>{{ 7*7 }}'
LOADING = {"src", "href", "srcset", "data", "action", "formaction", "poster", "background", "xlink:href", "ping"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(made.build(tmp_path_factory.mktemp("run") / "whole")))


def test_nothing_is_loaded_from_anywhere(whole: Page) -> None:
    for tag, attributes in whole.tags:
        for name, value in attributes.items():
            if name in LOADING:
                assert (value or "").startswith(("data:", "#")), (tag, name, value)
            assert not name.startswith("on"), (tag, name)
            assert name != "style", tag
    assert "@import" not in whole.source
    assert "url(" not in whole.source
    assert "http:" not in whole.source
    assert "https:" not in whole.source


def test_policy_names_exactly_the_pages_own_style_and_script(whole: Page) -> None:
    policy = next(a["content"] for tag, a in whole.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", whole.source, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_no_chart_holds_a_broken_number(whole: Page) -> None:
    for tag, attributes in whole.tags:
        for name, value in attributes.items():
            if name not in ("src", "content"):  # pictures, and the policy's 'none'
                assert not re.search(r"\b(nan|inf|None)\b", value or ""), (tag, name, value)
    assert not re.search(r"\b(nan|None|Undefined)\b", whole.text)


def test_pictures_and_charts_have_words_and_tables_have_headers(whole: Page) -> None:
    assert all(attributes.get("alt") for tag, attributes in whole.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in whole.tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in whole.tags if tag == "th")
    assert whole.count("caption") == whole.count("table") > 5
    identifiers = [attributes["id"] for _, attributes in whole.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    linked = [a["href"] for tag, a in whole.tags if tag == "a"]
    assert {str(link).removeprefix("#") for link in linked} <= set(identifiers)


def test_every_section_says_something(whole: Page) -> None:
    for words in (
        "Stabilised after 12 rounds: no gain of 0.002 for 3 rounds.",
        "Every site receives the current model. It takes 30 optimiser steps",
        "the trained weights (about 3.5\u00a0MB)",
        "at least 3 of the 4 sites",
        "Few test cases at Delft (4 cases)",
        "6–7",
        "no answer within 10 minutes",
        "1 step (rounds 4)",
        "best: round 9",
        "in a network they never leave the hospital",
        "Vote 2025/117",
    ):
        assert words in whole.text, words


def test_hostile_texts_change_no_tag(tmp_path: Path) -> None:
    def shape(name: str, words: str) -> tuple[Page, Counter[tuple[str, tuple[str, ...]]]]:
        plan = copy.deepcopy(made.PLAN)
        plan["study"] = dict.fromkeys(("title", "purpose", "contact", "ethics", "ends"), words)
        plan["task"]["modalities"] = [words]
        run = made.build(tmp_path / name, sites=[words, "B", "C", "D"], plan=plan, baselines=False, overlays=False)
        log = made.Log(run.events)
        log.write("site_failed", round=3, verb="train", site=words, kind=words, reason=words)
        summary = made.dump(made.summary("x", 1))
        summary |= {"left_out": {words: 1}, "device": words, "software": words}
        summary["volume"] = {words: summary["volume"]["lesion"]}
        log.write("site_described", site=words, summary=summary)
        run.write_json("run.json", {**run.read_json("run.json"), "machine": {words: words}, "software": words})
        page = Page(write_report(run))
        return page, Counter((tag, tuple(sorted(attributes))) for tag, attributes in page.tags)

    page, hostile = shape("hostile", EVIL)
    _, harmless = shape("harmless", "x")
    assert hostile == harmless
    assert page.count("script") == 1
    assert "evil.example" in page.text  # shown, as text
    assert "{{ 7*7 }}" in page.text


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    made.begin(run, "federated", "federated", made.SITES, made.PLAN)
    page = Page(write_report(run))
    for words in (
        "No round has ended yet",
        "No test scores yet",
        "No site has described its data yet",
        "No pictures yet",
    ):
        assert words in page.text
    assert page.count("svg") == 0


def test_a_run_cut_off_in_its_first_round(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", rounds=1, finished=False)
    page = Page(write_report(run))
    assert "No round has ended yet" in page.text
    assert "No round has been validated yet" in page.text
    assert "round not finished" in page.text


def test_a_run_cut_off_later_with_a_torn_and_a_broken_line(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", rounds=5, finished=False)
    with run.events.open("a", encoding="utf-8") as file:
        file.write('{"event": "round_ended", "time": "2026-03-02T10:00:00+00:00"}\n{"event": "round_')
    page = Page(write_report(run))
    assert "Unfinished: round 4 is the last that ended" in page.text
    assert "Validation Dice, latest" in page.text
    assert "1 lines of events.jsonl could not be understood" in page.text


@pytest.mark.parametrize(("reason", "words"), [("aborted", "Stopped by hand"), ("failed", "Stopped by a failure")])
def test_a_run_that_was_stopped(tmp_path: Path, reason: str, words: str) -> None:
    run = made.build(tmp_path / "run", rounds=3, finished=False)
    made.Log(run.events).write("run_stopped", reason=reason, rounds=2, best_round=None)
    assert words in Page(write_report(run)).text
    made.Log(run.events).write("run_resumed")
    assert "Unfinished: round 2" in Page(write_report(run)).text


def test_a_finished_run_without_baselines(tmp_path: Path) -> None:
    page = Page(write_report(made.build(tmp_path / "run", baselines=False, overlays=False, rounds=4)))
    assert "No pooled baseline was run" in page.text
    assert "No local-only baselines were run" in page.text
    assert "Share of pooled Dice" not in page.text


def test_absurd_numbers_from_a_site_break_nothing(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", sites=["A", "B"], rounds=2, baselines=False, overlays=False)
    log = made.Log(run.events)
    vast: dict[str, Any] = {"n": 2, "total": 1e200, "squares": 1e300}
    summary = made.dump(made.summary("A", 0)) | {"spacing": [vast], "intensity": {"FLAIR": vast}}
    summary["volume"] = {"lesion": {"low": -1e300, "high": 1e300, "counts": [1, 2]}}
    log.write("site_described", site="A", summary=summary)
    facts = {"kind": "train", "cases": 1, "updates": 30, "samples": 60, "loss": 1.7e308, "rate": 0.1}
    seconds = {"data": 1e308, "compute": 1e308, "prepare": 0, "total": 1e308}
    made.replied(log, 1, "train", "A", facts=facts | {"seconds": seconds}, size=1)
    scores = run.read_json("scores.json")
    scores["sites"]["A"]["labels"]["lesion"]["dice"] = vast
    scores["sites"]["A"]["labels"]["lesion"]["hd95"] = vast
    run.write_json("scores.json", scores)
    assert "nan" not in write_report(run).read_text(encoding="utf-8").lower().split("<svg", 1)[1].split("base64")[0]


def test_synthetic_data_are_announced(tmp_path: Path, whole: Page) -> None:
    assert "Synthetic data." not in whole.text
    assert "They show images of patients" in whole.text
    page = Page(write_report(made.build(tmp_path / "run", synthetic=True, rounds=2, baselines=False)))
    assert "Synthetic data." in page.text
    assert "They show images of patients" not in page.text


def test_many_sites_and_rounds(tmp_path: Path) -> None:
    sites = [f"site-{n:02d}" for n in range(20)]
    run = made.build(tmp_path / "run", sites=sites, rounds=60, baselines=False, overlays=False)
    page = Page(write_report(run))
    assert "16 others in grey" in page.text


def test_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(RunDir(tmp_path))
    (tmp_path / "run.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match="not a JSON object"):
        write_report(RunDir(tmp_path))


def test_the_command_prints_the_path(tmp_path: Path) -> None:
    import typer

    from wardround.faces.cli.report import report

    app = typer.Typer()
    app.command()(report)
    run = made.build(tmp_path / "run", rounds=1, baselines=False, overlays=False)
    result = CliRunner().invoke(app, [str(run.root), "--no-pictures"])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(run.root / "report.html")
    assert run.report.is_file()
