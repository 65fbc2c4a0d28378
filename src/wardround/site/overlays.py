"""Pictures of a site's best and worst test cases, and per-case scores. They stay at the site."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from wardround.core.weights import write_bytes
from wardround.data.preview import write_preview
from wardround.metrics.case_rows import flat
from wardround.planning.plan import Plan
from wardround.site.scoring import ScoredCase

EACH = 2


class OverlayBook:
    """Keeps the worst and the best scored cases while others are let go."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._synthetic = False
        self._rows: list[dict[str, Any]] = []
        self._kept: list[tuple[float, ScoredCase]] = []

    def add(self, scored: ScoredCase, synthetic: bool) -> None:
        """Note a case; its voxels are kept only while it is among the worst or the best."""
        self._synthetic = self._synthetic or synthetic
        dice = scored.scores.mean_dice
        names = {"case": scored.files.id, "subject": scored.files.subject}
        row = {**names, "dice": dice, "labels": flat(scored.scores), "synthetic": synthetic}
        self._rows.append(row)
        if dice is not None:
            self._kept.append((dice, scored))
            self._kept.sort(key=lambda item: item[0])
            if len(self._kept) > 2 * EACH:
                del self._kept[EACH]

    def write(self, folder: Path) -> None:
        """``index.json``, ``cases.json`` and one PNG a kept case, replacing what was there."""
        scratch = folder.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True, mode=0o700)
        index = []
        half = (len(self._kept) + 1) // 2
        for place, (dice, scored) in enumerate(self._kept):
            kind = "bad" if place < half and len(self._kept) > 1 else "good"
            name = f"{kind}-{place}.png"
            title = f"{'SYNTHETIC, ' if self._synthetic else ''}Dice {dice:.2f}"
            write_preview(scored.case, scratch / name, title, scored.prediction, tuple(self._plan.task.labels))
            index.append(
                {"file": name, "kind": kind, "dice": dice, "case": scored.files.id, "labels": flat(scored.scores)}
            )
        write_bytes(scratch / "index.json", _json(index))
        write_bytes(scratch / "cases.json", _json(self._rows))
        shutil.rmtree(folder, ignore_errors=True)
        scratch.replace(folder)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False, default=_plain).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
