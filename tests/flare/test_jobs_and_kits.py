"""A job holds no code and names no folder; a prepared kit lets no code in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_kits import kit

from tiny import make_plan
from wardround.core.errors import InputError, StorageError
from wardround.runtimes.nvflare import kits
from wardround.runtimes.nvflare.job import ALLOWED, CONTROLLER, EXECUTOR, LAUNCHER, read_job, write_job
from wardround.runtimes.nvflare.places import ServerPlace, SitePlace, read_place, write_place

SITES = ("berlin", "lyon", "porto")


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_job_is_configuration_and_the_plan(tmp_path: Path) -> None:
    plan = make_plan()
    found = files(write_job(plan, SITES, tmp_path / "job"))
    assert sorted(found) == [
        "app/config/config_fed_client.json",
        "app/config/config_fed_server.json",
        "app/config/plan.json",
        "meta.json",
    ]
    assert found["app/config/plan.json"] == plan.canonical()
    paths = [line.strip() for text in found.values() for line in text.splitlines() if '"path"' in line]
    assert paths == [f'"path": "{EXECUTOR}",', f'"path": "{CONTROLLER}",']
    assert str(tmp_path) not in "".join(found.values())


def test_the_same_plan_gives_the_same_job(tmp_path: Path) -> None:
    one, two = (files(write_job(make_plan(), SITES, tmp_path / name)) for name in ("one", "two"))
    assert one == two


def test_a_job_is_read_again(tmp_path: Path) -> None:
    plan, sites = read_job(write_job(make_plan(), SITES, tmp_path / "job"))
    assert (plan.digest(), sites) == (make_plan().digest(), SITES)


def test_what_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no job"):
        read_job(tmp_path)


@pytest.mark.parametrize("sites", [(), ("A", "A"), ("A",)])
def test_sites_that_do_not_fit_the_plan(tmp_path: Path, sites: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        write_job(make_plan(rounds={"limit": 1, "quorum": 2}), sites, tmp_path / "job")


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(StorageError, match="not empty"):
        write_job(make_plan(), SITES, tmp_path)


def prepared(folder: Path, name: str) -> Any:
    return json.loads((folder / "local" / name).read_text())


def test_nobody_may_bring_code_to_a_prepared_kit(tmp_path: Path) -> None:
    for role in ("site", "server"):
        kits.prepare(kit(tmp_path / role, role), role)  # type: ignore[arg-type]
        rights = prepared(tmp_path / role, "authorization.json")["permissions"]
        assert {name: granted["byoc"] for name, granted in rights.items()} == {"project_admin": "none", "lead": "none"}
        assert rights["project_admin"]["submit_job"] == "any"
    assert prepared(tmp_path / "site", "authorization.json")["permissions"]["project_admin"]["shell_commands"] == "none"


def test_only_listed_classes_run(tmp_path: Path) -> None:
    kits.prepare(kit(tmp_path, "site"), "site")
    resources = prepared(tmp_path, "resources.json")
    assert resources["class_allow_list"] == ["nvflare.app_common.workflows.fedavg.FedAvg", ALLOWED["site"]]
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["allow_log_streaming"] is False
    assert resources["components"][0]["path"] == LAUNCHER


def test_a_new_federation_allows_our_classes_alone(tmp_path: Path) -> None:
    kits.prepare(kit(tmp_path, "server"), "server", only=True)
    assert prepared(tmp_path, "resources.json")["class_allow_list"] == [CONTROLLER]


def test_nothing_of_the_server_lies_in_a_temporary_folder(tmp_path: Path) -> None:
    kits.prepare(kit(tmp_path, "server"), "server")
    text = (tmp_path / "local" / "resources.json").read_text()
    assert "/tmp/nvflare" not in text  # noqa: S108
    assert str(tmp_path.resolve() / "jobs") in text


def test_preparing_again_changes_nothing(tmp_path: Path) -> None:
    folder = kit(tmp_path, "site")
    kits.prepare(folder, "site")
    before = files(folder)
    kits.prepare(folder, "site")
    assert files(folder) == before


def test_what_is_no_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="startup kit of a server"):
        kits.prepare(kit(tmp_path, "site"), "server")


def test_a_kit_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = kit(tmp_path, "site")
    (folder / "local" / "resources.json").write_text("{}")
    with pytest.raises(InputError, match="not what NVFlare"):
        kits.prepare(folder, "site")


def test_places_are_read_as_written(tmp_path: Path) -> None:
    place = SitePlace(folder="/srv/ward", data="/data/ms", store="/srv/store", threads=2, largest_batch=4)
    write_place(tmp_path, place)
    assert read_place(tmp_path, SitePlace) == place


def test_a_place_that_is_missing_or_wrong_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="wardround nvflare server"):
        read_place(tmp_path, ServerPlace)
    (tmp_path / "wardround.json").write_text('{"wardround": 1, "folder": "/srv", "code": "x"}')
    with pytest.raises(InputError):
        read_place(tmp_path, ServerPlace)
