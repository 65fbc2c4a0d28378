"""The preprocessed store: each case prepared once, memory-mapped from then on.

It is patient data: the folders have mode 0700, `list_stores` shows them and `wardround purge`
removes them. A store is keyed by the dataset's digest and by everything that shapes its arrays::

    <root>/secret                     this machine's key for dataset digests, mode 0600
    <root>/deal-<key>.json            which subject lies in which fold, per dataset folder
    <root>/<key>/index.json           cases, findings, what it was made from
    <root>/<key>/0000.image.npy       float32 (modalities, *grid)
    <root>/<key>/0000.label.npy       uint8 (*grid)
    <root>/<key>/0000.foreground.npy  int32 (n, 4): label, then grid index, at most 10 000 a label
"""

from __future__ import annotations

import errno
import fcntl
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import StorageError
from wardround.core.frozen import Frozen, canonical_json
from wardround.core.randomness import rng
from wardround.data.case import Case, CaseFiles
from wardround.data.comparison import compare
from wardround.data.dataset import Dataset
from wardround.data.digest import dataset_digest
from wardround.data.findings import Finding
from wardround.data.inspection import inspect_case
from wardround.data.preprocess import Geometry, Preprocessing, prepare
from wardround.data.spec import unlabelled_indices

MOST_FOREGROUND = 10_000
Progress = Callable[[int, int], None]


class Recipe(Frozen):
    """All that shapes the arrays of a store, besides the images themselves."""

    version: int = 1
    modalities: tuple[str, ...]
    optional: tuple[str, ...] = ()
    labels: dict[str, int]
    preprocessing: Preprocessing
    dimensions: int
    slice_axis: int | None = None


@dataclass(frozen=True)
class StoredCase:
    """One prepared case; arrays are mapped on first use."""

    folder: Path
    stem: str
    facts: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The case's name at the site; private."""
        return str(self.facts["id"])

    @property
    def subject(self) -> str | None:
        """Whom the case belongs to, where known; private."""
        return self.facts["subject"]  # type: ignore[no-any-return]

    @property
    def lacks(self) -> tuple[int, ...]:
        """Channels that the case does not have (see `wardround.data.case.MISSING`)."""
        return tuple(self.facts.get("lacks", ()))

    @property
    def unlabelled(self) -> tuple[int, ...]:
        """Class indices of which nobody marked where they are."""
        return tuple(self.facts.get("unlabelled", ()))

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """(modalities, *grid), read-only."""
        array: NDArray[np.float32] = np.load(self.folder / f"{self.stem}.image.npy", mmap_mode="r", allow_pickle=False)
        return array

    @cached_property
    def label(self) -> NDArray[np.uint8]:
        """(*grid), read-only."""
        array: NDArray[np.uint8] = np.load(self.folder / f"{self.stem}.label.npy", mmap_mode="r", allow_pickle=False)
        return array

    @cached_property
    def foreground(self) -> dict[int, NDArray[np.int32]]:
        """Label index -> (n, 3) grid positions."""
        table = np.load(self.folder / f"{self.stem}.foreground.npy", mmap_mode="r", allow_pickle=False)
        return {int(label): table[table[:, 0] == label, 1:] for label in np.unique(table[:, 0])}

    @property
    def geometry(self) -> Geometry:
        """How to bring a prediction back to the image's own grid."""
        return Geometry.from_json(dict(self.facts["geometry"]))


@dataclass(frozen=True)
class Store:
    """A whole store."""

    folder: Path
    dataset: str  # keyed digest
    cases: tuple[StoredCase, ...]
    findings: tuple[Finding, ...]


def default_root() -> Path:
    """``WARDROUND_STORE``, or the user's cache folder."""
    named = os.environ.get("WARDROUND_STORE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wardround" / "store"


def open_store(dataset: Dataset, recipe: Recipe, root: Path, progress: Progress | None = None) -> Store:
    """The store of ``dataset`` for ``recipe``, built where it does not exist yet.

    A case that cannot be used is left out and listed among the findings; it never stops the build.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        root.chmod(0o700)
        digest = dataset_digest(dataset, site_secret(root))
        folder = root / f"{digest[:24]}-{recipe.digest()[:16]}"
        with _locked(folder.with_suffix(".lock")):
            if not (folder / "index.json").is_file():
                _build(dataset, digest, recipe, folder, progress)
    except OSError as error:
        raise _storage_error(root, error) from error
    return _load(folder)


def list_stores(root: Path) -> list[tuple[Path, int]]:
    """Every store (whole or left half-built) with its size in bytes."""
    if not root.is_dir():
        return []
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return [(folder, sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())) for folder in folders]


def deal_file(root: Path, folder: Path, key: str, folds: int) -> Path:
    """Where a site remembers which subject lies in which fold, across runs and whatever happens to its images."""
    text = canonical_json([str(folder.resolve()), key, folds])
    return root / f"deal-{hmac.new(site_secret(root), text.encode(), 'sha256').hexdigest()[:32]}.json"


def forget_deals(root: Path) -> int:
    """Remove all remembered splits; returns how many."""
    found = list(root.glob("deal-*.json"))
    for path in found:
        path.unlink()
    return len(found)


def purge(folder: Path) -> None:
    """Remove one store."""
    with _locked(folder.with_suffix(".lock")):
        shutil.rmtree(folder)
    folder.with_suffix(".lock").unlink(missing_ok=True)


def site_secret(root: Path) -> bytes:
    """The key of dataset digests, drawn once from the operating system; never leaves the site."""
    path = root / "secret"
    with _locked(root / "secret.lock"):
        if not path.is_file():
            scratch = path.with_suffix(".part")
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
        return path.read_bytes()


def _build(dataset: Dataset, digest: str, recipe: Recipe, folder: Path, progress: Progress | None) -> None:
    scratch = folder.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    rows, findings, traits = [], [], []
    for number, files in enumerate(dataset.cases):
        case, found, trait = inspect_case(
            files, recipe.modalities, recipe.labels, dataset.spec, recipe.dimensions, optional=recipe.optional
        )
        findings.extend(found)
        traits.append(trait)
        if case is not None:
            unknown = unlabelled_indices(recipe.labels, dataset.spec)
            row = _write_case(scratch, f"{number:04d}", files, case, recipe)
            rows.append({**row, "lacks": list(case.lacks), "unlabelled": list(unknown)})
        if progress is not None:
            progress(number + 1, len(dataset.cases))
    findings.extend(compare(traits))
    index = {
        "dataset": digest,
        "folder": dataset.root.name,
        "recipe": recipe.model_dump(mode="json"),
        "cases": rows,
        "findings": [asdict(finding) for finding in findings],
    }
    (scratch / "index.json").write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    scratch.replace(folder)


def _write_case(folder: Path, stem: str, files: CaseFiles, case: Case, recipe: Recipe) -> dict[str, Any]:
    prepared = prepare(case, recipe.preprocessing, recipe.slice_axis)
    assert prepared.label is not None and case.label is not None  # noqa: S101, PT018 - a usable case has a mask
    np.save(folder / f"{stem}.image.npy", prepared.image)
    np.save(folder / f"{stem}.label.npy", prepared.label)
    np.save(folder / f"{stem}.foreground.npy", _foreground(prepared.label, len(recipe.labels)))
    voxel = float(np.prod(case.spacing)) / 1000
    inside = [channel[channel != 0] for channel in case.image]
    return {
        "id": files.id,
        "subject": files.subject,
        "stem": stem,
        "geometry": prepared.geometry.to_json(),
        "spacing": list(case.spacing),
        "shape": list(case.image.shape[1:]),
        "intensity": {n: float(v.mean()) if v.size else 0.0 for n, v in zip(recipe.modalities, inside, strict=True)},
        "volume": {name: float((case.label == i + 1).sum()) * voxel for i, name in enumerate(recipe.labels)},
    }


def _foreground(label: NDArray[np.uint8], labels: int) -> NDArray[np.int32]:
    tables = []
    for index in range(1, labels + 1):
        places = np.argwhere(label == index).astype(np.int32)
        if len(places) > MOST_FOREGROUND:
            places = rng(0, "foreground", index).permutation(places)[:MOST_FOREGROUND]
        tables.append(np.concatenate([np.full((len(places), 1), index, np.int32), places], axis=1))
    return np.concatenate(tables)


def _load(folder: Path) -> Store:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    return Store(
        folder,
        index["dataset"],
        tuple(StoredCase(folder, row["stem"], row) for row in index["cases"]),
        tuple(Finding(**finding) for finding in index["findings"]),
    )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # a second process building the same store waits for the first
        yield
    finally:
        os.close(handle)


def _storage_error(root: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"the disk of {root} is full: free space, `wardround purge` old stores, or set WARDROUND_STORE elsewhere"
        )
    return StorageError(f"the store {root} cannot be written ({error.strerror}): set WARDROUND_STORE to another folder")


def usable(cases: Sequence[StoredCase]) -> dict[str, str]:
    """Case id -> subject; a case whose subject is unknown is a subject of its own."""
    return {case.id: case.subject if case.subject is not None else case.id for case in cases}
