"""The strategies a plan can name. To add one: one file, one line here; the law tests pick it up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wardround.strategies.ditto import Ditto
from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fednova import FedNova
from wardround.strategies.fedopt import FedAdagrad, FedAdam, FedAvgM, FedYogi
from wardround.strategies.fedprox import FedProx
from wardround.strategies.fedval import FedVal
from wardround.strategies.qfedavg import QFedAvg
from wardround.strategies.scaffold import Scaffold

AnyStrategy = Annotated[
    FedAvg | FedProx | Scaffold | FedNova | FedAvgM | FedAdagrad | FedAdam | FedYogi | QFedAvg | Ditto | FedVal,
    Field(discriminator="name"),
]
STRATEGIES = (FedAvg, FedProx, Scaffold, FedNova, FedAvgM, FedAdagrad, FedAdam, FedYogi, QFedAvg, Ditto, FedVal)
