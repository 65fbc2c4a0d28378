"""Where a simulation runs: what may be said of it, and what a cluster's node does with a task. No engine is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wardround.core.errors import InputError, RunError
from wardround.core.rundir import RunDir
from wardround.planning.sites import SitesFile, engine_of
from wardround.runtimes import player
from wardround.runtimes.engines import check_engine, machine_of, move


def sites(count: int = 3, **changes: Any) -> SitesFile:
    entries = [{"name": f"S{number}", "folder": f"s{number}"} for number in range(count)]
    return SitesFile.model_validate({"sites": entries, **changes})


# -- what may be said


@pytest.mark.parametrize("on", ["local", "ray", "ray://head:6379", "ray://10.0.0.1:1", "ray://[::1]:6379"])
def test_places_are_known(on: str) -> None:
    assert engine_of(on) == on.partition(":")[0]


@pytest.mark.parametrize(
    "on", ["", "Local", "ray:", "ray://", "ray://head", "ray://head:port", "ray://a b:1", "local://x:1"]
)
def test_other_words_are_refused_with_the_right_ones(on: str) -> None:
    with pytest.raises(ValueError, match="ray://HOST:PORT"):
        engine_of(on)
    with pytest.raises(InputError, match="ray://HOST:PORT"):
        check_engine(on)
    with pytest.raises(ValidationError, match="ray://HOST:PORT"):
        sites(on=on)


@given(st.text(max_size=40))
def test_any_text_is_an_engine_or_an_error(text: str) -> None:
    try:
        assert engine_of(text) in ("local", "ray")
    except ValueError:
        assert text not in ("local", "ray")


def test_a_folder_of_the_engines_name_is_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ray").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(InputError, match=r"pip install 'wardround\[ray\]'"):
        check_engine("ray")


# -- what a run directory remembers


def test_a_cluster_gives_each_site_what_the_sites_file_says() -> None:
    plain = machine_of(sites(on="ray", threads=2))
    shares = {"cpus": 2.0, "gpus": 0.0}
    assert plain == {"on": "ray", "workers": 3, "threads": 2, "processes": 1, "device": "cpu", **shares}
    assert machine_of(sites(on="ray", threads=2, cpus=0.5))["cpus"] == 0.5
    assert machine_of(sites(on="ray", gpus=0.25))["device"] == "cuda"
    assert machine_of(sites(on="ray", gpus=0.25, device="cpu"))["device"] == "cpu"
    assert machine_of(sites(on="ray", workers=2))["workers"] == 2


def test_locally_nothing_is_remembered_of_clusters() -> None:
    assert machine_of(sites(workers=2, threads=3)) == {"workers": 2, "threads": 3, "processes": 1, "device": "auto"}
    assert machine_of(sites(workers=20))["workers"] == 3


def test_a_site_has_as_many_processes_as_whole_gpus() -> None:
    assert machine_of(sites(on="ray", gpus=4))["processes"] == 4
    assert machine_of(sites(on="ray", gpus=0.5))["processes"] == 1
    several = machine_of(sites(on="ray", threads=2, gpus=4, processes=3))
    assert (several["processes"], several["cpus"]) == (3, 6.0)
    assert machine_of(sites(processes=64))["workers"] == 1


def test_shares_of_gpus() -> None:
    with pytest.raises(InputError, match="gpus"):
        machine_of(sites(on="ray", device="cuda"))
    for wrong in (1.5, -1, 65):
        with pytest.raises(ValidationError):
            sites(gpus=wrong)
    assert sites(gpus=2).gpus == 2


def test_a_run_moves_only_within_its_engine(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(RunError):
        move(run, "ray")
    run.write_json("sites.json", {"machine": {"workers": 1}})
    move(run, "local")
    with pytest.raises(InputError, match="began on local"):
        move(run, "ray")
    run.write_json("sites.json", {"machine": {"on": "ray", "workers": 1}})
    move(run, "ray://head:6379")
    assert run.read_json("sites.json")["machine"] == {"on": "ray://head:6379", "workers": 1}


# -- what a node does

WORKER = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message["do"] == "die":
        sys.exit(9)
    for done in range(100):
        print(json.dumps({"progress": ["A", "training", done, 100]}), flush=True)
    size = None if message["tensors"] is None else len(open(message["tensors"], "rb").read())
    print(json.dumps({"reply": size}), flush=True)
"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    started: list[subprocess.Popen[bytes]] = []

    def start(threads: int, log: Path) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        return started[-1]

    monkeypatch.setattr(player, "start_worker", start)
    made = player.Player(1, str(tmp_path / "log"))
    made.started = started  # type: ignore[attr-defined] # for the test alone
    yield made
    for process in started:
        process.kill()
        process.communicate()


def answers(node: player.Player, do: str, model: Any = None) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in node.answer(json.dumps({"do": do}), model)]


def test_a_node_gives_the_model_as_a_file_and_few_signs_of_progress(node: Any) -> None:
    model = np.arange(1000, dtype=np.uint8)
    frames = answers(node, "work", model)
    assert frames[0] == {"begun": True}
    assert frames[-1] == {"reply": 1000}
    assert 0 < sum("progress" in frame for frame in frames) < 100
    assert answers(node, "work")[-1] == {"reply": None}
    assert len(node.started) == 1


def test_a_worker_that_dies_gives_no_result_and_is_replaced(node: Any) -> None:
    assert answers(node, "die") == [{"begun": True}]
    assert answers(node, "work")[-1] == {"reply": None}
    assert len(node.started) == 2


def test_a_node_tells_whether_it_sees_the_run(node: Any, tmp_path: Path) -> None:
    (tmp_path / "mark").touch()
    assert json.loads(node.look(str(tmp_path / "mark")))["sees"] is True
    seen = json.loads(node.look(str(tmp_path / "other")))
    assert seen["sees"] is False
    assert set(seen["software"]) == {"torch", "monai", "numpy"}
