"""What each side's NVFlare workspace says about Ward Round: ``local/wardround.json``, never a job.

A site's names its site folder and its dataset, the server's names the coordinator's folder. Whoever writes a
job can name neither.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from wardround.core.documents import load_document
from wardround.core.errors import InputError
from wardround.core.frozen import Frozen
from wardround.data.store import default_root
from wardround.planning.sites import LOCAL, Gpus, On, Processes
from wardround.runtimes.https.joining import cores

FILE = "wardround.json"
URL = "https://nvflare.invalid"  # stands where an address would: nobody connects to it
Folder = Annotated[str, Field(min_length=1, max_length=4096)]
P = TypeVar("P", bound=Frozen)


class SitePlace(Frozen):
    """A site's ``local/wardround.json``."""

    wardround: Literal[1] = Field(default=1, description="format of this file")
    folder: Folder = Field(description="the site folder: approvals, policy.yaml, audit log")
    data: Folder = Field(description="the dataset's folder")
    store: Folder = Field(default_factory=lambda: str(default_root()), description="see wardround.data.store")
    threads: int = Field(default_factory=cores, ge=1, le=1024)
    device: Annotated[str, Field(pattern=r"^[a-z]{1,10}(:[0-9]{1,3})?$")] = "auto"
    largest_batch: int | None = Field(default=None, ge=1, le=4096)
    processes: Processes = Field(default=1, description="that train together, each with its threads or a GPU")
    on: On = Field(default=LOCAL, description="where the site computes: local, ray or ray://HOST:PORT")
    gpus: Gpus = Field(default=0, description="of a cluster's node, for this site")


class ServerPlace(Frozen):
    """The server's ``local/wardround.json``."""

    wardround: Literal[1] = Field(default=1, description="format of this file")
    folder: Folder = Field(description="the coordinator's folder: state, runs, audit log")


def read_place(local: Path, kind: type[P]) -> P:
    """What stands in an NVFlare workspace's ``local`` folder.

    Raises:
        InputError: it is not there, or has faults.
    """
    path = local / FILE
    if not path.is_file():
        command = "site" if kind is SitePlace else "server"
        raise InputError(f"{path} is missing: `wardround nvflare {command}` writes it")
    return load_document(path, kind)


def write_place(local: Path, place: Frozen) -> Path:
    """Write it; returns its path."""
    path = local / FILE
    path.write_text(json.dumps(place.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
