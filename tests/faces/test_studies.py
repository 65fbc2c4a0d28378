"""Studies: variants, their folders, the table and its questions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tiny import make_plan, write_plan, write_sites
from wardround.core.errors import InputError
from wardround.core.rundir import RunDir
from wardround.core.scores import LabelScores, Scores
from wardround.core.stats import Moments
from wardround.faces.cli.compare import markdown
from wardround.faces.cli.studies import create_study, read_study, slug, variants_of
from wardround.faces.report.comparison import LEFT_OUT, LOCAL, OTHERS, OWN, POOLED, Line, lines
from wardround.faces.report.gates import gates
from wardround.metrics.bootstrap import Interval
from wardround.planning.sites import load_sites


def line(name: str, **sites: float) -> Line:
    worst = min(sites, key=lambda site: sites[site])
    interval = Interval(sum(sites.values()) / len(sites), 0.0, 1.0)
    return Line(name, 3, sites, interval, Interval(sites[worst], 0.0, 1.0), worst, 0.01, None, 60, 1e6, 10.0)


def scores(dice: float) -> dict[str, Any]:
    found = LabelScores(dice=Moments.of([dice]))
    return Scores(cases=1, labels={"ball": found}).model_dump(mode="json")


def test_variants_replace_whole_sections_and_keep_the_plans_own_settings() -> None:
    plan = make_plan(strategy={"name": "fedprox", "mu": 0.5})
    made = variants_of(plan, ["fedavg", "fedprox"], ["strong: {strategy: {name: fedprox, mu: 2.0}, seed: 7}"])
    assert list(made) == ["fedavg", "fedprox", "strong"]
    assert made["fedprox"] == plan
    assert made["strong"].strategy.mu == 2.0  # type: ignore[union-attr]
    assert made["strong"].seed == 7


def test_all_faults_of_all_variants_are_told_at_once() -> None:
    with pytest.raises(InputError) as error:
        variants_of(make_plan(), ["fedawg", "scaffold"], ["not a variant", "x: {rounds: {limit: 0}}"])
    text = str(error.value)
    for part in ("fedawg", "scaffold", "--variant", "x: rounds.limit"):
        assert part in text


@pytest.mark.parametrize("name", ["a/b", "../x", "norm.affine + ditto", "", "..", "x" * 3])
def test_folder_names_stay_in_the_folder(name: str) -> None:
    assert slug(name) not in ("", ".", "..")
    assert "/" not in slug(name)


def test_a_study_grows_and_leaves_out_sites(tmp_path: Path) -> None:
    sites = load_sites(write_sites(tmp_path, ("A", "B", "C")))
    place, plan = RunDir(tmp_path / "study"), make_plan(rounds={"limit": 2, "quorum": 1})
    create_study(place, {"fedavg": plan}, sites, range(2), ["pooled"], leave_one_out=True)
    study = read_study(place)
    assert study is not None
    assert [m.left_out for m in study.members] == [None, None, "A", "B", "C", "A", "B", "C"]
    create_study(place, {"fedavg": plan, "other": plan}, sites, range(2), ["pooled"], leave_one_out=False)
    grown = read_study(place)
    assert grown is not None
    assert grown.members[:8] == study.members
    assert [m.folder for m in grown.members[8:]] == ["other/seed-0", "other/seed-1"]
    without = RunDir(place.root / "fedavg-without-B" / "seed-1")
    assert without.read_json("run.json")["sites"] == ["A", "C"]
    assert without.read_json("plan.json")["seed"] == 1


def test_leaving_one_of_two_out_is_refused(tmp_path: Path) -> None:
    sites = load_sites(write_sites(tmp_path))
    with pytest.raises(InputError, match="at least three"):
        create_study(RunDir(tmp_path / "study"), {"fedavg": make_plan()}, sites, [0], [], leave_one_out=True)


def test_gates_by_hand() -> None:
    """Pooled .80/.60, local .70/.55: FedAvg .80/.58 is 98.6 % of pooled, its worst site 96.7 %: both fail.

    The second variant .79/.62 has mean .705 of .70 and worst .62 of .60: both hold, and it beats local everywhere.
    """
    table = [
        line(LOCAL, A=0.70, B=0.55),
        line(OTHERS, A=0.50, B=0.60),
        line(POOLED, A=0.80, B=0.60),
        line(LEFT_OUT, A=0.55, B=0.59),
        line("fedavg", A=0.80, B=0.58),
    ]
    assert [gate.holds for gate in gates(table)] == [False, False, True, False]
    better = [*table, line("private", A=0.79, B=0.62)]
    assert [gate.holds for gate in gates(better)] == [True, True, True, False]
    assert "B 0.590 against 0.600" in gates(better)[-1].seen
    text = markdown(better, gates(better))
    assert text.count("\n| ") == 6
    assert "**does not hold**: at a site left out" in text


def test_own_models_are_held_against_local_only_apart() -> None:
    """Ditto's shared model is behind at B, what the sites use is not; its line is none of the shared ones."""
    table = [
        line(LOCAL, A=0.70, B=0.55),
        line(POOLED, A=0.80, B=0.60),
        line("ditto", A=0.80, B=0.50),
        line("ditto" + OWN, A=0.81, B=0.61),
    ]
    found = {gate.question: gate for gate in gates(table)}
    assert not found["a federated model >= local-only at every site"].holds
    assert found["a personalised model >= local-only at every site"].holds
    (seen,) = [gate.seen for question, gate in found.items() if question.startswith("best federated")]
    assert seen.startswith("ditto: 92")
    assert not [gate for gate in gates(table[:3]) if "personalised" in gate.question]


def test_who_took_more_updates_is_told() -> None:
    longer = replace(line("tuned" + OWN, A=0.81, B=0.5501), updates=200)
    table = [line(LOCAL, A=0.70, B=0.55), line("fedavg", A=0.8, B=0.5499), longer]
    found = {gate.question: gate.seen for gate in gates(table)}
    own = found["a personalised model >= local-only at every site"]
    assert own == f"tuned{OWN}: at every site, with 200 updates against {table[0].updates}"
    assert found["a federated model >= local-only at every site"] == "fedavg: behind at B 0.5499 against 0.5500"


def test_baselines_send_nothing() -> None:
    text = markdown([line(LOCAL, A=0.70), line("fedavg", A=0.8)], [])
    sent = [row.split("|")[8].strip() for row in text.splitlines() if row.startswith(("| local", "| fedavg"))]
    assert sent[0] == "–" != sent[1]


def test_a_variant_with_own_models_has_a_second_line(tmp_path: Path) -> None:
    """Fine-tuning was kept at A alone: B uses the shared model. The rows by case are of what each uses."""
    run = RunDir(tmp_path)
    run.write_json("plan.json", {"finetune": {"steps": 5}})
    run.write_json("run.json", {"arm": "federated", "sites": ["A", "B"]})
    shared = {"A": scores(0.6), "B": scores(0.5)}
    run.write_json("scores.json", {"sites": shared, "personal": {"A": scores(0.8)}, "finetune": {"A": {}, "B": {}}})
    for site, dice in (("A", 0.8), ("B", 0.5)):
        folder = run.site(site) / "overlays"
        folder.mkdir(parents=True)
        (folder / "cases.json").write_text(json.dumps([{"case": "one", "subject": "one", "dice": dice}]))
    made = {entry.name: entry for entry in lines([("tuned", None, run)])}
    assert list(made) == ["tuned", "tuned" + OWN]
    assert (dict(made["tuned"].sites), made["tuned"].mean) == ({"A": 0.6, "B": 0.5}, None)
    assert dict(made["tuned" + OWN].sites) == {"A": 0.8, "B": 0.5}
    assert made["tuned" + OWN].updates == made["tuned"].updates + 5
    interval = made["tuned" + OWN].mean
    assert interval is not None
    assert interval.value == pytest.approx(0.65)
    text = markdown(list(made.values()), [])
    assert "| tuned | 0.550 |" in text
    assert "| tuned (own) | 0.650 [0.650, 0.650] |" in text
    run.write_json("scores.json", {"sites": shared, "personal": {}, "finetune": {}})
    run.write_json("plan.json", {"private": {"tensors": ["norm"]}})
    (alone,) = lines([("private", None, run)])
    assert alone.mean is not None, "the model that a site uses is the shared one with its private tensors"


def test_who_trains_in_another_way_is_not_held_against_the_baselines(tmp_path: Path) -> None:
    made = []
    for name, training in (("adam", {"steps": 5}), ("sgd", {"steps": 5, "optimiser": {"name": "sgd"}})):
        run = RunDir(tmp_path / name)
        run.root.mkdir()
        run.write_json("plan.json", {"training": training})
        run.write_json("run.json", {"arm": "federated", "sites": ["A"]})
        run.write_json("scores.json", {"sites": {"A": scores(0.9 if name == "sgd" else 0.5)}})
        made.append((name, None, run))
    table = [line(POOLED, A=0.6), *lines(made)]
    assert [entry.like_baselines for entry in table] == [True, True, False]
    assert gates(table)[0].seen.startswith("adam")
    assert "not held against them: sgd." in markdown(table, gates(table))


def test_gates_ask_only_what_the_table_can_answer() -> None:
    assert gates([]) == []
    assert gates([line("fedavg", A=0.5)]) == []


def test_compare_from_the_command_line(tmp_path: Path) -> None:
    sites = write_sites(tmp_path, ("A", "B", "C"))
    plan = write_plan(tmp_path / "plan.yaml", rounds={"limit": 2, "quorum": 1, "patience": 1, "gain": 1.0})
    command = [sys.executable, "-m", "wardround", "compare", plan, "--sites", sites, "--strategies", "fedavg"]
    command += ["--seeds", "1", "--leave-one-out", "--out", tmp_path / "study"]
    env = {**os.environ, "WARDROUND_STORE": str(tmp_path / "store"), "COLUMNS": "200"}
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "study" / "comparison.json").read_text())["lines"]
    assert [entry["variant"] for entry in found] == [LOCAL, OTHERS, POOLED, LEFT_OUT, "fedavg"]
    assert {entry["updates"] for entry in found} == {6}  # nothing stops early: 2 rounds of 3 steps
    assert all(set(entry["sites"]) == {"A", "B", "C"} for entry in found)
    assert (tmp_path / "study" / "fedavg" / "seed-0" / "report.html").is_file()
