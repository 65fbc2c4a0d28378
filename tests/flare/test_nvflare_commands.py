"""What people type on the server, at a site and for a job, without NVFlare: it is needed to provision and to keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_kits import kit
from pydantic import ValidationError
from typer.testing import CliRunner

from tiny import write_plan, write_site
from wardround.core.errors import InputError, WardRoundError
from wardround.faces.cli.app import app
from wardround.runtimes.https.office import open_office
from wardround.runtimes.nvflare.job import EXECUTOR
from wardround.runtimes.nvflare.places import ServerPlace, SitePlace, read_place


def wardround(*args: object) -> str:
    done = CliRunner().invoke(app, list(map(str, args)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_the_server_gets_a_coordinators_folder_once(tmp_path: Path) -> None:
    made, folder = kit(tmp_path / "kit", "server"), tmp_path / "federation"
    wardround("nvflare", "server", made, "--dir", folder, "--name", "Trial")
    before = open_office(folder).federation
    wardround("nvflare", "server", made, "--dir", folder)
    assert open_office(folder).federation == before
    assert read_place(made / "local", ServerPlace).folder == str(folder)


def test_a_folder_that_jobs_serve_asks_for_no_server(tmp_path: Path) -> None:
    folder = tmp_path / "federation"
    wardround("nvflare", "server", kit(tmp_path / "kit", "server"), "--dir", folder, "--name", "Trial")
    assert "nobody serves" not in wardround("coordinator", "status", folder)
    with pytest.raises(InputError, match="nvflare keep"):
        wardround("coordinator", "serve", folder, "--listen", "127.0.0.1:0")


def test_a_site_says_where_it_computes(tmp_path: Path) -> None:
    made, data, folder = kit(tmp_path / "kit", "site"), write_site(tmp_path / "data"), tmp_path / "ward"
    wardround("nvflare", "site", made, "--data", data, "--dir", folder, "--threads", 2, "--processes", 3)
    place = read_place(made / "local", SitePlace)
    assert (place.processes, place.on, place.gpus) == (3, "local", 0)
    for gpus, why in ((2, "--on ray"), (1.5, "several whole ones")):
        with pytest.raises(InputError, match=why):
            wardround("nvflare", "site", made, "--data", data, "--dir", folder, "--gpus", gpus)
    for wrong in ({"on": "dask"}, {"gpus": 1.5}, {"processes": 0}):
        with pytest.raises(ValidationError):
            SitePlace.model_validate({**place.model_dump(), **wrong})


def test_a_site_says_which_dataset_it_has(tmp_path: Path) -> None:
    made, data, folder = kit(tmp_path / "kit", "site"), write_site(tmp_path / "data"), tmp_path / "ward"
    said = wardround("nvflare", "site", made, "--data", data, "--dir", folder, "--threads", 2)
    place = read_place(made / "local", SitePlace)
    assert (place.data, place.folder, place.threads) == (str(data), str(folder), 2)
    assert (folder / "policy.yaml").is_file()
    assert folder.stat().st_mode & 0o077 == 0
    assert "4 cases" in said


def test_a_folder_without_images_is_no_dataset(tmp_path: Path) -> None:
    made = kit(tmp_path / "kit", "site")
    with pytest.raises(WardRoundError):
        wardround("nvflare", "site", made, "--data", tmp_path / "kit", "--dir", tmp_path / "ward")
    assert not (made / "local" / "wardround.json").exists()


def test_a_job_says_what_each_site_must_allow(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml")
    said = wardround("nvflare", "job", plan, "--sites", "berlin, lyon", "--out", tmp_path / "job")
    assert f'"class_allow_list": ["{EXECUTOR}"]' in said
    assert '"byoc": "none"' in said
    meta = json.loads((tmp_path / "job" / "meta.json").read_text())
    assert meta["deploy_map"] == {"app": ["server", "berlin", "lyon"]}


def test_names_that_no_report_could_show_are_refused(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "plan.yaml")
    with pytest.raises(InputError, match="cannot be a name"):
        wardround("nvflare", "job", plan, "--sites", "ber/lin", "--out", tmp_path / "job")
