"""A finished model for a site that never trained: tuned on a few labelled cases, if that helps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from wardround.core.errors import InputError, StorageError
from wardround.core.randomness import rng
from wardround.core.rundir import RunDir
from wardround.core.weights import file_digest, read_tensors
from wardround.data.split import Split
from wardround.data.store import StoredCase, default_root, usable
from wardround.planning.plan import Plan
from wardround.site.device import settle
from wardround.site.finetune import Tuned, Tuning, fine_tune
from wardround.site.hospital import Source, open_hospital
from wardround.site.patches import Batches
from wardround.site.personal import write_model_folder
from wardround.site.scoring import quick_scores
from wardround.site.training import make_network
from wardround.site.use import Model

Progress = Callable[[int, int], None]
STEPS = 100
DECIDE = 4  # one in so many cases decides


@dataclass(frozen=True)
class Effort:
    """How many labelled cases to use, and how hard to train on them; None: as the plan's fine-tuning, or usual."""

    cases: int = 10
    steps: int | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Adapted:
    """What was done, and what it was judged by. Holds case names: it stays where the data is.

    ``before`` and ``after`` are Dice on the cases that decided; ``others_before`` and ``others_after`` on
    the ``others`` cases that were neither trained nor decided on.
    """

    plan: str
    model: str
    kept: bool
    tensors: tuple[str, ...]
    updates: int
    rate: float
    trained_on: tuple[str, ...]
    decided_on: tuple[str, ...]
    before: float | None
    after: float | None
    others: int
    others_before: float | None
    others_after: float | None


def adapt(
    run: RunDir, data: Path, out: Path, effort: Effort, device: str = "auto", progress: Progress | None = None
) -> Adapted:
    """Fine-tune the final model of ``run`` on some cases of the dataset ``data``; write a model folder ``out``.

    Where the plan has private tensors, they alone are tuned (a new cohort's scale and shift, Nichyporuk 2021),
    else all. The plan's rule deals the dataset into parts as for any site, and cases of its test part are not
    used. The model in ``out`` is the tuned one only if the deciding cases say that it is better, else as it was.

    Raises:
        RunError: no run directory, or no final model in it.
        InputError: too few cases for this, or a dataset that cannot be used.
        SiteError: too few usable subjects, or gradients that are not finite.
        StorageError: ``out`` is not empty or cannot be written.
    """
    model = Model.open(run, device)
    plan, start = model.plan, read_tensors(run.model)
    _check_free(out)
    settle(torch.get_num_threads(), plan.training.deterministic)
    member = open_hospital(plan, "adapt", [Source(data)], default_root(), progress).members[0]
    train, decide = choose(member.split, usable(member.store.cases), effort.cases, plan.seed)
    stored = {case.id: case for case in member.store.cases}
    optional = tuple(plan.task.modalities.index(name) for name in plan.task.optional)
    batches = Batches([stored[case] for case in train], plan.training, plan.seed, "adapt", optional, plan.classes)
    tuning = _tuning(plan, effort)
    tuned = fine_tune(plan, model.machine, start, batches, [stored[case] for case in decide], tuning, progress)
    others = [case for case in member.store.cases if case.id not in {*train, *decide}]
    write_model_folder(out, plan, tuned.model, {"round": None, "adapted": tuned.kept})
    done = _report(model, run, (train, decide), tuned, tuning.rate, _scored(model, start, tuned, others))
    RunDir(out).write_json("adapt.json", {**asdict(done), "data": str(data.resolve())})
    return done


def choose(
    split: Split, subjects: Mapping[str, str], wanted: int, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(cases to train on, cases that decide): at most ``wanted`` in all, whole subjects, none in both.

    Validation cases are the first to decide, training cases the first to be trained on; test cases are neither.

    Raises:
        InputError: there are no two subjects within ``wanted`` cases.
    """
    random = rng(seed, "adapt", "cases")
    cases_of: dict[str, list[str]] = {}
    for part in (split.validation, split.train):
        names = sorted({subjects[case] for case in part})
        for index in random.permutation(len(names)):
            cases_of[names[index]] = [case for case in part if subjects[case] == names[index]]
    wanted = min(wanted, len(split.validation) + len(split.train))
    deciding = _take(cases_of, math.ceil(wanted / DECIDE), wanted - 1)
    decide = [case for subject in deciding for case in cases_of[subject]]
    rest = {subject: cases for subject, cases in reversed(cases_of.items()) if subject not in deciding}
    training = _take(rest, wanted - len(decide), wanted - len(decide))
    if not training or not deciding:
        raise InputError(
            f"--cases {wanted} is too few here: it takes two subjects, one to train on and one to decide by "
            f"(beside the test part of {len(split.test)} cases, which is left alone)"
        )
    return tuple(sorted(case for subject in training for case in rest[subject])), tuple(sorted(decide))


def _take(cases_of: Mapping[str, Sequence[str]], enough: int, most: int) -> list[str]:
    """Subjects in order until there are ``enough`` cases, passing over whoever would make them more than ``most``."""
    taken: list[str] = []
    count = 0
    for subject, cases in cases_of.items():
        if count < enough and count + len(cases) <= most:
            taken.append(subject)
            count += len(cases)
    return taken


def _tuning(plan: Plan, effort: Effort) -> Tuning:
    usual, full = plan.finetune, plan.training.optimiser.rate
    steps = effort.steps or (usual.steps if usual is not None else STEPS)
    # A few tensors cannot run away as a whole network can: they are tuned at the rate they were trained at.
    rate = usual.rate_for(full) if usual is not None else full if plan.private is not None else full / 10
    return Tuning(steps, effort.rate or rate, plan.updates, plan.private_tensors or None)


def _scored(
    model: Model, start: Mapping[str, Any], tuned: Tuned, others: Sequence[StoredCase]
) -> tuple[int, float | None, float | None]:
    scores = [
        quick_scores(model.plan, model.machine, make_network(model.plan, model.machine, weights), others).mean_dice
        for weights in (start, tuned.model)
    ]
    return len(others), scores[0], scores[1]


def _report(
    model: Model,
    run: RunDir,
    used: tuple[tuple[str, ...], tuple[str, ...]],
    tuned: Tuned,
    rate: float,
    others: tuple[int, float | None, float | None],
) -> Adapted:
    return Adapted(
        plan=model.plan.digest(),
        model=file_digest(run.model),
        kept=tuned.kept,
        tensors=tuned.changed,
        updates=tuned.updates,
        rate=rate,
        trained_on=used[0],
        decided_on=used[1],
        before=tuned.before,
        after=tuned.after,
        others=others[0],
        others_before=others[1],
        others_after=others[2],
    )


def _check_free(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(out.iterdir()):
            raise StorageError(f"{out} is not empty: choose another --out")
    except OSError as error:
        raise StorageError(f"cannot use {out}: {error.strerror}") from error
