"""Where the sites of a simulation are played: processes of this machine, or another engine that a lab has.

An engine is one file beside this one, which alone imports what it stands on, and only when it is asked for.
What all of them keep to is checked in ``tests/conformance``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from wardround.core.contracts import Transport
from wardround.core.errors import InputError
from wardround.core.rundir import RunDir
from wardround.planning.sites import LOCAL, SitesFile, engine_of, processes_of
from wardround.runtimes.local import Progress, SettingJson, WorkerPool


class Engine(Protocol):
    """Plays sites, shared by a run and its baselines."""

    workers: int  # sites that can work at the same time

    def transport(self, plan_file: Path, settings: Mapping[str, SettingJson]) -> Transport:
        """To the sites of one run directory; ``settings`` by site."""
        ...

    def close(self) -> None:
        """End all work at once; may be called twice. What was being done is done again on resume."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_engine(on: str) -> None:
    """Raises InputError where ``on`` names no engine, or one that is not installed here."""
    try:
        engine = engine_of(on)
    except ValueError as error:
        raise InputError(f"--on {on}: {error}") from error
    if engine != LOCAL and not _is_installed(engine):
        raise InputError(f"--on {on} needs {engine}: pip install 'wardround[{engine}]'")


def _is_installed(package: str) -> bool:
    """A mere folder of that name in the current one (a run directory, say) is no package."""
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def machine_of(sites: SitesFile) -> dict[str, Any]:
    """What of the machine a run directory remembers: where it runs, and what each site may use there.

    Raises:
        InputError: the sites file asks for GPUs and gives none to its sites.
    """
    processes = processes_of(sites.processes, 0 if engine_of(sites.on) == LOCAL else sites.gpus)
    busy = sites.threads * processes  # processors
    common = {"threads": sites.threads, "processes": processes}
    if engine_of(sites.on) == LOCAL:
        workers = sites.workers if sites.workers != "auto" else max(1, (os.cpu_count() or 1) // busy)
        return {"workers": min(workers, len(sites.sites)), "device": sites.device, **common}
    if sites.device == "cuda" and not sites.gpus:
        raise InputError("the sites file says device: cuda; say gpus: too, the share of a GPU that each site gets")
    most = len(sites.sites) if sites.workers == "auto" else min(sites.workers, len(sites.sites))
    device = sites.device if sites.device != "auto" else ("cuda" if sites.gpus else "cpu")
    shares = {"cpus": float(sites.cpus or busy), "gpus": sites.gpus}
    return {"on": sites.on, "workers": most, "device": device, **common, **shares}


def move(run: RunDir, on: str) -> None:
    """Let a run go on at another address of the engine on which it began (a cluster that was started anew).

    Raises:
        InputError: it began on another engine.
        RunError: this is no run directory.
    """
    config = run.read_json("sites.json")
    began = config.get("machine", {}).get("on", LOCAL)
    if engine_of(began) != engine_of(on):
        raise InputError(f"{run.root} began on {began} and goes on there: resume it without --on {on}")
    if began != on:
        run.write_json("sites.json", {**config, "machine": {**config["machine"], "on": on}})


def open_engine(machine: Mapping[str, Any], log: Path, progress: Progress | None) -> Engine:
    """The engine of a run directory's ``machine``, ready to be asked; ``log`` takes what workers print.

    Raises:
        InputError: it is not installed, or no node of the cluster has room for a site.
        RunError: the cluster cannot be reached.
    """
    on = machine.get("on", LOCAL)
    check_engine(on)
    if engine_of(on) == LOCAL:
        return WorkerPool(machine["workers"], machine["threads"], log, progress)
    from wardround.runtimes.ray_cluster import RayPool  # noqa: PLC0415 - only where it is wanted

    return RayPool(machine, log, progress)
