"""Startup kits: a new federation's, and what every kit's ``local`` folder must say for Ward Round.

``local`` is each participant's own (NVFlare signs only ``startup``). Files that NVFlare ships as ``*.default``
are written beside those, and what somebody wrote before is kept but for the lines that follow:

* authorization.json: ``byoc`` is ``none`` for every role, project_admin too. Without that a job could bring code,
  and NVFlare would not even look at the list of classes.
* resources.json: ``class_allow_list`` holds our class; a site's launcher starts killed job processes again and its
  logs are not streamed to the server; the server's jobs and snapshots lie in its kit, not in a temporary folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from wardround.core.errors import InputError, StorageError
from wardround.runtimes.nvflare.job import ALLOWED, LAUNCHER

Role = Literal["server", "site"]
# NVFlare's rights, for a role that is given all of them by one word.
RIGHTS = ("submit_job", "clone_job", "manage_job", "download_job", "view", "operate", "shell_commands", "byoc")
HEARTBEAT = 60  # seconds after which the server counts a silent site out


def prepare(kit: Path, role: Role, only: bool = False) -> list[str]:
    """Write what a kit's ``local`` folder must say; returns what was done, for people.

    Args:
        kit: the startup kit's folder, which holds ``startup`` and ``local``.
        role: whose it is.
        only: our class is the only one that is allowed.

    Raises:
        InputError: it is no such kit, or a file in it is not what NVFlare wrote.
        StorageError: it cannot be written.
    """
    local = local_of(kit, role)
    rights = _read(local, "authorization.json")
    resources = _read(local, "resources.json")
    try:
        for name, granted in rights["permissions"].items():
            rights["permissions"][name] = _without_code(granted, role)
        listed = [] if only else [one for one in resources.get("class_allow_list", []) if one != ALLOWED[role]]
        resources["class_allow_list"] = [*listed, ALLOWED[role]]
        resources["class_list_enforcement_mode"] = "enforce"
        (_for_site if role == "site" else _for_server)(resources, kit)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(f"{local} is not what NVFlare 2.9 writes: {type(error).__name__} {error}") from error
    try:
        for name, value in (("authorization.json", rights), ("resources.json", resources)):
            (local / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {local}: {error.strerror or error}") from error
    return [f"authorization.json: byoc none; resources.json: class_allow_list {ALLOWED[role]}"]


def local_of(kit: Path, role: Role) -> Path:
    """The ``local`` folder of a kit. Raises InputError where it is none of this role."""
    startup = kit / "startup" / ("fed_server.json" if role == "server" else "fed_client.json")
    if not startup.is_file():
        raise InputError(f"{kit} is not the startup kit of a {role}: {startup.relative_to(kit)} is missing")
    return kit / "local"


def provision(name: str, server: str, port: int, sites: Sequence[str], people: tuple[str, str], out: Path) -> Path:
    """Provision a new federation with NVFlare, and prepare its kits; returns the folder that holds them.

    Args:
        name: of the federation.
        server: host name at which sites reach it.
        port: the one port that has to be open there.
        sites: names, as in plans and reports.
        people: the administrator's e-mail address, and the organisation in the certificates.
        out: new or empty.

    Raises:
        InputError: NVFlare refuses, with its words.
        StorageError: the folder is in use.
    """
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(out.iterdir()):
            raise StorageError(f"{out} is not empty: choose another --out")
        project = out / "project.yml"
        project.write_text(json.dumps(_project(name, server, port, sites, people), indent=2), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot use {out}: {error.strerror or error}") from error
    command = [sys.executable, "-m", "nvflare.lighter.provision", "-p", str(project), "-w", str(out)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own words
    kits = out / name / "prod_00"
    if done.returncode != 0 or not (kits / server).is_dir():
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise InputError("NVFlare could not provision (is `wardround[nvflare]` installed?)\n" + "\n".join(said))
    prepare(kits / server, "server", only=True)
    for site in sites:
        prepare(kits / site, "site", only=True)
    return kits


def _project(name: str, server: str, port: int, sites: Sequence[str], people: tuple[str, str]) -> dict[str, Any]:
    admin, org = people
    lighter = "nvflare.lighter.impl"
    return {
        "api_version": 3,
        "name": name,
        "description": "Ward Round",
        "participants": [
            {"name": server, "type": "server", "org": org, "fed_learn_port": port},
            *({"name": site, "type": "client", "org": org} for site in sites),
            {"name": admin, "type": "admin", "org": org, "role": "project_admin"},
        ],
        "builders": [
            {"path": f"{lighter}.workspace.WorkspaceBuilder", "args": {"template_file": "master_template.yml"}},
            {"path": f"{lighter}.static_file.StaticFileBuilder", "args": {"config_folder": "config", "scheme": "grpc"}},
            {"path": f"{lighter}.cert.CertBuilder", "args": {}},
            {"path": f"{lighter}.signature.SignatureBuilder", "args": {}},
        ],
    }


def _without_code(granted: Any, role: Role) -> dict[str, str]:
    rights = dict.fromkeys(RIGHTS, granted) if isinstance(granted, str) else dict(granted)
    # Shell commands read files of the machine that they are sent to.
    return rights | {"byoc": "none"} | ({"shell_commands": "none"} if role == "site" else {})


def _for_site(resources: dict[str, Any], _kit: Path) -> None:
    resources["allow_log_streaming"] = False  # an error's text may name a file
    for component in resources["components"]:
        if component["id"] == "process_launcher" and component["path"].endswith(".ClientProcessJobLauncher"):
            component["path"] = LAUNCHER


def _for_server(resources: dict[str, Any], kit: Path) -> None:
    resources["servers"][0]["heart_beat_timeout"] = HEARTBEAT
    storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
    storage["root_dir"] = _kept(storage["root_dir"], kit / "snapshots")
    for component in resources["components"]:
        if component["id"] == "job_manager":
            component["args"]["uri_root"] = _kept(component["args"]["uri_root"], kit / "jobs")


def _kept(path: str, better: Path) -> str:
    """NVFlare's default is a temporary folder, which a restart may empty."""
    return str(better.resolve()) if path.startswith("/tmp/nvflare") else path  # noqa: S108 - that is what is left


def _read(local: Path, name: str) -> dict[str, Any]:
    for path in (local / name, local / f"{name}.default"):
        if path.is_file():
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{path} is no JSON: {error}") from error
            if isinstance(value, dict):
                return value
    raise InputError(f"{local} has neither {name} nor {name}.default: is it a startup kit's?")
