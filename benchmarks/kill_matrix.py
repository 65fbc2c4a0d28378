"""The kill matrix: real processes, ``kill -9`` at every moment of a round, and what became of the run.

Coordinator, site and the site's training process are killed before, during and after download, training,
upload, aggregation and checkpoint, one kill a run; what was killed is started again, and the run has to end by
itself with the weights of the undisturbed run. Besides: a site that stays dead. Needs nothing but this
repository; about twenty minutes.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "journeys")]

from killing import PHASES, ROUND, TIMES, VICTIMS, Cell, Stage  # noqa: E402
from network_world import until  # noqa: E402

STALL = 5
TITLES = {"coordinator": "coordinator", "site": "site (agent)", "worker": "site's training process"}


@dataclass
class Played:
    """What became of one victim's cells."""

    cells: list[Cell]
    seconds: float  # of the undisturbed run
    faults: list[str]


def play_all(folder: Path, victim: str, phases: list[str]) -> Played:
    """All moments of one victim, in a federation of its own."""
    stage = Stage.build(folder / victim)
    cells = [Cell(victim, phase, when) for phase in phases for when in TIMES]
    try:
        whole = stage.undisturbed()
        assert stage.net.local(stage.plan, folder / f"local-{victim}") == stage.reference
        for cell in cells:
            try:
                stage.play(cell)
            except AssertionError as error:
                cell.note = str(error).splitlines()[0][:200]
            result = "equal" if cell.equal else "DIFFERS"
            print(f"{victim:12} {cell.moment:22} {result} {cell.seconds:6.1f} s {cell.note}", flush=True)
        return Played(cells, whole, list(stage.net.faults()))
    finally:
        stage.close()


def table(cells: list[Cell], phases: list[str]) -> list[str]:
    """A row a victim and time, a column a phase."""
    lines = [f"| killed | when | {' | '.join(phases)} |", "|---|---|" + "---|" * len(phases)]
    for victim in dict.fromkeys(cell.victim for cell in cells):
        for when in TIMES:
            row = {cell.phase: cell for cell in cells if (cell.victim, cell.time) == (victim, when)}
            lines.append(f"| {TITLES[victim]} | {when} | {' | '.join(shown(row[phase]) for phase in phases)} |")
    return lines


def shown(cell: Cell) -> str:
    if cell.equal:
        return f"same ({cell.seconds:.0f} s){' [1]' if cell.note else ''}"
    return f"**{cell.note or 'other weights'}**"


def dead_site(root: Path) -> list[str]:
    """B is killed while it trains and stays dead for a while."""
    rounds = {"limit": 40, "quorum": 1, "stall": STALL, "patience": 40}
    stage = Stage.build(root, rate=0.0, rounds=rounds)
    try:
        stage.begin()
        until(stage.moment("training", "during"), "B trains")
        stage.net.sites.pop("B").kill()
        died = time.time()
        late = until(lambda: failures(stage), "the round goes on without B")[0]
        progress = stage._ask(
            "select moved from progress where task = ? and site = 'B'", stage._task, file="recent.sqlite"
        )
        last = float(progress[0][0])
        took = moment(late) - last - STALL
        until(lambda: len(stage.net.events(stage.digest, "round_ended")) >= 5, "rounds without B")
        stage.net.start("B")
        back = until(lambda: serving(stage), "B is back")
        until(lambda: [e for e in ended(stage) if "B" in e["sites"] and e["round"] > 1], "B takes part again")
        first = min(e["round"] for e in ended(stage) if "B" in e["sites"] and e["round"] > 1)
        begun = [e["round"] for e in stage.net.events(stage.digest, "round_started") if moment(e) > back]
    finally:
        stage.close()
    assert took <= 10, took
    return [
        "- Killed while it trained in round 1, and left dead: the round went on with the quorum "
        f"{took:.1f} s after the stall limit of {STALL} s, {moment(late) - died:.1f} s after the kill "
        "(goal: within 10 s of the limit). Later rounds did not wait for it.",
        f"- Started again: it took part in round {first}; the first round that began after it was serving again was "
        f"{begun[0]}.",
    ]


def failures(stage: Stage) -> list[dict[str, Any]]:
    found = stage.net.events(stage.digest, "site_failed")
    wanted = ("B", "train", "late", ROUND)
    return [event for event in found if (event["site"], event["verb"], event["kind"], event["round"]) == wanted]


def ended(stage: Stage) -> list[dict[str, Any]]:
    return stage.net.events(stage.digest, "round_ended")


def serving(stage: Stage) -> float | None:
    """When B began to serve for the second time (the first was before the run began, the next at its start)."""
    times = [moment(entry) for entry in stage.net.audit("B") if entry["event"] == "serving"]
    return times[-1] if len(times) >= 3 else None


def moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--victims", nargs="*", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--phases", nargs="*", choices=PHASES, default=list(PHASES))
    parser.add_argument("--out", type=Path, help="write the page to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wardround-kill-") as name:
        with ThreadPoolExecutor(len(options.victims)) as side_by_side:
            jobs = [side_by_side.submit(play_all, Path(name), victim, options.phases) for victim in options.victims]
            played = [job.result() for job in jobs]
        cells = [cell for one in played for cell in one.cells]
        faults = [fault for one in played for fault in one.faults]
        whole = max(one.seconds for one in played)
        dead = dead_site(Path(name) / "dead")
    good = sum(cell.equal for cell in cells)
    text = [
        "# Kill matrix",
        "",
        f"`python benchmarks/kill_matrix.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} "
        "cores, seed 0): a coordinator and two sites as processes, started with the commands that people type, on "
        "generated images; 3 rounds; the moments are those of round 1. One kill (`kill -9`) a run. "
        f"{good} of {len(cells)} runs ended by themselves with the weights of the undisturbed run ({whole:.0f} s), "
        "bit for bit; those are the local runtime's. In brackets: seconds from the kill to the end of the run.",
        "",
        *table(cells, options.phases),
        "",
        *(["[1] the process was not running at that moment.", ""] if any(c.note and c.equal for c in cells) else []),
        "A site that stays dead:",
        "",
        *dead,
        "",
        f"Tracebacks in any log: {len(faults)}.",
        "",
    ]
    print("\n".join(text))
    if options.out:
        options.out.write_text("\n".join(text), encoding="utf-8")
    sys.exit(0 if good == len(cells) and not faults else 1)


if __name__ == "__main__":
    main()
