"""A site folder as it is after joining, with a dataset, for tests of consent."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from tiny import make_plan, write_site
from wardround.core.audit import AuditLog, read_entries
from wardround.core.messages import Task
from wardround.planning.plan import Plan
from wardround.site.consent import Consents
from wardround.site.identity import DatasetWatch
from wardround.site.policy import default_policy

PLAN = make_plan()
DIGEST = PLAN.digest()
NOON = datetime(2025, 3, 5, 12, 0)  # the site's own clock


class Place:
    """A site folder with a dataset, as it is after joining."""

    def __init__(self, root: Path) -> None:
        self.root, self.data, self.now = root / "site", root / "data", NOON
        self.root.mkdir()
        (self.root / "policy.yaml").write_text(default_policy())
        write_site(self.data, cases=8)
        self.age()
        self.consents = self.open()

    def open(self) -> Consents:
        watch = DatasetWatch(self.data, self.root / "store", self.root / "dataset.json")
        return Consents(self.root, AuditLog(self.root / "audit.jsonl"), watch, lambda: self.now)

    def age(self) -> None:
        """Make all images an hour old, so that they count as settled."""
        for path in self.data.rglob("*.nii.gz"):
            os.utime(path, (time.time() - 3600,) * 2)

    def policy(self, **changes: Any) -> None:
        lines = [line for line in default_policy().splitlines() if line.partition(":")[0] not in changes]
        lines += [f"{name}: {json.dumps(value)}" for name, value in changes.items()]
        (self.root / "policy.yaml").write_text("\n".join(lines))

    def approve(self, plan: Plan = PLAN) -> None:
        self.consents.receive(plan.canonical().encode())
        self.consents.decide(plan.digest(), "approved", "Dr. A")

    def events(self) -> list[str]:
        return [entry["event"] for entry in read_entries(self.root / "audit.jsonl")]


def task(verb: str = "train", number: int = 0, plan: str = DIGEST, step: int = 0) -> Task:
    return Task(plan=plan, round=number, verb=verb, step=step)  # type: ignore[arg-type]
