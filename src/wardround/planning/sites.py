"""The sites file: which folders play the hospitals on this machine.

It is apart from the plan, so that the plan has the same digest everywhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field, field_validator

from wardround.core.documents import load_document
from wardround.core.errors import Fault, InputError
from wardround.core.frozen import Frozen
from wardround.core.messages import SiteName
from wardround.data.spec import DatasetSpec

EngineName = Literal["local", "ray"]
LOCAL: EngineName = "local"
RAY_ADDRESS = re.compile(r"ray(://[A-Za-z0-9._\[\]:-]+:[0-9]{1,5})?")


def engine_of(on: str) -> EngineName:
    """The engine that ``on`` names: ``local``, ``ray`` or ``ray://HOST:PORT``. Raises ValueError for anything else."""
    name = "ray" if RAY_ADDRESS.fullmatch(on) else on
    for known in get_args(EngineName):
        if name == known:
            return known  # type: ignore[no-any-return] # get_args forgets what it was given
    raise ValueError("say local, ray (the cluster that this machine belongs to) or ray://HOST:PORT")


def whole_gpus(value: float) -> float:
    """A share of one GPU, or several whole ones. Raises ValueError for anything else."""
    if value > 1 and value != int(value):
        raise ValueError("a site gets a share of one GPU, or several whole ones")
    return value


def processes_of(processes: int | None, gpus: float) -> int:
    """How many processes train a site's model together: as many as it has whole GPUs where nobody says."""
    return processes or max(1, int(gpus))


def _known(on: str) -> str:
    engine_of(on)
    return on


On = Annotated[str, AfterValidator(_known)]
Gpus = Annotated[float, Field(ge=0, le=64), AfterValidator(whole_gpus)]
Processes = Annotated[int, Field(ge=1, le=64)]


class SiteEntry(Frozen):
    """One hospital."""

    name: SiteName
    folder: Annotated[str, Field(min_length=1)]
    largest_batch: int | None = Field(
        default=None, ge=1, description="samples that fit into this site's memory at once; larger batches go in parts"
    )
    dataset: DatasetSpec | None = Field(default=None, description="instead of a dataset.yaml in the folder")


class SitesFile(Frozen):
    """All hospitals of a simulation and what of this machine they may use."""

    sites: Annotated[tuple[SiteEntry, ...], Field(min_length=1, max_length=1000)]
    workers: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    threads: int = Field(default=1, ge=1, le=1024, description="processor threads a worker; results depend on it")
    processes: Processes | None = Field(
        default=None,
        description="that train a site's model together, each with its threads or a GPU; results depend on it. "
        "If unsaid as many as the site gets whole GPUs of a cluster's node, else 1",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    on: On = Field(default=LOCAL, description="where the sites are played: local, ray or ray://HOST:PORT")
    cpus: float | None = Field(
        default=None,
        gt=0,
        le=1024,
        description="of a cluster's node, for each site at work; as many as its threads if unsaid",
    )
    gpus: Gpus = Field(default=0, description="of a cluster's node, for each site at work: 0.25, 1, 2")

    @field_validator("sites")
    @classmethod
    def _distinct(cls, value: tuple[SiteEntry, ...]) -> tuple[SiteEntry, ...]:
        names = [site.name for site in value]
        if "pooled" in names:
            raise ValueError("a site cannot be called pooled: that is the baseline's name")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"named twice: {', '.join(twice)}")
        return value


def load_sites(path: Path, data_root: Path | None = None) -> tuple[SitesFile, dict[str, Path]]:
    """The sites file and each site's existing folder.

    A relative folder is looked for under ``data_root`` (default: beside the sites file); the root
    may be the folder of all datasets or already the one dataset that the sites' folders share.

    Raises:
        InputError: not a valid sites file, or folders that do not exist or are named twice; lists them all.
    """
    file = load_document(path, SitesFile)
    root = data_root if data_root is not None else path.parent
    folders: dict[str, Path] = {}
    faults = []
    for index, site in enumerate(file.sites):
        tries = [root / site.folder, root / Path(site.folder).name]
        found = next((place.resolve() for place in tries if place.is_dir()), None)
        if found is None:
            faults.append(
                Fault(f"sites.{index}.folder", f"site {site.name}: {tries[0]} is not a folder (set --data-root?)")
            )
        elif found in folders.values():
            other = next(name for name, folder in folders.items() if folder == found)
            faults.append(Fault(f"sites.{index}.folder", f"site {site.name} has the same folder as site {other}"))
        else:
            folders[site.name] = found
    if faults:
        raise InputError(f"{path} names folders that cannot be used", faults)
    return file, folders
