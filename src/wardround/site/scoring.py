"""Scoring a model on a site's cases: on the prepared grid each round, on the image's own grid at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wardround.core.errors import CaseError
from wardround.core.scores import LabelScores, Scores
from wardround.core.stats import Moments, merge_all
from wardround.data.case import Case, CaseFiles
from wardround.data.dataset import Dataset
from wardround.data.readers import read_case
from wardround.data.spec import unlabelled_indices
from wardround.data.store import StoredCase
from wardround.metrics.overlap import overlap
from wardround.metrics.score import score_case
from wardround.planning.plan import Plan
from wardround.site.device import Machine
from wardround.site.inference import predict_case, predict_probabilities

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ScoredCase:
    """One case with its prediction; private to the site."""

    files: CaseFiles
    case: Case
    prediction: NDArray[np.uint8]
    scores: Scores


def score(plan: Plan, reference: NDArray[np.uint8], prediction: NDArray[np.uint8], spacing: Sequence[float]) -> Scores:
    """Scores of one case as the plan asks for them."""
    return score_case(
        reference,
        prediction,
        (spacing[0], spacing[1], spacing[2]),
        labels=tuple(plan.task.labels),
        lesions=plan.task.lesions,
        tolerance_mm=plan.evaluation.tolerance,
        minimum_lesion_mm3=plan.evaluation.minimum_lesion,
    )


def quick_scores(
    plan: Plan, machine: Machine, network: nn.Module, cases: Sequence[StoredCase], tell: Progress | None = None
) -> Scores:
    """Dice only, on the prepared grid: what selects and stops. Never given test cases."""
    parts: list[Scores] = []
    for case in cases:
        winner = predict_probabilities(plan, machine, network, case.image).argmax(0).astype(np.uint8)
        found = overlap_only(tuple(plan.task.labels), np.asarray(case.label), winner)
        parts.append(outlined(plan, found, case.unlabelled))
        if tell is not None:
            tell(len(parts), len(cases))
    return merge_all(parts, Scores())


def outlined(plan: Plan, scores: Scores, unlabelled: Sequence[int]) -> Scores:
    """The scores without the labels that nobody outlined in the case: there is nothing to compare with."""
    hidden = {list(plan.task.labels)[index - 1] for index in unlabelled}
    return Scores(cases=scores.cases, labels={n: s for n, s in scores.labels.items() if n not in hidden})


def overlap_only(labels: Sequence[str], reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> Scores:
    """Dice of one case and nothing else: cheap enough for every round."""
    scores = {}
    for value, name in enumerate(labels, start=1):
        dice = overlap(reference == value, prediction == value).dice
        scores[name] = LabelScores(dice=Moments.of([] if dice is None else [dice]), both_empty=int(dice is None))
    return Scores(cases=1, labels=scores)


def full_scores(
    plan: Plan, machine: Machine, network: nn.Module, dataset: Dataset, cases: Sequence[CaseFiles]
) -> Iterator[ScoredCase]:
    """Each case read anew, predicted, brought back to its own grid and scored there."""
    unlabelled = unlabelled_indices(plan.task.labels, dataset.spec)
    for files in cases:
        case = read_case(files, plan.task.modalities, plan.task.labels, dataset.spec, optional=plan.task.optional)
        if plan.task.dimensions == 3 and case.image.shape[3] == 1:
            raise CaseError("wrong_dimensions", f"{files.id}: is flat; the model needs volumes")
        prediction = predict_case(plan, machine, network, case)
        assert case.label is not None  # noqa: S101 - read_case asks for the mask
        scores = outlined(plan, score(plan, case.label, prediction, case.spacing), unlabelled)
        yield ScoredCase(files, case, prediction, scores)
