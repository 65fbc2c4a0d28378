"""The site's own report: right numbers, worst first, everything that left; hostile or damaged files harm nothing."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
import report_fixtures as made
from own_fixtures import DIGEST, SITE, build_site, case_rows
from report_html import Page
from typer.testing import CliRunner

from wardround.core.errors import InputError, RunError
from wardround.core.rundir import RunDir
from wardround.faces.cli.site_results import results
from wardround.faces.report.own import collect_own, find_result, write_own_report
from wardround.faces.report.own_log import summarise


def page_of(home: Path) -> Page:
    return Page(write_own_report(home, DIGEST))


def test_cases_stand_worst_first_beside_the_federation(tmp_path: Path) -> None:
    page = page_of(build_site(tmp_path))
    names = [row["case"] for row in sorted(case_rows(14), key=lambda row: row["dice"])]
    places = [page.text.index(f"{name}\n") if f"{name}\n" in page.text else page.text.index(name) for name in names]
    assert len(set(places)) == 14
    table = page.text[page.text.index("Case by case, worst first") :]
    assert sorted(names, key=table.index) == names
    mean = sum(row["dice"] for row in case_rows(14)) / 14
    for words in (f"{mean:.3f}", "0.702", "4 sites contributed, 5 were asked", "Stabilised after 12 rounds", "round 9"):
        assert words in page.text
    assert page.count("img") == 4
    assert "sub-Hidden" in page.text  # pictures bear their cases' names: this page stays here
    assert "For this hospital alone" in page.text


def test_what_left_is_added_up_by_kind(tmp_path: Path) -> None:
    own = collect_own(build_site(tmp_path), DIGEST)
    kinds = {part.kind: (part.times, part.size) for part in own.log.left}
    assert kinds["tensors train"] == (10, 10 * 3_482_112 + 5000)
    assert kinds["moved"] == (200, 12_000)
    assert kinds["reply test"] == (1, 1500)
    assert "poll" not in kinds
    assert own.log.left[0].kind == "tensors train"
    assert own.log.trained == (1, 2, 3, 4, 5, 8, 9, 10, 11, 12)
    assert own.log.missed == ((6, "out of memory"), (7, "out of memory"))
    page = page_of(own.home)
    for words in ("Approved by Dr Berg: vote 2025/117", "It trained in 10 rounds of 12: 1–5, 8–12", "out of memory"):
        assert words in page.text
    assert "What it contributed up to round 9 is part of the final model" in page.text


def test_what_was_announced_and_not_sent_did_not_leave() -> None:
    about = {"plan": DIGEST, "task": f"{DIGEST}:0:train:0", "kind": "tensors"}
    log = summarise([{"event": "left", "bytes": 100, **about}, {"event": "not_sent", "bytes": 100, **about}])
    assert log.left == ()
    odd = {"event": "left", "bytes": "x", "task": "a:b:c:d:e", "kind": 7, "time": None}
    assert summarise([odd, {**odd, "event": "approved"}]).decisions[0].time is None


def test_the_page_acts_on_nothing_and_is_private(tmp_path: Path) -> None:
    home = build_site(tmp_path)
    evil = '<script>alert("x")</script><img src="https://evil.invalid">'
    (home / "site.json").write_text(json.dumps({"name": evil}), encoding="utf-8")
    rows = case_rows(3)
    rows[0]["case"] = evil
    (home / "runs" / DIGEST / "overlays" / "cases.json").write_text(json.dumps(rows), encoding="utf-8")
    page = page_of(home)
    assert evil in page.text
    assert page.count("script") == 0
    assert all(str(attributes["src"]).startswith("data:image/png;") for tag, attributes in page.tags if tag == "img")
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "script-src" not in str(policy)
    assert stat.S_IMODE((home / "results" / DIGEST / "report.html").stat().st_mode) == 0o600


def test_synthetic_images_are_called_so(tmp_path: Path) -> None:
    page = page_of(build_site(tmp_path, 5, ("anterior", "posterior"), synthetic=True))
    assert "Synthetic data." in page.text
    assert "Only 5 test cases" in page.text
    assert "Lesions found" not in page.text
    assert "posterior" in page.text


@pytest.mark.parametrize(
    "text", ["[", "{}", "[1, null, []]", '[{"case": 1, "dice": "x", "labels": {"a": {"dice": []}}}]']
)
@pytest.mark.parametrize("name", ["cases.json", "index.json"])
def test_damaged_lists_are_told_of(tmp_path: Path, name: str, text: str) -> None:
    home = build_site(tmp_path)
    (home / "runs" / DIGEST / "overlays" / name).write_text(text, encoding="utf-8")
    page_of(home)


def test_a_site_that_did_not_score_has_a_page_as_well(tmp_path: Path) -> None:
    home = build_site(tmp_path)
    overlays = home / "runs" / DIGEST / "overlays"
    for path in overlays.iterdir():
        path.unlink()
    (home / "results" / DIGEST / "outcome.json").write_text("[]", encoding="utf-8")
    (home / "results" / DIGEST / "model.safetensors").unlink()
    (home / "audit.jsonl").unlink()
    (home / "site.json").unlink()
    page = page_of(home)
    for words in ("has not scored the final model", "The final model is not here", "says nothing about this run"):
        assert words in page.text
    assert "The run has ended" in page.text


@pytest.mark.parametrize("kind", ["own", "shared"])
def test_the_page_shows_the_model_that_the_site_uses(tmp_path: Path, kind: str) -> None:
    home = build_site(tmp_path)
    result = RunDir(home / "results" / DIGEST)
    (result.root / "shared.safetensors").write_bytes(b"not read")
    result.write_json("run.json", {"plan": DIGEST, "model": kind})
    outcome = result.read_json("outcome.json")
    mine = {SITE: made.scores(0.5, 3, seed=1).model_dump(mode="json")}
    result.write_json("outcome.json", {**outcome, "own": mine, "personal": mine if kind == "own" else {}})
    text = page_of(home).text
    shared = made.scores(0.5, 3, seed=1).mean_dice or 0.0
    for words in (
        f"{shared:.3f}",
        "this site uses its own",
        "a model of its own, with what it kept",
        "shared.safetensors",
    ):
        assert (words in text) == (kind == "own"), words
    assert ("it has the shared one" in text) == (kind == "shared")


def test_runs_are_found_by_what_their_digest_begins_with(tmp_path: Path) -> None:
    home = build_site(tmp_path)
    assert find_result(home, "ABABAB") == DIGEST
    with pytest.raises(InputError, match="too short"):
        find_result(home, "abab")
    (home / "results" / (DIGEST[:20] + "0" * 44)).mkdir()
    for prefix, words in (("ababab", "several"), ("cdcdcd", "no run"), ("../../", "no run")):
        with pytest.raises(InputError, match=words):
            find_result(home, prefix)
    with pytest.raises(InputError, match="none yet"):
        find_result(tmp_path / "nowhere", "ababab")
    with pytest.raises(RunError):
        write_own_report(home, "c" * 64)


def test_the_command_says_where_things_are(tmp_path: Path) -> None:
    import typer

    home = build_site(tmp_path)
    app = typer.Typer()
    app.command()(results)
    settings = {"name": SITE}
    (home / "site.json").write_text(json.dumps(settings), encoding="utf-8")
    said = CliRunner().invoke(app, ["ababab", "--dir", str(home)])
    assert said.exit_code == 0, said.output
    assert f"{home / 'results' / DIGEST / 'report.html'}" in said.output
    assert "wardround predict" in said.output
