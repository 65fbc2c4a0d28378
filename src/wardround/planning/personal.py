"""The sections of a plan by which a site gets a model of its own: private tensors and fine-tuning."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from wardround.core.frozen import Frozen
from wardround.networks.catalog import Network
from wardround.networks.names import BODY, tensor_roles

ROLES = ("norm", "norm.affine", "norm.statistics", "head", "body")
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]!-]{1,100}$")]


class Private(Frozen):
    """Tensors that never leave a site: each keeps its own, the rest is learned together.

    ``norm`` is FedBN (Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization,
    ICLR 2021, which keeps all parameters of the normalisation at the clients). ``norm.affine`` with instance
    norm is the federated form of source-conditioned instance normalisation (Nichyporuk et al., Cohort Bias
    Adaptation in Aggregated Datasets for Lesion Segmentation, DART 2021: scale and shift per cohort, all else
    shared). ``head`` is FedPer (Arivazhagan et al., Federated Learning with Personalization Layers, 2019: base
    layers shared, the last layers each client's own). ``norm.statistics`` is the split of SiloBN (Andreux et
    al., Siloed Federated Learning for Multi-Centric Histopathology Datasets, DCL 2020).
    """

    tensors: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=64)] = Field(
        description=f"roles ({', '.join(ROLES)}) or patterns of names, such as encoder.0.*"
    )
    unseen: Literal["initial", "mean"] = Field(
        default="initial",
        description="what a site that did not train is given: their first values, or the sites' mean (then each "
        "site sends its own once, at the end)",
    )

    def names(self, network: Network) -> tuple[str, ...]:
        """The tensors meant, in the network's order."""
        return tuple(
            name for name, role in tensor_roles(network).items() if any(_means(p, name, role) for p in self.tensors)
        )

    def faults(self, network: Network) -> list[str]:
        """What makes no sense with this network; each begins with its field."""
        roles, found = tensor_roles(network), self.names(network)
        faults = [
            f"private.tensors: {_nothing(p, network)}"
            for p in self.tensors
            if not any(_means(p, name, role) for name, role in roles.items())
        ]
        if len(found) == len(roles):
            faults.append(
                "private.tensors: names the whole network, so nothing would be shared: that is what "
                "`wardround run --baseline local` trains"
            )
        deep = [name for name in found if roles[name] == BODY]
        if self.unseen == "mean" and deep:
            faults.append(
                f"private.unseen: mean is for norms and heads: layers that were trained apart ({deep[0]}) are not "
                "alike number by number, and their mean is no layer; set it to initial"
            )
        return faults


class Finetune(Frozen):
    """After the last round each site trains the model on, for itself; what validates worse is thrown away.

    As in Wang et al., Federated Evaluation of On-device Personalization, 2019, each judges by held-out data of
    its own what fine-tuning gave it. Validation cases decide, test cases never.
    """

    steps: int = Field(default=100, ge=1, le=100_000, description="optimiser steps at each site")
    rate: float | None = Field(
        default=None, gt=0, le=10, description="constant learning rate; null: a tenth of the optimiser's"
    )

    def rate_for(self, optimiser_rate: float) -> float:
        """The learning rate."""
        return self.rate if self.rate is not None else optimiser_rate / 10


def _means(pattern: str, name: str, role: str) -> bool:
    if pattern in ROLES:
        return role == pattern or role.startswith(f"{pattern}.")
    return fnmatchcase(name, pattern)


def _nothing(pattern: str, network: Network) -> str:
    if pattern == "norm.statistics":
        return f"{network.norm} norm has no running statistics; norm.affine are its scale and shift"
    names = list(tensor_roles(network))
    close = get_close_matches(pattern, [*ROLES, *names], n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    known = f"it takes {', '.join(ROLES)}, or a pattern of names such as {names[0]}"
    return f"'{pattern}' names no tensor of this network: {hint}{known}"
