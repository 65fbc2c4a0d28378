"""Studies: several runs that belong together, in one folder, resumable as one.

::

    study.json                 which runs, in order
    <variant>/seed-0/          an ordinary run directory each
    comparison.{json,md}       the table over all of them
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from wardround.core.documents import parse_document
from wardround.core.errors import Fault, InputError
from wardround.core.frozen import Frozen
from wardround.core.rundir import RunDir
from wardround.planning.plan import Plan
from wardround.planning.sites import SitesFile
from wardround.runtimes.assemble import create

MARK = "study.json"
MOST_MEMBERS = 1000


class Member(Frozen):
    """One run of a study."""

    folder: str
    variant: str
    seed: int
    left_out: str | None = None


class Study(Frozen):
    """All runs of a study; variants in the order in which they were named."""

    members: tuple[Member, ...]

    @property
    def variants(self) -> list[str]:
        """Names, each once."""
        return list(dict.fromkeys(member.variant for member in self.members))


def read_study(root: RunDir) -> Study | None:
    """The study in a folder, or None where it is an ordinary run."""
    return Study.model_validate(root.read_json(MARK)) if (root.root / MARK).is_file() else None


def create_study(
    root: RunDir,
    variants: Mapping[str, Plan],
    sites: tuple[SitesFile, Mapping[str, Path]],
    seeds: Sequence[int],
    baselines: Sequence[str],
    leave_one_out: bool,
) -> None:
    """Lay out every run; to a study that exists, those that it lacks are added.

    The first variant carries the baselines; with ``leave_one_out`` it also runs without each site.

    Raises:
        InputError: fewer than two sites would be left to train.
        StorageError: the folder cannot be used.
    """
    file, folders = sites
    names = [site.name for site in file.sites]
    if leave_one_out and len(names) < 3:
        raise InputError(f"--leave-one-out needs at least three sites, the sites file names {len(names)}")
    before = read_study(root)
    known = {} if before is None else {member.folder: member for member in before.members}
    first = before.members[0].variant if before is not None else next(iter(variants))
    jobs: list[tuple[str, int, str | None]] = [(name, seed, None) for seed in seeds for name in variants]
    if leave_one_out:
        jobs += [(next(iter(variants)), seed, site) for seed in seeds for site in names]
    if before is None:
        root.make_free()
    for name, seed, left_out in jobs:
        variant = name if left_out is None else f"{name} without {left_out}"
        member = Member(folder=f"{slug(variant)}/seed-{seed}", variant=variant, seed=seed, left_out=left_out)
        if member.folder in known:
            continue
        plan = variants[name].model_copy(update={"seed": seed})
        own = list(baselines) if name == first and left_out is None else []
        text = yaml.safe_dump(plan.model_dump(mode="json"), sort_keys=False)
        create(RunDir(root.root / member.folder), plan, file, folders, own, text, left_out)
        known[member.folder] = member
        root.write_json(MARK, Study(members=tuple(known.values())).model_dump(mode="json"))


def slug(name: str) -> str:
    """A folder name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", name).strip("-.") or "variant"


def variants_of(plan: Plan, strategies: Sequence[str], changes: Sequence[str]) -> dict[str, Plan]:
    """The plan with each strategy, and with each change ``NAME: {section: {field: value}}``.

    Raises:
        InputError: with the faults of all variants.
    """
    wanted: dict[str, dict[str, Any]] = {name: {"strategy": {"name": name}} for name in strategies}
    if plan.strategy.name in wanted:
        wanted[plan.strategy.name] = {}  # with the plan's own settings
    faults: list[Fault] = []
    for text in changes:
        wanted |= _change(text, faults)
    made: dict[str, Plan] = {}
    for name, change in wanted.items():
        text = yaml.safe_dump({**plan.model_dump(mode="json"), **change}, sort_keys=False)
        try:
            made[name] = parse_document(text, Plan, name)
        except InputError as error:
            faults += [Fault(f"{name}: {fault.field}", fault.message) for fault in error.faults]
    if len({slug(name) for name in made}) < len(made):
        faults.append(Fault("--variant", "two variants have the same name"))
    if faults:
        raise InputError("these variants make no valid plan", faults)
    return made or {plan.strategy.name: plan}


def _change(text: str, faults: list[Fault]) -> dict[str, dict[str, Any]]:
    shape = "is written NAME: {section: {field: value}}, for example 'strong: {strategy: {name: fedprox, mu: 0.1}}'"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = None
    if not isinstance(value, dict) or len(value) != 1 or not all(isinstance(v, dict) for v in value.values()):
        faults.append(Fault("--variant", shape))
        return {}
    return {str(name): dict(change) for name, change in value.items()}
