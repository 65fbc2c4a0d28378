"""`make accept`: slow proofs on the real and semi-synthetic images in ../shared/data, through the command line.

Each study runs as a user would start it; what was finished before is not run again (``--out``). The
tables go to docs/results/ with command, date and seed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def wardround(*args: object) -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-m", "wardround", *map(str, args)], check=True, cwd=ROOT)
    return time.monotonic() - begin


def study(example_name: str, out: Path, data: Path, *options: str, **network: Any) -> Path:
    """Run an example with another network, or find it done; returns the run directory."""
    example = ROOT / "examples" / example_name
    plan = yaml.safe_load((example / "plan.yaml").read_text())
    plan["network"] |= network
    folder = out / f"{example_name}-{plan['network']['name'].replace('+', 'p')}"
    file = out / f"{folder.name}.yaml"
    file.write_text(yaml.safe_dump(plan, sort_keys=False))
    if not folder.exists():
        wardround("run", file, "--sites", example / "sites.yaml", "--data-root", data, "--out", folder, *options)
    elif not (folder / "report.html").exists() and not (folder / "cross-validation.json").exists():
        wardround("resume", folder)
    return folder


def scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text())["sites"])


def mean(moments: dict[str, Any]) -> str:
    return f"{moments['total'] / moments['n']:.3f}" if moments["n"] else "-"


def pooled_mean(sites: dict[str, Any]) -> float:
    parts = [label["dice"] for site in sites.values() for label in site["labels"].values()]
    return sum(part["total"] for part in parts) / sum(part["n"] for part in parts)


def seconds(folder: Path) -> float:
    ends = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return sum(event["seconds"] for event in ends if event["event"] == "run_ended")


def lesion_f1(label: dict[str, Any]) -> str:
    counts = label["lesions"]
    if counts is None:
        return "-"
    hits, wrong = 2 * counts["true"], counts["false"]
    s = counts["found"] / max(1, counts["found"] + counts["missed"])
    p = counts["true"] / max(1, counts["true"] + wrong)
    return f"{2 * s * p / (s + p):.3f}" if hits and s + p else "0.000"


def rows(arm: str, folder: Path) -> list[str]:
    lines = []
    for site, value in scores(folder).items():
        for label, found in value["labels"].items():
            lines.append(f"| {arm} | {site} | {value['cases']} | {label} | {mean(found['dice'])} "
                         f"| {mean(found['hd95'])} | {lesion_f1(found)} |")  # fmt: skip
    return lines


HEAD = ["| model | site | test cases | label | Dice | HD95 mm | lesion F1 |", "|---|---|---|---|---|---|---|"]


def write(name: str, title: str, lines: list[str]) -> None:
    when = f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, no GPU, seed 0"
    text = [f"# {title}", "", f"Printed by `python benchmarks/accept.py {name}` ({when}).", "", *lines, ""]
    (RESULTS / f"{name}.md").write_text("\n".join(text), encoding="utf-8")
    print("\n".join(text))


def hippocampus(out: Path, data: Path) -> None:
    """Three networks on four sites; the U-Net beside a pooled one at equal updates."""
    lines, summary = list(HEAD), ["", "| model | mean Dice over test cases and labels | seconds |", "|---|---|---|"]
    folders = {"U-Net": study("hippocampus", out, data, "--baseline", "pooled")}
    folders["U-Net pooled"] = folders["U-Net"] / "baselines" / "pooled"
    for title, network in (("Attention U-Net", "attention_unet"), ("U-Net++", "unet++")):
        folders[title] = study("hippocampus", out, data, name=network)
    for title, folder in folders.items():
        lines += rows(title, folder)
        summary.append(f"| {title} | {pooled_mean(scores(folder)):.4f} | {seconds(folder):.0f} |")
    ratio = pooled_mean(scores(folders["U-Net"])) / pooled_mean(scores(folders["U-Net pooled"]))
    summary += ["", f"Federated U-Net over pooled U-Net at equal updates: {100 * ratio:.1f} % (goal >= 98 %)."]
    write("hippocampus", "Hippocampus: four sites, three networks", [*summary[1:], "", *lines])


def ms_lesions(out: Path, data: Path) -> None:
    """Lesion Dice and F1 a site; every case is a test case once, in one of three federations."""
    whole = study("ms-lesions", out, data, "--cross-validate")
    lines = [
        "**Semi-synthetic images of only two anatomies: plumbing and scanner shift, never a clinical result.**",
        "",
    ]
    lines += [*HEAD, *rows("all folds", whole)]
    for folder in sorted(whole.glob("fold-*")):
        lines += rows(folder.name, folder)
    write("ms-lesions", "MS lesions: four simulated scanners, three-fold cross-validation", lines)


def retina(out: Path, data: Path) -> None:
    """2D vessels at two sites, beside local and pooled."""
    folder = study("retina", out, data, "--baseline", "pooled", "--baseline", "local")
    lines = [*HEAD, *rows("federated", folder)]
    for arm in sorted((folder / "baselines").iterdir()):
        lines += rows(arm.name, arm)
    write("retina", "Retinal vessels: two cameras, 2D", lines)


STUDIES = {"hippocampus": hippocampus, "ms-lesions": ms_lesions, "retina": retina}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], help="default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "accept")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    if not options.data.is_dir():
        sys.exit(f"{options.data} is not there: the images are not part of the repository (--data)")
    options.out.mkdir(parents=True, exist_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.studies or STUDIES:
        STUDIES[name](options.out.resolve(), options.data.resolve())


if __name__ == "__main__":
    main()
