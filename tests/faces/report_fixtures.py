"""A made-up run directory: four hospitals, twelve rounds, one of them away for two rounds."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wardround.core.frozen import canonical_json
from wardround.core.messages import ScoreFacts, Seconds, SiteSummary, TrainFacts
from wardround.core.rundir import RunDir
from wardround.core.scores import LabelScores, LesionCounts, Scores
from wardround.core.stats import Histogram, Moments

SITES = ["Aarhus", "Bologna", "Coimbra", "Delft"]
SKILL = {"Aarhus": 0.78, "Bologna": 0.71, "Coimbra": 0.74, "Delft": 0.58}
TEST_CASES = {"Aarhus": 14, "Bologna": 11, "Coimbra": 12, "Delft": 4}
AWAY = {("Coimbra", 5), ("Coimbra", 6)}  # rounds done before; shown as rounds 6 and 7
ROUNDS = 12
MODEL_BYTES = 3_482_112

PLAN: dict[str, Any] = {
    "wardround": 1,
    "kind": "train",
    "study": {
        "title": "White-matter lesions on FLAIR and T1, four hospitals",
        "purpose": "One model that outlines multiple-sclerosis lesions equally well on four scanners.",
        "contact": "Research office, Aarhus",
        "ethics": "Vote 2025/117",
        "ends": "2027-06-30",
    },
    "task": {
        "dimensions": 3,
        "modalities": ["FLAIR", "T1"],
        "labels": {"lesion": 1},
        "lesions": ["lesion"],
        "slice_axis": 2,
    },
    "preprocessing": {"spacing": [1.5, 1.5, 1.5], "crop": True, "normalise": "zscore"},
    "network": {"name": "unet", "features": [16, 32, 64, 128]},
    "training": {
        "steps": 30,
        "batch": 2,
        "patch": [48, 48, 48],
        "optimiser": {"name": "adamw", "rate": 0.001},
        "schedule": "poly",
    },
    "strategy": {"name": "fedavg"},
    "aggregation": {"name": "plain"},
    "rounds": {"limit": 20, "quorum": 3, "patience": 3, "gain": 0.002},
    "evaluation": {"folds": 10, "fold": 0, "tolerance": 1.0, "minimum_lesion": 3.0, "every": 1},
    "seed": 0,
}


def scores(dice: float, cases: int, seed: int, labels: tuple[str, ...] = ("lesion",)) -> Scores:
    """Scores of ``cases`` cases whose mean Dice is near ``dice``."""
    rng = random.Random(seed)  # noqa: S311 - made-up numbers
    found = {}
    for label in labels:
        values = [min(0.97, max(0.02, rng.gauss(dice, 0.09))) for _ in range(cases)]
        lesions = sum(rng.randint(3, 22) for _ in range(cases))
        hits = round(lesions * dice)
        found[label] = LabelScores(
            dice=Moments.of(values),
            dice_histogram=Histogram.of(values, 0, 1, 20),
            hd95=Moments.of(2 + 22 * (1 - v) * rng.random() for v in values),
            surface_dice=Moments.of(min(1.0, v + 0.09) for v in values),
            volume_difference=Moments.of(rng.gauss(-0.4, 1.2) for _ in values),
            absolute_volume_difference=Moments.of(abs(rng.gauss(0.8, 0.6)) for _ in values),
            lesions=LesionCounts(
                found=hits, missed=lesions - hits, true=round(lesions * 0.7), false=round(lesions * 0.2)
            ),
            prediction_empty=1 if dice < 0.5 else 0,
        )
    return Scores(cases=cases, labels=found)


def summary(site: str, place: int, synthetic: bool = False) -> SiteSummary:
    """A site's data: each has its own scanner and its own patients."""
    rng = random.Random(site)  # noqa: S311
    place %= 4
    cases = 10 * TEST_CASES.get(site, 5)
    volumes = [rng.gauss(0.2 + 0.45 * place, 0.55) for _ in range(cases)]
    return SiteSummary(
        dataset=f"{place + 10:064x}",
        synthetic=synthetic,
        cases={
            "train": cases - 2 * TEST_CASES.get(site, 5),
            "validation": TEST_CASES.get(site, 5),
            "test": TEST_CASES.get(site, 5),
        },
        subjects=None if place == 3 else cases - 3 * place,
        left_out={"affine_mismatch": 2, "missing_mask": 1} if place == 1 else {},
        warnings={"empty_mask": 3} if place == 2 else {},
        spacing=tuple(Moments.of(rng.gauss(mean, 0.03) for _ in range(cases)) for mean in (1.0, 1.0, 1.0 + place)),
        shape=tuple(Moments.of(rng.gauss(mean, 4) for _ in range(cases)) for mean in (182, 218, 182 / (1 + place))),
        intensity={
            "FLAIR": Moments.of(rng.gauss(280 + 210 * place, 60) for _ in range(cases)),
            "T1": Moments.of(rng.gauss(900 - 170 * place, 90) for _ in range(cases)),
        },
        volume={"lesion": Histogram.of(volumes, -3, 4, 28)},
        present={"lesion": cases - place},
        device="cpu" if place else "cuda (NVIDIA A30)",
        precision="bf16",
        software="0.1.0",
    )


class Log:
    """Writes events with a clock of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

    def write(self, event: str, **facts: Any) -> None:
        self.now += timedelta(seconds=80 if event == "round_ended" else 1)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": self.now.isoformat(), "event": event, **facts}) + "\n")


def build(
    root: Path,
    *,
    sites: list[str] | None = None,
    rounds: int = ROUNDS,
    finished: bool = True,
    baselines: bool = True,
    overlays: bool = True,
    synthetic: bool = False,
    plan: dict[str, Any] | None = None,
) -> RunDir:
    """Write a run directory as a coordinator would. With ``finished`` false it was cut off in its last round."""
    names, run = sites or SITES, RunDir(root)
    begin(run, "federated", "federated", names, plan or PLAN)
    log = Log(run.events)
    log.write("run_started", plan="ab" * 32, sites=names, seed=0)
    for place, site in enumerate(names):
        log.write("site_described", site=site, summary=dump(summary(site, place, synthetic)))
    for number in range(rounds):
        one_round(log, number, names, cut=not finished and number == rounds - 1)
    if finished:
        log.write("run_stopped", reason="stabilised", rounds=rounds, best_round=max(1, rounds - 3))
        tested = {site: dump(scores(skill(site), TEST_CASES.get(site, 5), 7)) for site in names}
        run.write_json("scores.json", {"model": "best", "round": max(1, rounds - 3), "sites": tested, "missing": {}})
        log.write("run_ended", seconds=1312.5)
        if overlays:
            for site in names:
                draw_overlays(run, site)
    if baselines and finished:
        baseline(run.baseline("pooled"), "pooled", ["pooled"], names, 0.018)
        for site in names:
            baseline(run.baseline(f"local-{site}"), "local", [site], [site], -0.06)
    return run


def skill(site: str) -> float:
    return SKILL.get(site, 0.66)


def begin(run: RunDir, arm: str, name: str, sites: list[str], plan: dict[str, Any]) -> None:
    run.make()
    (run.root / "plan.json").write_text(canonical_json(plan), encoding="utf-8")
    machine = {"python": "3.11.7", "torch": "2.13.0", "platform": "Linux", "processor": "x86_64", "cores": 8}
    facts = {"arm": arm, "name": name, "plan": "ab" * 32, "seed": 0, "sites": sites, "simulation": True}
    run.write_json(
        "run.json",
        {
            **facts,
            "software": "0.1.0",
            "started": "2026-03-02T09:00:00+00:00",
            "machine": {**machine, "workers": 2, "threads": 1},
            "baselines": ["pooled", "local"],
        },
    )


def dump(value: Any) -> Any:
    return value.model_dump(mode="json")


def one_round(log: Log, number: int, sites: list[str], *, cut: bool = False) -> None:
    rng = random.Random(number)  # noqa: S311
    log.write("round_started", round=number, sites=sites)
    here = [site for site in sites if (site, number) not in AWAY or len(sites) == 1]
    for site in sites:
        if site not in here:
            log.write(
                "site_failed", round=number, verb="train", site=site, kind="late", reason="no answer within 10 minutes"
            )
            continue
        trained = TrainFacts(
            cases=40,
            updates=30,
            samples=60,
            skipped=1 if number == 3 and site == sites[0] else 0,
            loss=0.25 + 1.15 * math.exp(-number / 3.5) + rng.gauss(0, 0.02) + 0.2 * (1 - skill(site)),
            rate=0.001 * max(0.0, 1 - number / 20) ** 0.9,
            seconds=Seconds(data=1.8 + rng.random(), compute=24 + 4 * rng.random(), prepare=1.0, total=29),
        )
        replied(log, number, "train", site, facts=dump(trained), size=MODEL_BYTES)
    if cut:
        return
    validated = {}
    for site in here:
        if site == sites[0] and number == 8:
            log.write("site_failed", round=number + 1, verb="validate", site=site, kind="error", reason="out of memory")
            continue
        dice = skill(site) * (1 - math.exp(-(number + 1.2) / 3)) + rng.gauss(0, 0.012)
        validated[site] = scores(dice, 6, number)
        facts = ScoreFacts(scores=validated[site], seconds=Seconds(compute=6))
        replied(log, number + 1, "validate", site, facts=dump(facts), size=0)
    means = {site: value.mean_dice for site, value in validated.items()}
    _ended(log, number, means, here, sites)


def _ended(log: Log, number: int, means: dict[str, float | None], here: list[str], sites: list[str]) -> None:
    parts = {"total": 78.0 + number % 3, "train_wait": 60.0, "fold": 0.9, "step": 0.1, "validate_wait": 14.0}
    event = {
        "round": number,
        "seconds": {**parts, "checkpoint": 0.4},
        "scores": means,
        "mean_dice": sum(v or 0 for v in means.values()) / len(means) if means else None,
        "best": number < ROUNDS - 3,
        "rate": 0.001 * max(0.0, 1 - number / 20) ** 0.9,
        "sites": here,
        "bytes_up": MODEL_BYTES * len(here),
        "bytes_down": MODEL_BYTES * len(sites),
    }
    log.write("round_ended", **event)


def replied(log: Log, number: int, verb: str, site: str, *, facts: Any, size: int) -> None:
    log.write(
        "site_replied",
        round=number,
        verb=verb,
        site=site,
        facts=facts,
        bytes_down=MODEL_BYTES,
        bytes_up=size,
        seconds_transport=0.6,
    )


def baseline(run: RunDir, arm: str, trains: list[str], tests: list[str], better: float) -> None:
    begin(run, arm, run.root.name, trains, PLAN)
    log = Log(run.events)
    for number in range(ROUNDS):
        one_round(log, number, trains)
    log.write("run_stopped", reason="limit", rounds=ROUNDS, best_round=10)
    tested = {site: dump(scores(skill(site) + better, TEST_CASES.get(site, 5), 7)) for site in tests}
    run.write_json("scores.json", {"model": "best", "round": 10, "sites": tested, "missing": {}})
    log.write("run_ended", seconds=900.0)


def draw_overlays(run: RunDir, site: str) -> None:
    """Two good and two bad cases, three views each, with a patient's name hidden in the PNG's texts."""
    from PIL import Image, ImageDraw, ImageFilter, PngImagePlugin

    folder = run.site(site) / "overlays"
    folder.mkdir(parents=True, exist_ok=True)
    index = []
    rng = random.Random(site)  # noqa: S311
    for n, kind in enumerate(("bad", "bad", "good", "good")):
        picture = Image.new("RGB", (660, 260), (18, 18, 20))
        draw = ImageDraw.Draw(picture)
        for view in range(3):
            left = 10 + view * 217
            draw.ellipse((left + 10, 20, left + 195, 240), fill=(70, 70, 74))
            draw.ellipse((left + 24, 34, left + 181, 226), fill=(118, 118, 122))
            draw.ellipse((left + 70, 80, left + 135, 180), fill=(84, 84, 88))
        picture = picture.filter(ImageFilter.GaussianBlur(4))
        draw = ImageDraw.Draw(picture)
        for view in range(3):
            for _ in range(4):
                x, y, r = 50 + view * 217 + rng.randint(0, 110), rng.randint(70, 190), rng.randint(4, 13)
                off = rng.randint(2, 9) if kind == "bad" else 1
                draw.ellipse((x, y, x + 2 * r, y + r), outline=(64, 196, 255))
                draw.ellipse((x + off, y, x + 2 * r + off, y + r), outline=(255, 120, 0))
        texts = PngImagePlugin.PngInfo()
        texts.add_text("PatientName", "Hidden^Person")
        name = f"{kind}-{n}.png"
        picture.save(folder / name, pnginfo=texts)
        dice = 0.41 + 0.04 * n if kind == "bad" else 0.84 + 0.02 * n
        index.append(
            {"file": name, "kind": kind, "dice": dice, "case": "sub-Hidden", "labels": {"lesion": {"dice": dice}}}
        )
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
