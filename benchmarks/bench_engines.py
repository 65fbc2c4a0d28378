"""`make bench-engines`: the same FedAvg without training on our engines and on stock Flower and NVFlare, one table.

    python benchmarks/bench_engines.py --out docs/results/engines.md

Each engine has one server and three sites on this machine, with TLS; the model is sent to every site, and comes back
with one number changed. Needs the extras ``ray`` and ``nvflare`` here, and in ``BENCH_FLOWER_PYTHON`` the interpreter
of an environment with flwr; an engine that is not there is left out, and the page says so. Everything is measured
one after the other, in the order given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

from contender import SITES, Contender, Work, resident
from network_baseline import Baseline
from our_engines import OursFlare, OursHttps, OursRay, until
from stock_flower import Flower
from stock_nvflare import StockFlare

NUMBERS = {"1 MB": 262_144, "124 MB": 31_030_000}
ROUNDS = {"1 MB": 10, "124 MB": 5}
KILLED = Work(NUMBERS["1 MB"], 10, pause=2.0)
DOWN = 2.0  # seconds from a kill until the process is started again
LONG = 600.0
GIVE_UP = 180.0  # seconds after a kill without a round
CONTENDERS: dict[str, type[Contender]] = {
    "https": OursHttps,
    "ray": OursRay,
    "nvflare": OursFlare,
    "stock-flower": Flower,
    "stock-nvflare": StockFlare,
}


@dataclass
class Row:
    """What was seen of one contender."""

    name: str
    up: float = 0.0  # seconds from the start of all processes until they are ready
    first: float = 0.0  # seconds from the submission, or the last approval, until the first round begins
    rounds: dict[str, list[float]] = field(default_factory=dict)  # seconds, by size, without the first
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)  # MB at most: server, one site
    kills: dict[str, str] = field(default_factory=dict)  # who was killed: what came of it


class Watch:
    """As a context manager: how much memory a contender's server and its first site have at most."""

    def __init__(self, contender: Contender) -> None:
        self._contender, self.server, self.site = contender, 0.0, 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._end.wait(0.2):
            self.server = max(self.server, resident(self._contender.server()))
            self.site = max(self.site, resident(self._contender.site(SITES[0])))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def carried_out(contender: Contender, work: Work) -> tuple[float, list[float]]:
    """A run from its submission to its end: seconds until its first round, and seconds of each later round."""
    submitted = time.time()
    contender.submit(work)
    over = str(until(contender.over, "the run ends", LONG))
    ends, began = contender.ends(), contender.began()
    assert over == "ended", over
    assert began is not None
    submitted = contender.approved or submitted
    assert len(ends) == work.rounds, ends
    return began - submitted, [later - earlier for earlier, later in pairwise(ends)]


def speed(kind: type[Contender], folder: Path, row: Row) -> None:
    with kind(folder) as contender:
        contender.persistent = False  # a database that Flower does not have by default, and which at 124 MB failed
        contender.prepare()
        begin = time.time()
        contender.start()
        row.up = time.time() - begin
        for size, numbers in NUMBERS.items():
            with Watch(contender) as watch:
                first, row.rounds[size] = carried_out(contender, Work(numbers, ROUNDS[size]))
            row.first = row.first or first
            row.memory[size] = (watch.server, watch.site)


def killed(kind: type[Contender], folder: Path, server: bool) -> str:
    """Kill -9 the server or a site in training, start it again, and see what comes of the run."""
    with kind(folder) as contender:
        contender.prepare()
        contender.start()
        contender.submit(KILLED)
        until(lambda: len(contender.ends()) >= 2 or contender.over(), "two rounds have ended", LONG)
        time.sleep(KILLED.pause / 2)  # the sites are in training
        had, moment = len(contender.ends()), time.time()
        contender.kill(contender.server() if server else contender.site(SITES[1]))
        time.sleep(DOWN)
        contender.start_server() if server else contender.start_site(SITES[1])
        end = time.time() + GIVE_UP
        while time.time() < end and len(contender.ends()) == had and contender.over() is None:
            time.sleep(0.1)
        ends = contender.ends()
        if len(ends) == had:
            return f"no further round within {time.time() - moment:.0f} s: {contender.over() or 'it hangs'}"
        end = time.time() + GIVE_UP
        while time.time() < end and contender.over() is None:
            time.sleep(0.1)
        over, done = contender.over() or f"still going after {GIVE_UP:.0f} s", len(contender.ends())
        return f"next round after {ends[had] - moment:.1f} s; {over}, {done} of {KILLED.rounds} rounds"


def bare(folder: Path) -> Row:
    """TLS sockets and a numpy mean."""
    row = Row("TLS sockets, numpy mean")
    for size, numbers in NUMBERS.items():
        with Baseline(folder, len(SITES), numbers) as baseline:
            baseline.round()
            row.rounds[size] = [baseline.round() for _ in range(ROUNDS[size] - 1)]
    return row


def missing(key: str) -> str | None:
    """Why a contender cannot take part."""
    if key == "stock-flower" and "BENCH_FLOWER_PYTHON" not in os.environ:
        return "BENCH_FLOWER_PYTHON names no environment with flwr"
    package = {"ray": "ray", "nvflare": "nvflare", "stock-nvflare": "nvflare"}.get(key)
    return f"{package} is not installed" if package and find_spec(package) is None else None


def attempt(parts: list[tuple[str, Callable[[Path], None]]], root: Path, failures: list[str]) -> None:
    """Each part in a folder of its own; one that fails is told on the page and ends nothing."""
    for number, (what, part) in enumerate(parts):
        folder = root / str(number)
        folder.mkdir(parents=True)
        try:
            part(folder)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            failures.append(f"{what}: {type(error).__name__}: {str(error)[:300]}")


def measure(key: str, root: Path, failures: list[str]) -> Row:
    kind = CONTENDERS[key]
    row = Row(kind.name)

    def kill(who: str) -> Callable[[Path], None]:
        def part(folder: Path) -> None:
            row.kills[who] = killed(kind, folder, who == "server")

        return part

    parts: list[tuple[str, Callable[[Path], None]]] = [
        (f"{kind.name}, speed", lambda folder: speed(kind, folder, row)),
        (f"{kind.name}, killed site", kill("site")),
        (f"{kind.name}, killed server", kill("server")),
    ]
    attempt(parts, root / key, failures)
    return row


def middle(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else "-"


def table(rows: list[Row]) -> list[str]:
    """Markdown."""
    lines = [
        "| | processes up, s | first round, s | s a round, 1 MB | s a round, 124 MB "
        "| server, MB (1, 124 MB) | a site, MB (1, 124 MB) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        up = f"{row.up:.1f} | {row.first:.1f}" if row.up else "- | -"
        seconds = " | ".join(middle(row.rounds.get(size, [])) for size in NUMBERS)
        memory = [", ".join(f"{row.memory[size][who]:.0f}" for size in row.memory) or "-" for who in (0, 1)]
        lines.append(f"| {row.name} | {up} | {seconds} | {' | '.join(memory)} |")
    lines += ["", "| | a site killed | the server killed |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.kills.get('site', '-')} | {row.kills.get('server', '-')} |" for row in rows[1:]]
    return lines


def versions() -> str:
    found = [f"{name} {metadata.version(name)}" for name in ("ray", "nvflare") if find_spec(name)]
    if (flower := os.environ.get("BENCH_FLOWER_PYTHON")) is not None:
        script = "from importlib.metadata import version; print(version('flwr'))"
        said = subprocess.run([flower, "-c", script], check=False, capture_output=True, text=True).stdout.strip()
        found.append(f"flwr {said or 'missing'}")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engines", nargs="*", default=[*CONTENDERS], help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--out", type=Path, help="write the page there too")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is not removed")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if unknown := set(options.engines) - set(CONTENDERS):
        parser.error(f"no such engine: {', '.join(sorted(unknown))}")
    load, failures = os.getloadavg()[0], list[str]()
    with tempfile.TemporaryDirectory(prefix="wardround-engines-", ignore_cleanup_errors=True) as folder:
        root = options.keep or Path(folder)
        (root / "bare").mkdir(parents=True)
        rows = [bare(root / "bare")]
        for key in options.engines:
            if (why := missing(key)) is not None:
                failures.append(f"{CONTENDERS[key].name} was left out: {why}")
                continue
            rows.append(measure(key, root, failures))
            print(json.dumps(asdict(rows[-1])), flush=True)
    lines = [
        "# Engines beside each other: FedAvg without training",
        "",
        f"Printed by `python benchmarks/bench_engines.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{os.cpu_count()} cores, no GPU; {versions()}; load {load:.1f} before).",
        f"Three sites and a server on one machine. {ROUNDS['1 MB']} rounds at 1 MB, {ROUNDS['124 MB']} at 124 MB, "
        "medians (least to most) without the first. First round: seconds until it begins, from the submission or from "
        "the last site's approval. Memory: proportional set size of all processes, at most.",
        f"Kills: `kill -9` of all of its processes while sites were in training ({KILLED.pause:.0f} s a round), "
        f"started again {DOWN:.0f} s later.",
        "",
        *table(rows),
        *(["", "What did not work:", "", *(f"- {line}" for line in failures)] if failures else []),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
