"""The site folder: everything that a hospital's Ward Round keeps, readable by its user alone.

::

    site.json                  `SiteSettings`: who this site is, whom it talks to, which dataset it has
    key.pem                    the site's Ed25519 key, mode 0600; never leaves
    certificate.pem            client certificate over the same key, for TLS where the path allows it
    policy.yaml                what the site allows (see `wardround.site.policy`)
    requests/<digest>.json     plans that were asked for, as canonical JSON
    approvals/<digest>.json    what people decided
    runs/<digest>/             the site's private half of a run; runs/<digest>/inbox/ what was downloaded
    results/<digest>/          run directory with the model that this site uses, for `evaluate`, `predict` and the
                               own report; shared.safetensors where that is a model of its own
    audit.jsonl, heads.json    the audit log, and its heads as the coordinator signed them
    heads-seen.json            the coordinator's heads, for it to be held to
    dataset.json               digests of the dataset's files, so that they are read once
    serving.json               what `serve` is doing, for `status`
    log.jsonl, worker.log      what `serve` and the process that trains did
    .lock                      held by `serve`
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, NonNegativeInt, field_validator

from wardround.core.documents import load_document
from wardround.core.errors import InputError, StorageError
from wardround.core.frozen import Frozen
from wardround.core.messages import SiteName
from wardround.data.spec import DatasetSpec
from wardround.planning.sites import LOCAL, Gpus, On, Processes
from wardround.runtimes.https.keys import load_key, write_key
from wardround.runtimes.https.wire import PIECE, Federation, Version
from wardround.site.private_files import write_private

if TYPE_CHECKING:
    from wardround.site.consent import Consents

__all__ = ["Home", "SiteSettings", "coordinator_url", "load_key", "sync_folder", "write_key", "write_private"]

ENVIRONMENT = "WARDROUND_SITE"
DEFAULT = Path("wardround-site")
LEAST_PIECE = 256 << 10
_URL = re.compile(r"https://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")

Folder = Annotated[str, Field(min_length=1, max_length=4096)]


def coordinator_url(text: str) -> str:
    """``https://host[:port]`` without a slash at the end. Raises ValueError for anything else."""
    url = text.strip().removesuffix("/")
    match = _URL.fullmatch(url)
    if match is None:
        raise ValueError("should be https://host or https://host:port, with nothing after it")
    if match[2] is not None and not 0 < int(match[2]) < 65536:
        raise ValueError("has a port that does not exist")
    return url


class SiteSettings(Frozen):
    """``site.json``. Joining settles all but what of this machine or cluster is used, `largest_piece` and `spec`."""

    format: Literal[1] = 1
    carrier: Literal["https", "nvflare"] = Field(
        default="https", description="what carries requests to the coordinator: HTTPS to url, or NVFlare's client"
    )
    name: SiteName
    url: Annotated[str, Field(max_length=300)]
    federation: Federation
    data: Folder = Field(description="the dataset's folder")
    spec: DatasetSpec | None = Field(default=None, description="in place of a dataset.yaml in the dataset's folder")
    store: Folder = Field(description="where prepared cases and the site's secret lie: see wardround.data.store")
    threads: int = Field(default=1, ge=1, le=1024)
    device: Annotated[str, Field(pattern=r"^[a-z]{1,10}(:[0-9]{1,3})?$")] = "auto"
    largest_batch: int | None = Field(
        default=None, ge=1, le=4096, description="samples that fit into memory at once; null: any batch does"
    )
    processes: Processes = Field(default=1, description="that train together, each with its threads or a GPU")
    on: On = Field(default=LOCAL, description="where this site computes: local, ray or ray://HOST:PORT")
    gpus: Gpus = Field(default=0, description="of a cluster's node, for this site")
    largest_piece: int = Field(
        default=PIECE, ge=LEAST_PIECE, le=PIECE, description="bytes of an upload in one request, for a strict proxy"
    )
    joined: NonNegativeInt = Field(description="Unix time")
    expires: NonNegativeInt = Field(description="Unix time when the key ends; it is renewed before")
    software: Version

    @field_validator("url")
    @classmethod
    def _https(cls, value: str) -> str:
        return coordinator_url(value)


@dataclass(frozen=True)
class Home:
    """Paths and small atomic files of one site folder."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> Home:
        """``--dir``, else ``WARDROUND_SITE``, else ``./wardround-site``, where it is a site folder.

        Raises:
            InputError: there is none.
        """
        named = os.environ.get(ENVIRONMENT)
        root = given or (Path(named) if named else DEFAULT)
        home = cls(root.resolve())
        if not home.settings_file.is_file():
            hint = f" (from {ENVIRONMENT})" if given is None and named else ""
            raise InputError(
                f"{root}{hint} is not a site folder: name it with --dir, set {ENVIRONMENT}, or make one with "
                "`wardround site join INVITATION --data DATASET --dir DIR`"
            )
        return home

    def make(self) -> None:
        """Make the folder, for its user alone. Raises StorageError."""
        try:
            for folder in (self.root, *(self.root / name for name in ("requests", "approvals", "runs", "results"))):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.chmod(0o700)
        except OSError as error:
            raise StorageError(f"cannot make the site folder {self.root}: {error.strerror or error}") from error

    @property
    def settings_file(self) -> Path:
        """``site.json``"""
        return self.root / "site.json"

    @property
    def key_file(self) -> Path:
        """``key.pem``"""
        return self.root / "key.pem"

    @property
    def certificate(self) -> Path:
        """``certificate.pem``"""
        return self.root / "certificate.pem"

    @property
    def policy(self) -> Path:
        """``policy.yaml``"""
        return self.root / "policy.yaml"

    @property
    def requests(self) -> Path:
        """Plans that were asked for."""
        return self.root / "requests"

    @property
    def approvals(self) -> Path:
        """What people decided."""
        return self.root / "approvals"

    @property
    def audit(self) -> Path:
        """``audit.jsonl``"""
        return self.root / "audit.jsonl"

    @property
    def heads(self) -> Path:
        """``heads.json``"""
        return self.root / "heads.json"

    @property
    def heads_seen(self) -> Path:
        """``heads-seen.json``"""
        return self.root / "heads-seen.json"

    @property
    def log(self) -> Path:
        """``log.jsonl``"""
        return self.root / "log.jsonl"

    @property
    def serving(self) -> Path:
        """``serving.json``"""
        return self.root / "serving.json"

    @property
    def worker_log(self) -> Path:
        """``worker.log``"""
        return self.root / "worker.log"

    def run(self, digest: str) -> Path:
        """The site's private half of a run (the folder of its `wardround.site.worker.Setting`)."""
        return self.root / "runs" / digest

    def inbox(self, digest: str) -> Path:
        """What was downloaded for a run."""
        return self.run(digest) / "inbox"

    def result(self, digest: str) -> Path:
        """The run directory with the final model."""
        return self.root / "results" / digest

    def settings(self) -> SiteSettings:
        """``site.json``. Raises InputError with every fault."""
        return load_document(self.settings_file, SiteSettings)

    def check_carrier(self) -> None:
        """Raises InputError where this site's requests do not go over HTTPS."""
        if self.settings().carrier != "https":
            raise InputError(
                f"{self.root} is a site of an NVFlare federation: its own NVFlare client serves it (startup/start.sh "
                "of its startup kit), and renews its key"
            )

    def write_settings(self, settings: SiteSettings) -> None:
        """Replace ``site.json``."""
        self.write_json(self.settings_file, settings.model_dump(mode="json"))

    def write_json(self, path: Path, value: Any) -> None:
        """Write a readable JSON file atomically, mode 0600."""
        write_private(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def note_json(self, path: Path, value: Any) -> None:
        """As `write_json`, for what a power cut may take back: it does not wait for the disk."""
        scratch = path.with_name(f"{path.name}.part")
        scratch.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        scratch.replace(path)

    def noted_json(self, path: Path, default: Any) -> Any:
        """What `note_json` wrote; ``default`` where that is not there any more, or not whole."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return default

    def key(self) -> Ed25519PrivateKey:
        """The site's key. Raises StorageError where it is missing, damaged, or open to others."""
        return load_key(self.key_file)

    def consents(self) -> Consents:
        """Who may do what with which plan. Raises InputError as `settings`."""
        from wardround.core.audit import AuditLog  # noqa: PLC0415 - half a second that few commands need
        from wardround.site.consent import Consents  # noqa: PLC0415
        from wardround.site.identity import DatasetWatch  # noqa: PLC0415

        settings = self.settings()
        watch = DatasetWatch(Path(settings.data), Path(settings.store), self.root / "dataset.json", settings.spec)
        return Consents(self.root, AuditLog(self.audit), watch)

    def lock(self) -> int:
        """Hold the folder for `serve`; it is free again when the process ends, however it ends.

        Raises:
            StorageError: another process serves this site.
        """
        handle = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise StorageError(f"{self.root} is being served by another process already") from error
        return handle


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
