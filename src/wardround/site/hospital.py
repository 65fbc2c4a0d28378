"""A site's own data for one plan: prepared cases, split by subject, and what may be told of them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround import __version__
from wardround.core.errors import SiteError
from wardround.core.messages import SiteSummary
from wardround.core.stats import Histogram, Moments, merge_counts
from wardround.core.weights import write_bytes
from wardround.data.dataset import Dataset, open_dataset
from wardround.data.findings import counts
from wardround.data.spec import DatasetSpec
from wardround.data.split import Split, deal, split_cases
from wardround.data.store import Recipe, Store, StoredCase, deal_file, open_store, usable
from wardround.planning.plan import Plan
from wardround.site.inference import slice_axis

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Source:
    """A dataset folder of a site; ``spec`` replaces a dataset.yaml in it."""

    folder: Path
    spec: DatasetSpec | None = None


@dataclass(frozen=True)
class Member:
    """One dataset, prepared and split."""

    dataset: Dataset
    store: Store
    split: Split

    def part(self, name: str) -> list[StoredCase]:
        """Cases of ``train``, ``validation`` or ``test``."""
        wanted = set(getattr(self.split, name))
        return [case for case in self.store.cases if case.id in wanted]


@dataclass(frozen=True)
class Hospital:
    """All of a site's data. A hospital has one dataset; the pooled baseline has them all."""

    name: str
    members: tuple[Member, ...]

    def part(self, name: str) -> list[StoredCase]:
        """Cases of a part over all datasets."""
        return [case for member in self.members for case in member.part(name)]


def recipe_of(plan: Plan) -> Recipe:
    """What of a plan shapes the prepared arrays."""
    return Recipe(
        modalities=plan.task.modalities,
        optional=plan.task.optional,
        labels=plan.task.labels,
        preprocessing=plan.preprocessing,
        dimensions=plan.task.dimensions,
        slice_axis=slice_axis(plan),
    )


def open_hospital(
    plan: Plan, name: str, sources: Sequence[Source], store_root: Path, progress: Progress | None = None
) -> Hospital:
    """Prepare (once) and split a site's data.

    Raises:
        SiteError: too few usable cases; holds counts only.
        StorageError: the store cannot be written.
    """
    members, refused = [], []
    for source in sources:
        try:
            members.append(_open(plan, source, store_root, progress))
        except SiteError as error:
            refused.append(error)  # among several datasets (the pooled baseline) one may have too few cases
    if not members:
        raise refused[0]
    return Hospital(name, tuple(members))


def _open(plan: Plan, source: Source, store_root: Path, progress: Progress | None) -> Member:
    dataset = open_dataset(source.folder, source.spec)
    store = open_store(dataset, recipe_of(plan), store_root, progress)
    subjects = usable(store.cases)
    key, folds = plan.evaluation.split_key, plan.evaluation.folds
    path = deal_file(store_root, dataset.root, key, folds)
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    dealt = deal(sorted(set(subjects.values())), key, folds, before)
    if dealt != before:
        write_bytes(path, json.dumps(dealt, indent=1).encode())
    try:
        split = split_cases(subjects, dealt, plan.evaluation.fold)
    except SiteError as error:
        left_out = counts(store.findings, "error")
        reasons = f"; left out: {', '.join(f'{n} {code}' for code, n in left_out.items())}" if left_out else ""
        raise SiteError(f"{error}{reasons}") from error
    return Member(dataset, store, split)


def summarise(plan: Plan, hospital: Hospital, device: str, precision: str) -> SiteSummary:
    """The site's data in sums (see `SiteSummary`)."""
    stores = [member.store for member in hospital.members]
    cases = [case for store in stores for case in store.cases]
    left_out: dict[str, int] = {}
    warnings: dict[str, int] = {}
    for store in stores:
        left_out = merge_counts(left_out, counts(store.findings, "error"))
        warnings = merge_counts(warnings, counts(store.findings, "warning"))
    known = all(case.subject is not None for case in cases)
    return SiteSummary(
        dataset=stores[0].dataset,
        synthetic=any(member.dataset.spec.synthetic for member in hospital.members),
        cases={part: len(hospital.part(part)) for part in ("train", "validation", "test")},
        subjects=len({case.subject for case in cases}) if known else None,
        left_out=left_out,
        warnings=warnings,
        spacing=tuple(Moments.of(case.facts["spacing"][axis] for case in cases) for axis in range(3)),
        shape=tuple(Moments.of(case.facts["shape"][axis] for case in cases) for axis in range(3)),
        intensity={
            name: Moments.of(case.facts["intensity"][name] for case in cases if number not in case.lacks)
            for number, name in enumerate(plan.task.modalities)
        },
        volume={
            name: _volumes([case.facts["volume"][name] for case in cases if number not in case.unlabelled])
            for number, name in enumerate(plan.task.labels, start=1)
        },
        present={name: sum(case.facts["volume"][name] > 0 for case in cases) for name in plan.task.labels},
        lacks={
            name: count
            for number, name in enumerate(plan.task.modalities)
            if (count := sum(number in case.lacks for case in cases))
        },
        unlabelled={
            name: count
            for number, name in enumerate(plan.task.labels, start=1)
            if (count := sum(number in case.unlabelled for case in cases))
        },
        device=device,
        precision=precision,
        software=__version__,
    )


def _volumes(millilitres: Sequence[float]) -> Histogram:
    """Histogram of log10(ml), from 1 mm^3 to 10 l."""
    logs = [math.log10(float(np.clip(v, 1e-3, 1e4))) for v in millilitres if v > 0]
    return Histogram.of(logs, -3, 4, 28)
