"""`make accept-engines`: the hippocampus plan on every engine gives the same weights, bit for bit, and the same log.

    python benchmarks/accept_engines.py --data ../shared/data

The example's plan in fp32 with fewer rounds, three sites with one thread each: `wardround run` on one machine is held
against a Ray cluster of two nodes and a provisioned NVFlare federation. (HTTPS: `accept_network.py`, with all rounds.)
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "conformance"), str(ROOT / "tests" / "journeys")]

from engine_contract import SITES, World, log_of, weights_of  # noqa: E402
from engines import Local, Ray  # noqa: E402
from flare_engine import Flare  # noqa: E402

FOLDERS = dict(zip(SITES, ("site_H1_uint8", "site_H2_float_lo", "site_H3_float_hi"), strict=True))


def flare_of(data: Path) -> type[Flare]:
    class Hospitals(Flare):
        """With real images in place of generated ones."""

        def data(self, site: str) -> Path:
            return data / FOLDERS[site]

    return Hospitals


def write_files(root: Path, data: Path, rounds: int) -> tuple[Path, Path]:
    """The plan, and the sites file."""
    plan, sites = root / "plan.yaml", root / "sites.yaml"
    document = yaml.safe_load((ROOT / "examples" / "hippocampus" / "plan.yaml").read_text())
    document["rounds"]["limit"] = rounds
    document["training"]["precision"] = "fp32"
    plan.write_text(yaml.safe_dump(document, sort_keys=False))
    entries = [{"name": name, "folder": str(data / folder)} for name, folder in FOLDERS.items()]
    sites.write_text(yaml.safe_dump({"sites": entries, "threads": 1, "workers": 2}))
    return plan, sites


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the page there too")
    args = parser.parse_args()
    data = (args.data / "hippocampus_msd").resolve()
    rows, sound, reference = [], True, None
    with tempfile.TemporaryDirectory(prefix="wardround-engines-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        for name, kind in (("one machine", Local), ("Ray, two nodes", Ray), ("NVFlare", flare_of(data))):
            place = root / kind.__name__
            place.mkdir()
            plan, sites = write_files(place, data, args.rounds)
            world: World = kind(place) if issubclass(kind, Flare) else kind(place, 2, sites)
            with world:
                begin = time.monotonic()
                run = world.start(plan)
                world.wait(run)
                took = time.monotonic() - begin
                found = weights_of(run), log_of(run)
            reference = reference or found
            same = [here == there for here, there in zip(found, reference, strict=True)]
            sound = sound and all(same)
            digests = " | ".join(f"`{value[:16]}`" for value in found[0].values())
            rows.append(
                f"| {name} | {digests} | {' | '.join('yes' if good else '**no**' for good in same)} | {took:.0f} |"
            )
    lines = [
        "# The hippocampus plan on every engine",
        "",
        f"Printed by `python benchmarks/accept_engines.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{os.cpu_count()} cores, no GPU, seed 0).",
        f"The example's plan with {args.rounds} rounds in fp32, three sites with one thread each. Over HTTPS, with 14 "
        "rounds: [network-equals-local.md](network-equals-local.md).",
        "",
        "| engine | model | best | last | same weights | same log up to times | seconds |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
