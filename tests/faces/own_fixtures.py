"""A made-up site folder with the results of one run: fourteen test cases, twelve rounds, two of them missed."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import report_fixtures as made

from wardround.core.audit import AuditLog
from wardround.core.frozen import canonical_json
from wardround.core.rundir import RunDir

DIGEST = "ab" * 32
SITE = "Aarhus"


def case_rows(cases: int, labels: tuple[str, ...] = ("lesion",), synthetic: bool = False) -> list[dict[str, Any]]:
    rng = random.Random(3)  # noqa: S311 - made-up numbers
    rows = []
    for n in range(cases):
        values = {}
        for label in labels:
            dice = min(0.95, max(0.03, rng.gauss(0.72, 0.14)))
            lesions = rng.randint(2, 30)
            found = round(lesions * dice)
            values[label] = {
                "dice": dice,
                "hd95_mm": 30 * (1 - dice) * rng.random() + 1,
                "surface_dice": min(1.0, dice + 0.08),
                "volume_difference_ml": rng.gauss(-0.3, 1.1),
                "absolute_volume_difference_ml": 0.8,
            }
            if label == "lesion":
                counts = {"found": found, "missed": lesions - found, "true": found, "false": rng.randint(0, 5)}
                values[label] |= {f"lesions_{name}": count for name, count in counts.items()}
        mean = sum(v["dice"] for v in values.values()) / len(values)
        rows.append({"case": f"sub-{n + 101}_ses-1", "dice": mean, "labels": values, "synthetic": synthetic})
    return rows


def build_site(root: Path, cases: int = 14, labels: tuple[str, ...] = ("lesion",), synthetic: bool = False) -> Path:
    """A site folder as `serve` leaves it after a run."""
    run, result = root / "runs" / DIGEST, RunDir(root / "results" / DIGEST)
    run.mkdir(parents=True)
    result.root.mkdir(parents=True)
    (root / "site.json").write_text(json.dumps({"name": SITE}), encoding="utf-8")
    drawn = RunDir(root / "drawn")
    made.draw_overlays(drawn, SITE)
    shutil.move(drawn.site(SITE) / "overlays", run / "overlays")
    shutil.rmtree(drawn.root)
    rows = case_rows(cases, labels, synthetic)
    (run / "overlays" / "cases.json").write_text(json.dumps(rows), encoding="utf-8")
    (result.root / "plan.json").write_text(canonical_json(made.PLAN), encoding="utf-8")
    result.write_json("run.json", {"plan": DIGEST, "arm": "federated", "sites": made.SITES})
    outcome = {
        "rounds": 12,
        "best_round": 9,
        "reason": "stabilised",
        "sites": 4,
        "asked": 5,
        "mean_dice": 0.702,
        "own": {},
    }
    result.write_json("outcome.json", outcome)
    result.model.write_bytes(b"not read")
    write_audit(AuditLog(root / "audit.jsonl"))
    return root


def write_audit(log: AuditLog) -> None:
    """As a site writes it: twelve rounds, of which rounds 6 and 7 went on without this site."""
    log.append("plan_received", plan=DIGEST, bytes=2000)
    log.append("approved", plan=DIGEST, person="Dr Berg", reason="vote 2025/117")
    log.append("left", kind="poll", bytes=120, sha256="0" * 64)
    log.append("left", kind="consent", bytes=150, sha256="0" * 64, plan=DIGEST, standing="approved")
    for n in range(12):
        task = f"{DIGEST}:{n}:train:0"
        about = {"plan": DIGEST, "task": task}
        if n in (5, 6):
            log.append("left", kind="failure", bytes=200, sha256="0" * 64, **about)
            log.append("failed", **about, kind="error", reason="out of memory")
            continue
        log.append("left", kind="tensors", bytes=made.MODEL_BYTES, sha256="1" * 64, **about)
        log.append("left", kind="reply", bytes=900, sha256="2" * 64, **about)
        log.append("answered", **about, sha256="1" * 64, bytes=made.MODEL_BYTES)
        log.append("left", kind="moved", bytes=1200, messages=20, **about)
    log.append("left", kind="tensors", bytes=5000, again=True, **about)
    log.append("left", kind="tensors", bytes=900, sha256="3" * 64, plan="cd" * 32, task=f"{'cd' * 32}:0:train:0")
    about = {"plan": DIGEST, "task": f"{DIGEST}:12:test:0"}
    log.append("left", kind="reply", bytes=1500, sha256="2" * 64, **about)
