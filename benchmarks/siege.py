"""A hundred thousand hostile messages: at every endpoint of the coordinator, and at every parser of others' texts.

Nothing may be served, crash or be lost, and every refusal must be logged once (tests/https/test_fuzz_endpoints.py
says how that is judged). Needs nothing but this repository; about ten minutes. Seeded: what fails can be repeated.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "https")]

from parsers import all_parsers, attack  # noqa: E402
from test_fuzz_endpoints import besiege  # noqa: E402

STRETCH = 2000  # messages at one coordinator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="write the page to this file")
    options = parser.parse_args()
    begin, refused, gone = time.monotonic(), 0, 0
    statuses: Counter[str] = Counter()
    sieges = max(1, options.times // STRETCH)
    for seed in range(sieges):
        with tempfile.TemporaryDirectory(prefix="wardround-siege-") as name:
            attacker = asyncio.run(besiege(Path(name), STRETCH, seed))
        refused, gone = refused + attacker.refused, gone + attacker.gone
        for key, count in attacker.statuses.items():
            statuses[key.split()[1]] += count
    with tempfile.TemporaryDirectory(prefix="wardround-siege-") as name:
        readers = all_parsers(Path(name))
        each = -(-options.times // len(readers))
        turned = {reader: attack(readers[reader], each, seed=1) for reader in readers}
    text = [
        "# Hostile messages",
        "",
        f"`python benchmarks/siege.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"seeds 0 to {sieges - 1}; {time.monotonic() - begin:.0f} s).",
        "",
        f"- **Endpoints**: {sieges * STRETCH} requests by strangers, with spoiled signatures, by unknown keys, "
        "replayed, for another federation, broken off, and soundly signed with broken contents: "
        f"{refused} refused, each logged once or, beyond 20 a minute from one caller and 200 in all, "
        f"counted in one line; {gone} hung up; no status of 500 or more, no traceback, nothing of "
        "anybody else changed. Statuses: "
        + ", ".join(f"{status} ({count})" for status, count in sorted(statuses.items()) if status != "0")
        + ". What was served (200) is what is open to all, first tries of requests that are then replayed, and "
        "messages of a site about itself that were still sound after they had been changed.",
        f"- **Parsers**: {each * len(readers)} broken texts at {len(readers)} of them (all messages, plans, tensor "
        f"files, signatures, invitations, policies, audit logs): {sum(turned.values())} refused in words, the "
        "others still sound; no other exception.",
        "",
    ]
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
