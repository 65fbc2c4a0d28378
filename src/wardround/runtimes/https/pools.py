"""Where a site computes: a worker process of this machine, or one on a node of the hospital's own cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from wardround.core.messages import Task
from wardround.planning.sites import LOCAL, engine_of
from wardround.runtimes.engines import check_engine
from wardround.runtimes.https.home import SiteSettings
from wardround.runtimes.local import Progress, WorkerPool


class Pool(Protocol):
    """What is used of `wardround.runtimes.local.WorkerPool`."""

    def submit(self, message: dict[str, Any], task: Task, site: str) -> Any:
        """A future of Answer or SiteFailed."""
        ...

    def close(self) -> None:
        """End the worker at once."""
        ...


Limits = tuple[int, str, int]  # threads, device, processes
MakePool = Callable[[int, Path, Progress], Pool]  # threads, its log, where progress is told


def site_pool(settings: SiteSettings) -> MakePool:
    """What starts a site's worker, as its settings say.

    Raises:
        InputError: they name an engine that is not installed.
    """
    check_engine(settings.on)
    if engine_of(settings.on) == LOCAL:
        return lambda threads, log, progress: WorkerPool(1, threads, log, progress)
    return lambda threads, log, progress: _OnCluster(settings, threads, log, progress)


class _OnCluster:
    """One place on a Ray cluster; the site's folder, dataset and store lie where every node sees them."""

    def __init__(self, settings: SiteSettings, threads: int, log: Path, progress: Progress) -> None:
        from wardround.runtimes.ray_cluster import RayPool  # noqa: PLC0415 - only where it is wanted

        shares = {"cpus": float(threads * settings.processes), "gpus": settings.gpus}
        self._pool = RayPool({"on": settings.on, "workers": 1, "threads": threads, **shares}, log, progress)

    def submit(self, message: dict[str, Any], task: Task, site: str) -> Any:
        """See `Pool`."""
        tensors = None if message["tensors"] is None else Path(message["tensors"])
        return self._pool.submit(message, self._pool.put(tensors), task, site)

    def close(self) -> None:
        """See `Pool`."""
        self._pool.close()
