"""Plain aggregation: the coordinator sees every site's contribution and takes the weighted mean."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from wardround.aggregation.fold import fold_files
from wardround.core.contracts import Aggregate, Aggregation, Ask, Lost
from wardround.core.messages import Answer, SiteFailed, Task


class Plain(Aggregation):
    """Weighted mean of what the sites sent (the weights are the strategy's: FedAvg's are cases)."""

    name: Literal["plain"] = "plain"

    def collect(
        self, ask: Ask, task: Task, tensors: Path | None, sites: Sequence[str], quorum: int
    ) -> Aggregate | Lost:
        begin = time.perf_counter()
        answers: dict[str, Answer] = {}
        failures: dict[str, SiteFailed] = {}
        for result in ask(task, tensors, sites):
            if isinstance(result, Answer):
                answers[result.reply.site] = result
            else:
                failures[result.site] = result
        arrived = time.perf_counter()
        ordered = [answers[site] for site in sites if site in answers]
        failed = tuple(failures[site] for site in sites if site in failures)
        if len(ordered) < quorum:
            return Lost(failed, needed=quorum, got=len(ordered))
        files = [answer.tensors for answer in ordered if answer.tensors is not None]
        parts = fold_files(files) if files else {}
        seconds = {"wait": arrived - begin, "fold": time.perf_counter() - arrived}
        return Aggregate(parts, tuple(ordered), failed, seconds)
