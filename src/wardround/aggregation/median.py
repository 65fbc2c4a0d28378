"""Coordinate-wise median: Yin et al., Byzantine-Robust Distributed Learning, ICML 2018."""

from __future__ import annotations

from typing import Literal

from wardround.aggregation.checked import Checked
from wardround.aggregation.contributions import Folded, Group
from wardround.aggregation.ranked import fold_ranked


class Median(Checked):
    """Every parameter is the median of the sites' values (Definition 1; of an even number the middle two's mean).

    Unweighted: a large hospital counts as much as a small one, or a claimed size would decide. Fewer than
    half of the sites cannot push a parameter beyond the others' values. Costs accuracy where sites differ.
    """

    name: Literal["median"] = "median"

    def combine(self, group: Group) -> Folded:
        sites = len(group.members)
        return fold_ranked(group, slice((sites - 1) // 2, sites // 2 + 1))
