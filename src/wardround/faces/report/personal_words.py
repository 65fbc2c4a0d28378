"""In plain words: what each site keeps for itself of a model, and what becomes of it after the last round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wardround.faces.report.collect import at
from wardround.faces.report.shown import counted, listed, whole
from wardround.networks.catalog import NetworkSettings
from wardround.networks.names import tensor_roles
from wardround.planning.personal import Private

Json = Mapping[str, Any]

_ROLES = {
    "norm": "the normalisation",
    "norm.affine": "the scale and shift of the normalisation",
    "norm.statistics": "the running statistics of the normalisation",
    "head": "the last layer",
    "body": "everything but the normalisation and the last layer",
}
_NETWORK: TypeAdapter[Any] = TypeAdapter(NetworkSettings)


def kept_words(plan: Json) -> tuple[str, ...]:
    """What of a model never leaves a site under this plan."""
    sentences = []
    if at(plan, "private.tensors") and at(plan, "private.unseen") != "mean":
        sentences.append(_private(plan))
    if at(plan, "strategy.name") == "ditto":
        sentences.append("The site's own model, which it trains beside the shared one.")
    if at(plan, "finetune"):
        sentences.append("The model that it fine-tunes for itself after the last round.")
    return tuple(sentences)


def once_words(plan: Json) -> tuple[str, ...]:
    """What leaves a site once more, at the end."""
    sentences = []
    if at(plan, "private.unseen") == "mean":
        sentences.append(
            "Once, after the last round, and not before: the values of what stays at the site while it trains, to be "
            f"averaged for sites that did not take part. {_private(plan)}"
        )
    if at(plan, "finetune"):
        sentences.append(
            "Once, after the last round: whether fine-tuning was kept, and the mean Dice on the site's validation "
            "cases before and after it."
        )
    return tuple(sentences)


def end_words(plan: Json) -> tuple[str, ...]:
    """What each site does after the last round."""
    steps = at(plan, "finetune.steps")
    if not steps:
        return ()
    return (
        f"After the last round each site trains the model on for itself, {counted(steps, 'step')}, and keeps the "
        "outcome only if its own validation cases improve.",
    )


def unseen_words(plan: Json) -> tuple[str, ...]:
    """With which private tensors a site works that did not train."""
    if not at(plan, "private.tensors"):
        return ()
    given = "the sites' mean" if at(plan, "private.unseen") == "mean" else "their first, untrained values"
    return (f"A site that did not train has none of the private tensors and is given {given}.",)


def _private(plan: Json) -> str:
    patterns = [str(pattern) for pattern in at(plan, "private.tensors", [])]
    said = listed(_ROLES.get(pattern, pattern) for pattern in patterns)
    try:
        network = _NETWORK.validate_python(at(plan, "network"))
        names = Private(tensors=tuple(patterns)).names(network)
    except ValidationError:  # of another version
        return f"Of the model {said}: each site has its own."
    return (
        f"Of the model {said}: each site has its own. These are {whole(len(names))} of its "
        f"{counted(len(tensor_roles(network)), 'tensor')}: {listed(names)}."
    )
