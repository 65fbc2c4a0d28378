"""Startup kits as NVFlare 2.9 writes them, as far as it matters here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def kit(folder: Path, role: str) -> Path:
    """What of a startup kit matters here, as NVFlare 2.9 writes it."""
    (folder / "startup").mkdir(parents=True)
    (folder / "local").mkdir()
    (folder / "startup" / ("fed_server.json" if role == "server" else "fed_client.json")).write_text("{}")
    lead = {"submit_job": "any", "byoc": "any", "shell_commands": "o:site"}
    rights = {"format_version": "1.0", "permissions": {"project_admin": "any", "lead": lead}}
    launcher = "nvflare.app_common.job_launcher.client_process_launcher.ClientProcessJobLauncher"
    resources: dict[str, Any] = {
        "format_version": 2,
        "class_list_enforcement_mode": "warn",
        "class_allow_list": ["nvflare.app_common.workflows.fedavg.FedAvg"],
        "allow_log_streaming": True,
        "components": [{"id": "process_launcher", "path": launcher, "args": {}}],
    }
    if role == "server":
        storage = {"path": "x", "args": {"root_dir": "/tmp/nvflare/snapshot-storage"}}  # noqa: S108 - as NVFlare has it
        resources |= {"servers": [{"heart_beat_timeout": 600}]}
        resources |= {"snapshot_persistor": {"path": "x", "args": {"storage": storage}}}
        jobs = {"uri_root": "/tmp/nvflare/jobs-storage"}  # noqa: S108 - as NVFlare has it
        resources["components"] = [{"id": "job_manager", "path": "x", "args": jobs}]
    (folder / "local" / "authorization.json.default").write_text(json.dumps(rights))
    (folder / "local" / "resources.json.default").write_text(json.dumps(resources))
    return folder
