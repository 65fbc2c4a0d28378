"""The final model of a run, put to use on a folder of images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from wardround.core.errors import CaseError, DatasetError, Fault, InputError, RunError, StorageError, WardRoundError
from wardround.core.rundir import RunDir
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.core.weights import read_tensors, slots
from wardround.data.case import CaseFiles
from wardround.data.dataset import Dataset, open_dataset
from wardround.data.loose import open_images
from wardround.data.readers import read_image
from wardround.data.store import default_root
from wardround.data.writers import write_label_map
from wardround.metrics.case_rows import flat
from wardround.planning.plan import Plan
from wardround.site.device import Machine, choose_machine
from wardround.site.inference import predict_case
from wardround.site.scoring import full_scores
from wardround.site.training import make_network

Track = Callable[[list[Any], str], Iterable[Any]]


@dataclass(frozen=True)
class Model:
    """A trained network and the plan that made it."""

    plan: Plan
    machine: Machine
    network: nn.Module

    @classmethod
    def open(cls, run: RunDir, device: str = "auto") -> Model:
        """The final model of a run directory.

        Raises:
            RunError: no run directory, no model yet, or a model of another plan.
        """
        plan = Plan.model_validate(run.read_json("plan.json"))
        if not run.model.is_file():
            raise RunError(f"{run.root} has no final model yet: go on with `wardround resume {run.root}`")
        try:
            made_by = json.loads(slots(run.model)[1]["wardround"])["plan"]
        except (WardRoundError, KeyError, ValueError) as error:
            raise RunError(f"{run.model} is damaged: {error}") from error
        if made_by != plan.digest():
            raise RunError(f"{run.model} does not belong to the plan beside it")
        machine = choose_machine(plan, device, default_root())
        return cls(plan, machine, make_network(plan, machine, read_tensors(run.model)))

    def evaluate(self, folder: Path, track: Track) -> dict[str, Any]:
        """Scores of every case of a dataset folder, or of every dataset folder in it.

        Returns JSON-ready ``mean_dice`` (over cases and foreground labels), ``cases``, ``per_label``,
        ``per_case``, ``per_dataset`` and ``left_out``. Case names are in it: it stays where the data is.

        Raises:
            DatasetError: no dataset is found.
        """
        datasets = find_datasets(folder)
        jobs = [(name, dataset, files) for name, dataset in datasets.items() for files in dataset.cases]
        rows: list[dict[str, Any]] = []
        left_out: list[dict[str, str]] = []
        parts: dict[str, list[Scores]] = {name: [] for name in datasets}
        for name, dataset, files in track(jobs, "scoring"):
            try:
                scored = next(full_scores(self.plan, self.machine, self.network, dataset, [files]))
            except CaseError as error:
                left_out.append({"dataset": name, "case": files.id, "code": error.code, "message": str(error)})
                continue
            parts[name].append(scored.scores)
            dice = scored.scores.mean_dice
            rows.append({"dataset": name, "case": files.id, "dice": dice, "labels": flat(scored.scores)})
        total = merge_all((s for scores in parts.values() for s in scores), Scores())
        return {
            "mean_dice": total.mean_dice,
            "lesion_f1": total.lesion_f1,
            "cases": total.cases,
            "per_label": flat(total),
            "per_case": rows,
            "per_dataset": {name: _sum(merge_all(scores, Scores())) for name, scores in parts.items()},
            "left_out": left_out,
            "plan": self.plan.digest(),
        }

    def predict(self, images: Sequence[Path], out: Path) -> Iterator[tuple[str, Path | None, str]]:
        """Write a label map a case; yields (case, path, ""), or (case, None, reason) where it failed."""
        cases = open_images(images, self.plan.task.modalities)
        taken = [Fault(f.id, "its label map would overwrite an image") for f in cases if _overwrites(f, out)]
        if taken:
            raise InputError(f"--out {out} holds the images themselves: choose another folder", taken)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write to {out}: {error.strerror}") from error
        for files in cases:
            try:
                yield files.id, self._predict_one(files, out), ""
            except CaseError as error:
                yield files.id, None, str(error)

    def _predict_one(self, files: CaseFiles, out: Path) -> Path:
        case, like = read_image(files, self.plan.task.modalities, self.plan.task.optional)
        classes = predict_case(self.plan, self.machine, self.network, case)
        values = np.array([0, *self.plan.task.labels.values()], np.uint16)
        path = out / f"{files.id}{'.png' if case.picture else '.nii.gz'}"
        write_label_map(path, values[classes], like)
        return path


def _overwrites(files: CaseFiles, out: Path) -> bool:
    written = {(out / f"{files.id}{end}").resolve() for end in (".nii.gz", ".png")}
    return any(source.path.resolve() in written for source in files.images.values())


def find_datasets(folder: Path) -> dict[str, Dataset]:
    """The dataset in ``folder``, or those in its sub-folders, by name.

    Raises:
        DatasetError: there is none.
    """
    if not folder.is_dir():
        raise InputError(f"--data {folder} is not a folder")
    try:
        return {folder.name: open_dataset(folder)}
    except DatasetError as error:
        found = {}
        for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
            try:
                found[inside.name] = open_dataset(inside)
            except WardRoundError:
                continue
        if not found:
            raise error
        return found


def _sum(scores: Scores) -> dict[str, Any]:
    return {
        "mean_dice": scores.mean_dice,
        "lesion_f1": scores.lesion_f1,
        "cases": scores.cases,
        "per_label": flat(scores),
    }
