"""`make accept-ray`: 40 sites on a Ray cluster of two nodes, a worker and a node killed, against the local runtime.

    python benchmarks/accept_ray.py

Both nodes are on this machine (two raylets), with room for one site each. Everything is generated. First the kills:
the plan's quorum is all 40 sites, so that a single lost answer would end the run, and the final weights must be those
of `wardround run` without Ray. Then the speed: site-steps a second while a round trains, over what bare PyTorch
processes reach on the same steps, measured before and after in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "conformance"))
from engine_contract import log_of, weights_of, working
from engines import Local, Ray

from tiny import plan_dict, write_plan, write_site
from wardround.core.rundir import read_events

COUNT = 40
PROCESSES = 2  # one on each node
TRAINING = plan_dict()["training"]
FAST = {"training": {**TRAINING, "steps": 6}, "rounds": {"limit": 3, "quorum": COUNT, "patience": 3}}


def write_hospitals(root: Path) -> Path:
    """40 small hospitals and their sites file."""
    names = [f"H{number:02d}" for number in range(COUNT)]
    for number, name in enumerate(names):
        write_site(root / f"site_{name}", seed=number + 1)
    file = root / "sites.yaml"
    file.write_text(yaml.safe_dump({"sites": [{"name": n, "folder": f"site_{n}"} for n in names]}))
    return file


# -- kills ----------------------------------------------------------------------------------------------------


def kills(ray: Ray, local: Local) -> tuple[list[str], bool]:
    """Lines for the page, and whether all was as it has to be."""
    plan = write_plan(ray.root / "kills.yaml", **FAST)
    reference = local.start(plan)
    local.wait(reference)
    place, lines = ray.start(plan), []
    ray.until_event(place, "round_started", round=1)
    killed = working(ray.nodes[0].pid)[:1]
    assert killed, "no worker on the first node"
    wait_for_answers(place, 1, 3)
    os.kill(killed[0], 9)
    lines.append("- `kill -9` of a worker process in round 2")
    ray.until_event(place, "round_started", round=2)
    wait_for_answers(place, 2, 3)
    ray.kill_node()
    lines.append("- `kill -9` of the second node's raylet in round 3, in which its site was at work")
    ray.wait(place)
    failed = [event for event in log_of(place) if event["event"] == "site_failed"]
    same, alike = weights_of(place) == weights_of(reference), log_of(place) == log_of(reference)
    rows = zip(weights_of(place).items(), weights_of(reference).values(), strict=True)
    lines += [
        "",
        "| weights | on Ray, with the kills | on one machine | same |",
        "|---|---|---|---|",
        *(f"| {name} | `{a[:16]}` | `{b[:16]}` | {'yes' if a == b else '**no**'} |" for (name, a), b in rows),
        "",
        f"Answers lost: {len(failed)}. Event logs equal up to times: {'yes' if alike else '**no**'}.",
    ]
    return lines, same and alike and not failed


def wait_for_answers(place: Path, number: int, count: int) -> None:
    """Until so many sites have trained in a round: their answers lie in their folders before the round is logged."""
    while len(list((place / "sites").glob(f"*/answers/{number:06d}-train-0"))) < count:
        time.sleep(0.02)


# -- speed ----------------------------------------------------------------------------------------------------


def speed(ray: Ray, steps: int, rounds: int) -> tuple[list[str], float]:
    """Lines for the page, and the rounds' site-steps a second over PROCESSES times one bare process."""
    training = {**TRAINING, "steps": steps, "batch": 4, "patch": [24, 32, 24]}
    shape = {"training": training, "network": {"name": "unet", "features": [16, 32, 64]}, "evaluation": {"folds": 3}}
    plan = write_plan(ray.root / "speed.yaml", rounds={"limit": rounds + 1, "patience": rounds + 1}, **shape)
    one, all_ = [bare(ray.root, plan, 1)], [bare(ray.root, plan, PROCESSES)]
    place = ray.start(plan)
    ray.wait(place)
    one.append(bare(ray.root, plan, 1))
    all_.append(bare(ray.root, plan, PROCESSES))
    events = [e for e in read_events(place / "events.jsonl") if e["event"] == "round_ended"][1:]  # the first prepares
    reached = [COUNT * steps / event["seconds"]["train_wait"] for event in events]
    median = statistics.median(reached)
    alone, together = statistics.mean(one), statistics.mean(all_)
    ratio = median / (PROCESSES * alone)
    shown = ", ".join(f"{value:.1f}" for value in reached)
    return [
        "| | steps a second |",
        "|---|---|",
        f"| one bare process alone, before and after | {one[0]:.1f}, {one[1]:.1f} |",
        f"| {PROCESSES} bare processes at once, sum, before and after | {all_[0]:.1f}, {all_[1]:.1f} |",
        f"| {COUNT} sites on {PROCESSES} nodes, training of all rounds but the first | {shown} |",
        "",
        f"Over {PROCESSES} times one bare process: **{ratio:.2f}** (goal: at least 0.9). "
        f"Over {PROCESSES} bare processes at once: {median / together:.2f}.",
        "",
        f"A site's task here is {steps} steps of batch 4 (U-Net of 16, 32 and 64 features, patch 24 x 32 x 24, fp32).",
        "The rounds' time holds also loading the weights, augmentation, the sites' answers on disk, and Ray. Bare: the",
        "same steps on batches that lie ready.",
    ], ratio


def bare(root: Path, plan: Path, count: int) -> float:
    """Steps a second of so many bare processes at once, added up."""
    command = [sys.executable, __file__, "--bare", str(plan), "--site", str(root / "site_H00")]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "WARDROUND_STORE": str(root / "store")}
    running = [
        subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in running)


def bare_process(plan_file: Path, data: Path) -> None:
    """The plan's steps by hand, for 15 seconds."""
    from torch import nn

    from wardround.planning.plan import load_plan
    from wardround.site.device import choose_machine, settle
    from wardround.site.hospital import Source, open_hospital
    from wardround.site.loss import make_loss
    from wardround.site.optimiser import make_optimiser
    from wardround.site.patches import Batches
    from wardround.site.training import make_network

    plan, store = load_plan(plan_file), Path(os.environ["WARDROUND_STORE"])
    settle(1, True)
    machine = choose_machine(plan, "cpu", store)
    hospital = open_hospital(plan, "H00", (Source(data),), store)
    batches = Batches(hospital.part("train"), plan.training, 0, "H00")
    ready = [batches.make(update) for update in range(20)]
    network = make_network(plan, machine, None).train()
    optimiser, loss_of = make_optimiser(plan, network), make_loss(plan.training.loss)

    def train() -> None:
        for image, label, hidden in ready:
            optimiser.zero_grad(set_to_none=True)
            loss_of(network(image), label, hidden).backward()
            nn.utils.clip_grad_norm_(network.parameters(), plan.training.clip)
            optimiser.step()

    train()
    print("ready", flush=True)
    sys.stdin.readline()
    begin, done = time.perf_counter(), 0
    while (took := time.perf_counter() - begin) < 15:
        train()
        done += len(ready)
    print(done / took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where the page is written, such as docs/results/ray.md")
    parser.add_argument("--part", choices=("both", "kills", "speed"), default="both")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--site", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.bare is not None:
        bare_process(args.bare, args.site)
        return
    lines = [
        "# A Ray cluster against one machine",
        "",
        f"Printed by `python benchmarks/accept_ray.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{os.cpu_count()} cores, no GPU, seed 0).",
        f"{COUNT} generated hospitals on two nodes (`ray start`, two raylets on this machine), a site at a time each.",
    ]
    with tempfile.TemporaryDirectory(prefix="wardround-ray-", ignore_cleanup_errors=True) as folder:
        root = Path(folder)
        (root / "local").mkdir()
        sites, sound = write_hospitals(root), True
        with Ray(root, PROCESSES, sites) as ray:
            if args.part != "speed":
                with Local(root / "local", PROCESSES, sites) as local:
                    about, sound = kills(ray, local)
                lines += ["", "## Kills", "", f"Three rounds with a quorum of {COUNT} of {COUNT} sites:", "", *about]
                ray.add_node("--address", ray.address)
            if args.part != "kills":
                load = os.getloadavg()[0]
                fast, ratio = speed(ray, args.steps, args.rounds)
                lines += ["", "## Speed", "", *fast, f"Load average when it began: {load:.1f}."]
                sound = sound and ratio >= 0.9
    print("\n".join(lines))
    if args.out is not None:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
