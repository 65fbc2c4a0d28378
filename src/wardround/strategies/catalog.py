"""The strategies a plan can name. To add one: one file, one line here; the law tests pick it up."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wardround.strategies.fedavg import FedAvg
from wardround.strategies.fedprox import FedProx

AnyStrategy = Annotated[FedAvg | FedProx, Field(discriminator="name")]
STRATEGIES = (FedAvg, FedProx)
