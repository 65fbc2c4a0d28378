"""The aggregations a plan can name: one slot, so that contradictory ones cannot be combined."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wardround.aggregation.plain import Plain

AnyAggregation = Annotated[Plain, Field()]
AGGREGATIONS = (Plain,)
