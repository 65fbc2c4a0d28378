"""A job for an existing NVFlare federation: configuration and a plan, no code.

::

    meta.json                           who takes part
    app/config/config_fed_server.json   our Controller, from the installed package
    app/config/config_fed_client.json   our Executor, from the installed package
    app/config/plan.json                the plan, canonical JSON
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wardround.core.errors import Fault, InputError, StorageError
from wardround.planning.plan import Plan
from wardround.runtimes.https.networked import SHORT
from wardround.runtimes.https.transport import needed

CONTROLLER = "wardround.runtimes.nvflare.controller.WardRoundController"
EXECUTOR = "wardround.runtimes.nvflare.executor.WardRoundExecutor"
LAUNCHER = "wardround.runtimes.nvflare.launcher.RespawningLauncher"
ALLOWED = {"server": CONTROLLER, "site": EXECUTOR}  # what each side's class_allow_list must hold
PLAN = "plan.json"
TASK = "wardround"


def job_name(plan: Plan) -> str:
    """Jobs of a run have the name of the run."""
    return f"wardround-{plan.digest()[:SHORT]}"


def write_job(plan: Plan, sites: Sequence[str], folder: Path) -> Path:
    """Write the job's folder; the same plan gives the same files.

    Args:
        plan: what is run.
        sites: NVFlare's names of the sites, in fold order.
        folder: new or empty.

    Raises:
        InputError: a site is named twice, or the plan needs more sites.
        StorageError: the folder is in use or cannot be written.
    """
    _check(plan, sites)
    config = folder / "app" / "config"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty: choose another --out")
        config.mkdir(parents=True)
        _write(folder / "meta.json", _meta(plan, sites))
        _write(config / "config_fed_server.json", _server(sites))
        _write(config / "config_fed_client.json", _client())
        (config / PLAN).write_text(plan.canonical(), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _check(plan: Plan, sites: Sequence[str]) -> None:
    faults = [Fault("--sites", f"{site} is named twice") for site in sorted(set(sites)) if sites.count(site) > 1]
    if not sites:
        faults.append(Fault("--sites", "names no site"))
    if (plan.rounds.quorum or 1) > len(sites):
        faults.append(Fault("rounds.quorum", f"asks for {plan.rounds.quorum} sites, --sites names {len(sites)}"))
    if faults:
        raise InputError("no job can be made of this", faults)


def _meta(plan: Plan, sites: Sequence[str]) -> dict[str, Any]:
    return {
        "name": job_name(plan),
        "resource_spec": {},
        "min_clients": needed(plan, len(sites)),
        "deploy_map": {"app": ["server", *sites]},
    }


def _server(sites: Sequence[str]) -> dict[str, Any]:
    controller = {"id": "wardround", "path": CONTROLLER, "args": {"sites": list(sites)}}
    return {"format_version": 2, "components": [], "workflows": [controller]}


def _client() -> dict[str, Any]:
    executor = {"tasks": [TASK], "executor": {"path": EXECUTOR, "args": {}}}
    return {"format_version": 2, "components": [], "executors": [executor]}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_job(folder: Path) -> tuple[Plan, tuple[str, ...]]:
    """The plan and the sites of a job's folder. Raises InputError where it is none of ours."""
    config = folder / "app" / "config"
    try:
        plan = Plan.model_validate_json((config / PLAN).read_bytes())
        workflow = json.loads((config / "config_fed_server.json").read_bytes())["workflows"][0]
        return plan, tuple(str(site) for site in workflow["args"]["sites"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{folder} is no job of Ward Round's: `wardround nvflare job` writes one") from error
