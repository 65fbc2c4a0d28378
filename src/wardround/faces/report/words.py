"""A plan in plain words, for a report's reader and for the person at a hospital who approves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.faces.report.collect import at
from wardround.faces.report.personal_words import end_words, kept_words, once_words, unseen_words
from wardround.faces.report.shown import counted, listed, size, whole
from wardround.faces.report.strategy_words import more_leaves, strategy_words
from wardround.faces.report.transfer_words import contribution_words, encoding_words, received_words

Json = Mapping[str, Any]

NETWORKS = {"unet": "U-Net", "unet++": "U-Net++", "attention_unet": "Attention U-Net"}
_OPTIMISERS = {"adamw": "AdamW", "sgd": "SGD with Nesterov momentum"}
_NORMALISE = {
    "zscore": "shifted and scaled to mean 0 and standard deviation 1, per image and modality",
    "zscore_nonzero": "shifted and scaled to mean 0 and standard deviation 1 over their non-zero voxels, per image "
    "and modality",
    "rescale": "scaled to between 0 and 1 (0.5th to 99.5th percentile), per image and modality",
    "none": "left as they are",
}
_RULES = {
    "median": "In place of an average stands the median over the sites, number by number, each site counting the same.",
    "trimmed": "In place of that average stands one without the sites' lowest and highest values, number by number, "
    "each site counting the same.",
    "geometric": "In place of an average stands the geometric median: the model with the least sum of distances to the "
    "sites' models.",
}


@dataclass(frozen=True)
class Topic:
    """One question that a reader has, and the plan's answer, sentence by sentence."""

    title: str
    sentences: tuple[str, ...]
    points: bool = False  # better shown as a list than as a paragraph

    @property
    def text(self) -> str:
        """The answer as one paragraph."""
        return " ".join(self.sentences)


def plan_words(plan: Json, sites: int | None = None, model_bytes: float | None = None) -> list[Topic]:
    """The plan's JSON in plain English.

    ``sites`` is the size of the federation and ``model_bytes`` the size of one site's contribution,
    where they are known. What the plan does not say is left out.
    """
    topics = [
        Topic("What is learned", _learned(plan)),
        Topic("What happens each round", _round(plan)),
        Topic("How long it goes on", _length(plan, sites)),
        Topic("What leaves a site", leaves(plan, model_bytes), points=True),
        Topic("What never leaves a site", stays(plan)),
        Topic("How images are prepared", _prepared(plan)),
        Topic("How the model is judged", _judged(plan)),
    ]
    return [topic for topic in topics if topic.sentences]


def _learned(plan: Json) -> tuple[str, ...]:
    labels, lesions = list(at(plan, "task.labels", {})), at(plan, "task.lesions", [])
    network = str(at(plan, "network.name", "network"))
    kind = f"{at(plan, 'task.dimensions', 3)}D {NETWORKS.get(network, network)}"
    sentences = [f"One {kind} learns to outline {listed(labels)} on {listed(at(plan, 'task.modalities', []))} images."]
    if lesions:
        sentences.append(f"For {listed(lesions)}, separate spots are also counted one by one.")
    return tuple(sentences)


def _round(plan: Json) -> tuple[str, ...]:
    training = at(plan, "training", {})
    batch, patch = at(training, "batch"), at(training, "patch", [])
    optimiser = str(at(training, "optimiser.name", ""))
    pieces = f" of {batch} pieces ({' × '.join(map(str, patch))} voxels each)" if batch and patch else ""
    sentences = [received_words(plan)]
    if at(training, "steps"):
        sentences.append(
            f"It takes {counted(at(training, 'steps'), 'optimiser step')} on its own training cases, each on a batch"
            f"{pieces}, and sends the changed weights back."
        )
    if optimiser:
        falling = ", falling towards zero over all rounds" if at(training, "schedule") == "poly" else ""
        rate = at(training, "optimiser.rate")
        sentences.append(
            f"The optimiser is {_OPTIMISERS.get(optimiser, optimiser)} with learning rate {rate}{falling}."
        )
    sentences.append(strategy_words(plan))
    sentences += _aggregation(plan)
    every = at(plan, "evaluation.every", 1)
    when = "Then" if every == 1 else f"After every {every} rounds"
    sentences.append(f"{when} each site scores the new model on its own validation cases and sends the sums.")
    return tuple(sentences)


def _aggregation(plan: Json) -> list[str]:
    name, clip = at(plan, "aggregation.name", "plain"), at(plan, "aggregation.clip")
    sentences = [_RULES[name]] if name in _RULES else []
    if clip:
        sentences.append(f"A site's change over {clip:g} times as long as the sites' median is shortened to that.")
    return sentences


def _length(plan: Json, sites: int | None) -> tuple[str, ...]:
    limit, steps = at(plan, "rounds.limit"), at(plan, "training.steps")
    sentences = []
    if limit:
        total = f", {whole(limit * steps)} optimiser steps in all" if isinstance(steps, int) else ""
        sentences.append(f"At most {counted(limit, 'round')}{total}.")
    if at(plan, "rounds.patience"):
        sentences.append(
            f"It ends earlier when the mean validation Dice has not gained {at(plan, 'rounds.gain', 0)} "
            f"for {counted(at(plan, 'rounds.patience'), 'round')}; the best model on the validation cases is kept."
        )
    quorum = at(plan, "rounds.quorum")
    needed = quorum or (sites // 2 + 1 if sites else None)
    among = f" of the {sites}" if sites else ""
    said = f"at least {needed}{among} sites have" if needed else "more than half of the sites have"
    sentences.append(f"A round counts when {said} answered.")
    if at(plan, "study.ends"):
        ends = str(at(plan, "study.ends")).replace("-", "\u2011")  # a date does not break at the end of a line
        sentences.append(f"The study ends on {ends}.")
    return (*sentences, *end_words(plan))


def leaves(plan: Json, model_bytes: float | None = None) -> tuple[str, ...]:
    """What a site sends, how often and how big."""
    big = f" (about {size(model_bytes)})" if model_bytes else ""
    rest = ", without those that each site keeps for itself" if at(plan, "private.tensors") else ""
    sentences = [
        "Once: a description of the data in sums (numbers of cases and subjects, what was left out by reason, voxel "
        "sizes, image sizes, mean intensities, a histogram of label volumes, the kind of computer).",
        f"Each round: {contribution_words(plan)}{big}{rest}, the number of training cases and steps, the mean loss and "
        "timings.",
        more_leaves(plan),
        encoding_words(plan),
        "Each time the model is scored, and once on the test cases at the end: sums over cases of the metrics.",
        *once_words(plan),
        who_sees(plan),
    ]
    return tuple(filter(None, sentences))


def who_sees(plan: Json) -> str:
    """What the coordinator learns from a site's weights; empty where this is not known of the plan."""
    if at(plan, "aggregation.name", "plain") not in ("plain", *_RULES):
        return ""
    return (
        "The coordinator sees each site’s weights by themselves. Weights are not images, but a model can keep "
        "traces of what it was trained on, and this plan neither adds noise nor hides one site’s weights in a sum."
    )


def stays(plan: Json) -> tuple[str, ...]:
    """What no plan can make a site send, and what this one leaves there."""
    always = "Images, label maps, predictions, file names, case names and the texts inside image files."
    return (always, *kept_words(plan))


def _prepared(plan: Json) -> tuple[str, ...]:
    spacing = at(plan, "preprocessing.spacing")
    sentences = []
    if optional := at(plan, "task.optional", []):
        sentences.append(f"A case without {listed(optional, 'or')} takes part all the same: that image is left empty.")
    if at(plan, "preprocessing.crop"):
        sentences.append("Empty margins are cut off.")
    if at(plan, "preprocessing.normalise") in _NORMALISE:
        sentences.append(f"Intensities are {_NORMALISE[at(plan, 'preprocessing.normalise')]}.")
    if isinstance(spacing, list):
        axes = " × ".join("own" if value is None else f"{value:g}" for value in spacing)
        sentences.append(f"Images are resampled to voxels of {axes} mm.")
    elif sentences:
        sentences.append("Voxel sizes stay as they are.")
    if sentences:
        sentences.append("Each site does this on its own machine.")
    return tuple(sentences)


def _judged(plan: Json) -> tuple[str, ...]:
    folds = at(plan, "evaluation.folds")
    if not folds:
        return ()
    return (
        f"Each site deals its subjects into {folds} parts: one is for testing (part {at(plan, 'evaluation.fold', 0)}), "
        "the next for validation, the rest for training. A site with fewer subjects has one part a subject.",
        "The model is chosen on validation cases; nothing is ever chosen on test cases.",
        *unseen_words(plan),
    )


def stop_words(
    plan: Json, stopped: Mapping[str, Any] | None, last_round: int | None, network: bool = False
) -> tuple[str, str]:
    """The state of a run: a key (``done``, ``open``, ``broken``) and a sentence without its full stop.

    ``network``: it was carried out by a coordinator, where a run that was stopped by hand is over for good.
    """
    if stopped is None:
        if last_round is None:
            return "open", "No round has ended yet"
        return "open", f"Unfinished: round {last_round} is the last that ended. It is running, or was cut off"
    reason, rounds = stopped.get("reason"), stopped.get("rounds")
    if reason == "stabilised":
        patience, gain = at(plan, "rounds.patience"), at(plan, "rounds.gain")
        return "done", f"Stabilised after {rounds} rounds: no gain of {gain} for {patience} rounds"
    if reason == "limit":
        return "done", f"Complete: the limit of {rounds} rounds was reached"
    return "broken", _broken(reason == "aborted", rounds, network)


def _broken(by_hand: bool, rounds: object, network: bool) -> str:
    if network and by_hand:
        return f"Aborted after {rounds} rounds, for good: another seed makes it a plan that can be submitted"
    if network:
        how = "`wardround coordinator resume` goes on with it when what was wrong has been mended"
        return f"Stopped by a failure after {rounds} rounds: {how}"
    return f"Stopped by {'hand' if by_hand else 'a failure'} after {rounds} rounds; it can be resumed"
