"""What a dataset is right now: a keyed digest of all of it and of each case, read again only where a file changed.

The digests are keyed with a secret of the site, so that nobody who knows a public data set can recognise
it. Those of single cases stay at the site: they tell a person how many cases changed since an approval.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.core.errors import DatasetError
from wardround.core.frozen import canonical_json
from wardround.core.weights import file_digest
from wardround.data.case import CaseFiles
from wardround.data.dataset import Dataset, open_dataset
from wardround.data.spec import DatasetSpec
from wardround.data.split import deal, split_cases
from wardround.data.store import deal_file, site_secret
from wardround.planning.plan import Plan
from wardround.site.private_files import private_folder, write_private

SETTLED = 2 * 10**9  # ns: a file touched later than this before it was read could change within the clock's grain
Stamp = tuple[int, int, int]  # size, mtime and ctime in ns
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Identity:
    """A dataset at one moment. ``cases``: keyed name -> keyed contents, 32 hexadecimal digits each."""

    digest: str
    spec: str
    cases: Mapping[str, str]


@dataclass(frozen=True)
class Change:
    """How a dataset differs from what it was."""

    changed: int
    removed: int
    added: int
    spec: bool = False

    def __str__(self) -> str:
        parts = [
            f"{_cases(self.changed)} changed" if self.changed else "",
            f"{_cases(self.removed)} removed" if self.removed else "",
            f"{_cases(self.added)} added" if self.added else "",
            "what dataset.yaml says changed" if self.spec else "",
        ]
        return ", ".join(filter(None, parts)) or "nothing that can be named changed"


def compare_identities(before: Identity, now: Identity) -> Change:
    """What became of the cases of ``before``."""
    shared = before.cases.keys() & now.cases.keys()
    return Change(
        changed=sum(before.cases[name] != now.cases[name] for name in shared),
        removed=len(before.cases.keys() - shared),
        added=len(now.cases.keys() - shared),
        spec=before.spec != now.spec,
    )


class DatasetWatch:
    """Says what a dataset is; costs a listing while nothing changes.

    Args:
        folder: the dataset.
        store_root: where the site's secret lies (`wardround.data.store.default_root`, or the site's own).
        cache: where to remember what was read; holds file names and stays at the site.
        spec: in place of a dataset.yaml in the folder.
    """

    def __init__(self, folder: Path, store_root: Path, cache: Path, spec: DatasetSpec | None = None) -> None:
        self._folder, self._store_root, self._cache, self._spec = folder, store_root, cache, spec
        self._known = _read_cache(cache)  # path -> stamp and SHA-256
        self._last: tuple[Any, Identity] | None = None

    def identity(self, progress: Progress | None = None) -> Identity:
        """The dataset now; ``progress`` is told of files read and files in all.

        Raises:
            DatasetError: it cannot be listed or read.
            InputError: dataset.yaml has faults.
        """
        dataset = self.dataset()
        stamps = {path: _stamp(path) for case in dataset.cases for _, path in _roles(case)}
        state = (dataset.spec.canonical(), [(case.id, case.subject) for case in dataset.cases], stamps)
        began = time.time_ns()
        settled = all(max(stamp[1:]) < began - SETTLED for stamp in stamps.values())
        if self._last is not None and self._last[0] == state and settled:
            return self._last[1]
        found = self._identify(dataset, self._contents(stamps, began, progress))
        self._last = state, found
        return found

    def dataset(self) -> Dataset:
        """The dataset as listed."""
        return open_dataset(self._folder, self._spec)

    def parts(self, plan: Plan) -> dict[str, int]:
        """How many listed cases a plan would train, validate and test on.

        It is the most: a case that turns out unusable is left out later.

        Raises:
            SiteError: too few subjects.
            DatasetError: it cannot be listed, or a case has a name that is not UTF-8.
        """
        dataset = self.dataset()
        subjects = {case.id: case.subject if case.subject is not None else case.id for case in dataset.cases}
        key, folds = plan.evaluation.split_key, plan.evaluation.folds
        path = deal_file(private_folder(self._store_root), dataset.root, key, folds)
        before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        try:
            dealt = deal(sorted(set(subjects.values())), key, folds, before)
        except UnicodeEncodeError as error:
            raise DatasetError(f"a file of case {error.object!a} has a name that is not UTF-8: rename it") from error
        split = split_cases(subjects, dealt, plan.evaluation.fold)
        return {name: len(getattr(split, name)) for name in ("train", "validation", "test")}

    def _contents(self, stamps: Mapping[Path, Stamp], began: int, progress: Progress | None) -> dict[Path, str]:
        found, fresh = {}, False
        for number, (path, stamp) in enumerate(stamps.items(), start=1):
            name = str(path)
            known = self._known.get(name)
            if known is None or known[0] != stamp:
                known, fresh = (stamp, _digest(path)), True
                self._known[name] = known
            if max(stamp[1:]) >= began - SETTLED:
                del self._known[name]
            found[path] = known[1]
            if progress is not None:
                progress(number, len(stamps))
        names = {str(path) for path in stamps}
        if fresh or self._known.keys() - names:
            self._known = {name: known for name, known in self._known.items() if name in names}
            _write_cache(self._cache, self._known)
        return found

    def _identify(self, dataset: Dataset, contents: Mapping[Path, str]) -> Identity:
        secret = site_secret(private_folder(self._store_root))
        cases = {}
        for case in dataset.cases:
            what = [case.id, case.subject, [[role, contents[path]] for role, path in _roles(case)]]
            cases[_keyed(secret, ["case", case.id])] = _keyed(secret, ["contents", *what])
        spec = _keyed(secret, ["spec", dataset.spec.canonical()])
        whole = hmac.new(secret, canonical_json(["dataset", spec, cases]).encode(), hashlib.sha256).hexdigest()
        return Identity(whole, spec, cases)


def _roles(case: CaseFiles) -> Iterator[tuple[str, Path]]:
    for name, source in sorted(case.images.items()):
        yield f"image:{name}:{'' if source.channel is None else source.channel}", source.path
    if case.mask is not None:
        yield "mask", case.mask


def _keyed(secret: bytes, value: Any) -> str:
    data = canonical_json(value).encode(errors="surrogateescape")  # file names need not be UTF-8
    return hmac.new(secret, data, hashlib.sha256).hexdigest()[:32]


def _stamp(path: Path) -> Stamp:
    try:
        seen = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_cache(path: Path) -> dict[str, tuple[Stamp, str]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))["files"]
        return {str(name): ((int(a), int(b), int(c)), str(digest)) for name, (a, b, c, digest) in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # only a cache: everything is read again


def _write_cache(path: Path, known: Mapping[str, tuple[Stamp, str]]) -> None:
    rows = {name: [*stamp, digest] for name, (stamp, digest) in known.items()}
    write_private(path, canonical_json({"files": rows}).encode(errors="surrogateescape"))


def _cases(count: int) -> str:
    return f"{count} case{'' if count == 1 else 's'}"
