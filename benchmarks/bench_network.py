"""`make bench-network`: what a federated round costs over TLS sockets and a numpy mean, measured in one run.

Both sides are measured in turn, a few rounds at a time, on the same machine; medians are quoted. The
coordinator is the real one (`wardround coordinator serve`) with hashing, signatures, fsync and SQL; the
sites speak the whole protocol and train nothing. Nothing but this repository is needed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from network_baseline import Baseline
from network_federation import Federation

from wardround.planning.plan import Plan
from wardround.runtimes.https import signing

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = {"1 MB": 262_144, "124 MB": 31_030_000}
CAUSES = ("wait", "download", "hash", "upload", "reply")


@dataclass
class Case:
    """One number of sites, one size, one encoding."""

    size: str
    sites: int
    encoding: str = "fp32"
    bare: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # of neighbours in time
    causes: dict[str, float] = field(default_factory=dict)  # medians
    peak: float = 0.0  # MB

    @property
    def goal(self) -> float:
        """Most times the bare round."""
        if self.size == "1 MB":
            return 5.0
        return 0.8 if self.encoding == "int8" else 2.0


@contextmanager
def folders(disk: Path | None) -> Iterator[tuple[Path, Path]]:
    """A folder on the disk for the coordinator, and one in memory for the sites (each has a disk of its own)."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of our own in it
    with (
        tempfile.TemporaryDirectory(prefix="wardround-bench-", dir=disk) as on_disk,
        tempfile.TemporaryDirectory(prefix="wardround-bench-", dir=shared if shared.is_dir() else None) as in_memory,
    ):
        yield Path(on_disk), Path(in_memory)


def measure(case: Case, blocks: int, rounds: int, disk: Path | None) -> Case:
    """A few bare rounds, then a few of ours, and again."""
    numbers = NUMBERS[case.size]
    with (
        folders(disk) as (on_disk, in_memory),
        Baseline(on_disk, case.sites, numbers) as baseline,
        Federation(on_disk, in_memory, case.sites, numbers) as federation,
    ):
        baseline.round()
        split: list[dict[str, float]] = []
        for block in range(blocks):
            before = [baseline.round() for _ in range(rounds)]
            after = federation.run(rounds + 1, block, None if case.encoding == "fp32" else case.encoding)
            case.bare += before
            case.ours += [seconds["total"] - seconds["validate_wait"] for seconds in after]
            case.ratios.append(
                statistics.median(s["total"] - s["validate_wait"] for s in after) / statistics.median(before)
            )
            split += after
        case.peak = federation.peak()
        case.causes = {name: statistics.median(s[name] for s in split) for name in ("fold", "step", "checkpoint")}
        marks = [json.loads(line) for line in federation.marks.read_text().splitlines()]
        trained = [mark for mark in marks if mark["verb"] == "train" and mark["round"] > 0]
        case.causes |= {name: statistics.median(mark[name] for mark in trained) for name in CAUSES}
    return case


def alone(disk: Path | None) -> dict[str, float]:
    """What single causes cost on this machine at this moment: seconds for 124 MB, or for one request."""
    data = os.urandom(4 * NUMBERS["124 MB"])
    key = Ed25519PrivateKey.generate()
    public = key.public_key()

    def written() -> None:
        with tempfile.NamedTemporaryFile(dir=disk) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def exchange() -> None:
        headers = signing.sign_request(key, "POST", "/v1/next", "0" * 32, bytes(32))
        signing.verify_request("POST", "/v1/next", headers, lambda _: public)
        request = signing.Message.of("POST", "/v1/next", headers)
        answer = signing.sign_response(key, 200, bytes(32), request)
        signing.verify_response(200, answer, request, public)

    return {
        "SHA-256 of 124 MB": best(lambda: hashlib.sha256(data).digest()),
        "124 MB written and fsynced": best(written),
        "the four signatures of a request": best(exchange, 50),
    }


def best(action: Callable[[], object], times: int = 5) -> float:
    """Median seconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def table(cases: list[Case]) -> list[str]:
    """Markdown."""
    lines = [
        "| model | sites | sent as | TLS sockets, s | ours, s | ratio (blocks) | goal | coordinator's peak MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        ratio = statistics.median(case.ratios)
        spread = f"{min(case.ratios):.2f} to {max(case.ratios):.2f}"
        goal = f"<= {case.goal} {'met' if ratio <= case.goal else 'missed'}"
        lines.append(
            f"| {case.size} | {case.sites} | {case.encoding} | {statistics.median(case.bare):.3f} "
            f"| {statistics.median(case.ours):.3f} | {ratio:.2f} ({spread}) | {goal} | {case.peak:.0f} |"
        )
    lines += [
        "",
        "Where a round of ours goes, medians in seconds. `wait` is from asking for work to being given some; the first"
        " five are a site's, and with several sites they overlap; the last three are the coordinator's.",
        "",
        "| model | sites | sent as | wait | download | hash | upload | reply | fold | step | checkpoint |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        names = (*CAUSES, "fold", "step", "checkpoint")
        cells = " | ".join(f"{case.causes[name]:.3f}" for name in names)
        lines.append(f"| {case.size} | {case.sites} | {case.encoding} | {cells} |")
    return lines


def memory(cases: list[Case]) -> list[str]:
    """Peak memory with 20 sites over that with 3."""
    peaks = {(case.size, case.encoding, case.sites): case.peak for case in cases}
    lines = []
    for size, encoding, sites in peaks:
        few = peaks.get((size, encoding, 3))
        if sites == 20 and few:
            ratio = peaks[size, encoding, 20] / few
            lines.append(
                f"- {size}, {encoding}: {few:.0f} MB with 3 sites, {peaks[size, encoding, 20]:.0f} MB with 20: "
                f"x {ratio:.2f} (goal <= 1.2: {'met' if ratio <= 1.2 else 'missed'})"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="rounds in a block")
    parser.add_argument("--sites", type=int, nargs="*", default=[3, 20])
    parser.add_argument("--sizes", nargs="*", choices=[*NUMBERS], default=[*NUMBERS])
    parser.add_argument("--encodings", nargs="*", default=["fp32", "int8"])
    parser.add_argument("--disk", type=Path, help="where the coordinator's folder is made")
    parser.add_argument("--out", type=Path, help="write the section to this file")
    options = parser.parse_args()
    known = "transfer" in Plan.model_fields
    encodings = [name for name in options.encodings if name == "fp32" or known]
    cases = []
    for size in options.sizes:
        for encoding in encodings if size != "1 MB" else ["fp32"]:
            for sites in options.sites:
                case = measure(Case(size, sites, encoding), options.blocks, options.rounds, options.disk)
                print("\n".join(table([case])), file=sys.stderr, flush=True)
                cases.append(case)
    when = (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}, seeds 0 to {options.blocks - 1}"
    )
    costs = [f"- {name}: {1000 * seconds:.1f} ms" for name, seconds in alone(options.disk).items()]
    text = [
        f"`python benchmarks/bench_network.py` ({when}); medians of {options.blocks} blocks of {options.rounds} "
        "rounds, measured in turn with TLS sockets.",
        "",
        *table(cases),
        "",
        "Coordinator's peak memory:",
        "",
        *memory(cases),
        "",
        "What single causes cost on this machine, alone:",
        "",
        *costs,
        "",
    ]
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
