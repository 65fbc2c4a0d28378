"""The aggregations a plan can name: one slot, so that contradictory ones cannot be combined."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wardround.aggregation.geometric import Geometric
from wardround.aggregation.median import Median
from wardround.aggregation.plain import Plain
from wardround.aggregation.trimmed import Trimmed

AnyAggregation = Annotated[Plain | Median | Trimmed | Geometric, Field(discriminator="name")]
AGGREGATIONS = (Plain, Median, Trimmed, Geometric)
