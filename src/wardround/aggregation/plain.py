"""Plain aggregation: the coordinator sees every site's contribution and takes the weighted mean."""

from __future__ import annotations

from typing import Literal

from wardround.aggregation.checked import Checked
from wardround.aggregation.contributions import Folded, Group
from wardround.aggregation.fold import fold


class Plain(Checked):
    """Weighted mean of what the sites sent (the weights are the strategy's: FedAvg's are cases)."""

    name: Literal["plain"] = "plain"

    def combine(self, group: Group) -> Folded:
        return fold(group)
