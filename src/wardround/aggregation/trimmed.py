"""Coordinate-wise trimmed mean: Yin et al., Byzantine-Robust Distributed Learning, ICML 2018."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

from wardround.aggregation.checked import Checked
from wardround.aggregation.contributions import Folded, Group
from wardround.aggregation.ranked import fold_ranked

Count = Annotated[int, Field(ge=0, le=1000, strict=True)]
Fraction = Annotated[float, Field(ge=0, lt=0.5)]


class Trimmed(Checked):
    """Every parameter is the unweighted mean of the sites' values without the lowest and highest (Definition 2).

    ``trim`` is what is left out at each end: a whole number is so many sites, a fraction is so large a
    share, rounded up (the paper leaves that open; rounded down, 0.2 of four hospitals would trim nobody),
    but never everybody. Trimming b sites at each end withstands b faulty ones and needs 2b + 1
    contributions: with fewer, a round does not count, as below the quorum. Where one site alone is asked
    (a baseline, the first weights) there is nobody to trim, and what it sent is taken as it is.
    """

    name: Literal["trimmed"] = "trimmed"
    trim: Count | Fraction = Field(default=1, description="sites (1, 2, ...) or share of the sites (0.2) at each end")

    def trimmed(self, sites: int) -> int:
        """How many of ``sites`` are left out at each end."""
        if isinstance(self.trim, int):
            return self.trim if sites > 1 else 0
        rounded = math.ceil(self.trim * sites - 1e-9)  # 0.07 * 100 is a little more than 7
        return min(rounded, (sites - 1) // 2)

    def least(self, asked: int) -> tuple[int, str]:
        if isinstance(self.trim, float) or asked == 1 or self.trim == 0:
            return 1, ""
        return 2 * self.trim + 1, f"aggregation.trim leaves out {self.trim} at each end, so one more must remain"

    def combine(self, group: Group) -> Folded:
        sites = len(group.members)
        out = self.trimmed(sites)
        return fold_ranked(group, slice(out, sites - out))
