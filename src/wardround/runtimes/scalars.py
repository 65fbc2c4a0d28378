"""TensorBoard scalars of a run, written as its events happen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wardround.runtimes.tfevents import EventFile


class Scalars:
    """Give `listen` an arm's events; files appear under ``tensorboard/<arm>``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, EventFile] = {}

    def listen(self, arm: str, event: dict[str, Any]) -> None:
        """Write what the event says in numbers; steps are rounds done."""
        if event["event"] == "site_replied" and event["verb"] == "train":
            self._add(arm, f"loss/{event['site']}", event["facts"]["loss"], event["round"] + 1)
        if event["event"] == "round_ended":
            done = event["round"] + 1
            self._add(arm, "dice/mean", event["mean_dice"], done)
            for site, dice in event["scores"].items():
                self._add(arm, f"dice/{site}", dice, done)
            self._add(arm, "learning_rate", event["rate"], done)
            self._add(arm, "seconds/round", event["seconds"]["total"], done)
        if event["event"] == "run_ended" and arm in self._writers:
            self._writers.pop(arm).close()

    def close(self) -> None:
        """Close the files of arms that have not ended; `listen` would begin new ones."""
        while self._writers:
            self._writers.popitem()[1].close()

    def _add(self, arm: str, name: str, value: float | None, step: int) -> None:
        if value is None:
            return
        if arm not in self._writers:
            self._writers[arm] = EventFile(self._folder / arm)
        self._writers[arm].scalar(name, value, step)
