"""`make accept-nvflare`: what must be true of NVFlare, with a provisioned server and three sites on this machine.

    python benchmarks/accept_nvflare.py --out docs/results/nvflare.md

Needs `pip install 'wardround[nvflare]'`. Everything is done with the commands of docs/how-to/nvflare.md; the kits' own
scripts start the processes, and start them again. Tiny generated sites: what is shown is that it works, not how well
anything is segmented.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "journeys")]

from flare_world import ADMIN, JOB_AT_SERVER, JOB_AT_SITE, SERVER_MODULE, FlareWorld  # noqa: E402
from network_world import until  # noqa: E402

from tiny import write_plan  # noqa: E402

LONG = 400.0  # seconds to wait for anything
MODELS = ("model.safetensors", "best.safetensors", "last.safetensors")
NUMPY_TRAINER = "nvflare.app_common.np.np_trainer.NPTrainer"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plan_of(world: FlareWorld, name: str, rounds: int, seed: int, **changes: Any) -> Path:
    sections = {"rounds": {"limit": rounds, "quorum": 2, "patience": 1000}, "seed": seed, **changes}
    return write_plan(world.root / f"{name}.yaml", **sections)


def begin(world: FlareWorld, plan: Path, *approving: str) -> str:
    """Submit through `keep`, and approve; returns the digest."""
    digest = world.write_job(plan)
    world.keep(digest)
    world.approve(digest, *approving)
    return digest


def finish(world: FlareWorld) -> int:
    keep = world.daemons.pop("keep")
    try:
        return keep.wait(LONG)
    finally:
        keep.kill()


def after(world: FlareWorld, digest: str, since: float, event: str) -> float:
    """Seconds from a moment until something is next written in the run's log."""

    def told() -> list[float]:
        times = [datetime.fromisoformat(line["time"]).timestamp() for line in world.events(digest, event)]
        return [when for when in times if when > since]

    return min(until(told, f"another {event}", LONG)) - since


def in_training(world: FlareWorld, digest: str, least: int) -> None:
    """Wait until a round after ``least`` ended ones is under way."""

    def training() -> bool:
        events = world.events(digest)
        opened = bool(events) and events[-1]["event"] == "task_opened" and ":train:" in events[-1]["task"]
        return opened and world.rounds(digest) >= least

    until(training, "a round of training is under way", LONG)


def kill_and_wait(world: FlareWorld, digest: str, module: str, kit: str) -> tuple[float, float, float]:
    """Seconds from a kill until a site has its task again; until the next round ended; the same from its return on."""
    in_training(world, digest, world.rounds(digest) + 1)
    old, killed = world.kill(module, kit)
    until(lambda: {pid for pid, _ in world.processes(module, kit)} - {old}, f"{module} is back", LONG)
    back = time.time()
    site = kit if kit in world.names else world.names[0]
    told = until(lambda: asked(world, site, killed), "a site is at work again", LONG)
    took = after(world, digest, killed, "round_ended")
    return told - killed, took, max(0.0, took - (back - killed))


def asked(world: FlareWorld, site: str, since: float) -> float:
    """When a site's agent first had a task after a moment; 0 where it had none yet."""
    for line in (world.home(site).root / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        when = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "task" and when > since:
            return when
    return 0.0


def trains_and_survives(world: FlareWorld, rounds: int) -> list[str]:
    plan, busy = plan_of(world, "survives", rounds, seed=1), os.getloadavg()[0]
    digest = begin(world, plan, *world.names)
    approved = time.time()
    began = datetime.fromisoformat(until(lambda: world.events(digest, "run_started"), "it begins", LONG)[0]["time"])
    start = after(world, digest, began.timestamp(), "site_described")
    first = after(world, digest, approved, "round_ended")
    cases: dict[str, tuple[str, str]] = {
        "a site's job process": (JOB_AT_SITE, "B"),
        "the server's job process": (JOB_AT_SERVER, "localhost"),
        "the server": (SERVER_MODULE, "localhost"),
    }
    rows = []
    for what, (module, kit) in cases.items():
        went_on, took, returned = kill_and_wait(world, digest, module, kit)
        row = f"| `kill -9` of {what}, in training | {went_on:.1f} | {took:.1f} | {returned:.1f} "
        rows.append(f"{row}| {verdict(returned < 30)} |")
    code, loads = finish(world), (busy, os.getloadavg()[0])
    near = local(world, plan)
    place = world.place(digest)
    same = [(name, digest_of(place.root / name), digest_of(near / name)) for name in MODELS]
    scores = [json.loads((where / "scores.json").read_text())["sites"] for where in (place.root, near)]
    events = [event["event"] for event in world.events(digest)]
    return [
        f"Three sites, all approved, {rounds} rounds, quorum 2, fp32; first round {first:.1f} s after the last yes.",
        "Nobody did anything after the kills: the kits' scripts, the launcher and `wardround nvflare keep` did.",
        f"The machine was shared: load {loads[0]:.1f} before, {loads[1]:.1f} after (federation included).",
        f"A round after a kill waits for new worker processes, which import torch: the first ones took {start:.1f} s.",
        "",
        "| | s from the kill until a site has its task again | until the end of the next round "
        "| that, from when the process was back | below 30 s |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"The run ended (exit code of `keep` {code}), resumed {events.count('run_resumed')} times, "
        f"{events.count('round_ended')} rounds in its log.",
        "",
        "| file | NVFlare, after three kills | `wardround run`, uninterrupted | same |",
        "|---|---|---|---|",
        *(f"| {name} | `{a[:16]}` | `{b[:16]}` | {verdict(a == b)} |" for name, a, b in same),
        "",
        f"Test scores of every site equal: {verdict(scores[0] == scores[1])}.",
    ]


def skips(world: FlareWorld) -> list[str]:
    digest = begin(world, plan_of(world, "skips", 2, seed=2), "A", "B")
    code = finish(world)
    ended = world.events(digest, "round_ended")
    missing = {(event["site"], event["kind"]) for event in world.events(digest, "site_failed")}
    took_part = {site for event in ended for site in event["sites"]}
    ran = (world.home("C").run(digest)).exists()
    good = code == 0 and took_part == {"A", "B"} and missing == {("C", "pending")} and not ran
    return [
        f"Site C did not approve: {len(ended)} rounds with {', '.join(sorted(took_part))}; C is written down as "
        f"{', '.join(sorted(kind for _, kind in missing))} and nothing of the run was begun there: {verdict(good)}."
    ]


def refuses(world: FlareWorld) -> list[str]:
    """Jobs that ask for more, submitted as the project's administrator."""
    foreign, code = world.root / "foreign", world.root / "code"
    for folder in (foreign, code):
        world.run("nvflare", "job", plan_of(world, folder.name, 1, seed=3), "--sites", "A,B,C", "--out", folder)
    client = foreign / "app" / "config" / "config_fed_client.json"
    document = json.loads(client.read_text())
    document["executors"][0]["executor"]["path"] = NUMPY_TRAINER
    client.write_text(json.dumps(document))
    (code / "app" / "custom").mkdir()
    (code / "app" / "custom" / "mine.py").write_text("print('code of a job runs here')\n")
    lines = []
    for folder, what in ((foreign, f"whose Executor is `{NUMPY_TRAINER}`"), (code, "with a file of code")):
        status = outcome(world, folder)
        good = "COMPLETED" not in status and "RUNNING" not in status
        lines.append(f"A job {what}, submitted by the project's administrator: `{status}`: {verdict(good)}.")
    said = [line for name in world.names for line in refusals(world, name)]
    ran = [name for name in world.names if "code of a job runs here" in (world.root / f"{name}.log").read_text()]
    shown, good = said[0] if said else "nothing", bool(said) and not ran
    return [*lines, "", f"In a site's log: `{shown}`. Code ran at {ran or 'no site'}: {verdict(good)}."]


def outcome(world: FlareWorld, folder: Path) -> str:
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    session = new_secure_session(ADMIN, str(world.kits / ADMIN))
    try:
        job = session.submit_job(str(folder))
        status = ""

        def over() -> bool:
            nonlocal status
            status = str(session.get_job_meta(job).get("status"))
            return status.startswith(("FINISHED", "FAILED"))

        until(over, "the job is over", LONG)
        return status
    except Exception as error:  # noqa: BLE001 - NVFlare's words are what is shown
        return f"refused: {error}"[:200]
    finally:
        session.close()


def refusals(world: FlareWorld, name: str) -> list[str]:
    found = []
    for path in sorted((world.kits / name).rglob("log*.txt")):
        found += [line for line in path.read_text(errors="replace").splitlines() if "not in allow_list" in line]
    return [line.split(" - ")[-1].strip()[:160] for line in found]


def local(world: FlareWorld, plan: Path) -> Path:
    """The same plan and sites with `wardround run`."""
    sites, out = world.root / "sites.yaml", world.root / f"local-{plan.stem}"
    entries = [{"name": name, "folder": str(world.data[name])} for name in world.names]
    sites.write_text(yaml.safe_dump({"sites": entries, "threads": 1, "workers": 1}))
    command = [sys.executable, "-m", "wardround", "run", str(plan), "--sites", str(sites), "--out", str(out)]
    done = subprocess.run(command, env=world.env_of("local"), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def verdict(good: bool) -> str:
    return "yes" if good else "**no**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the page there too")
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is not removed")
    parser.add_argument("--part", type=int, choices=(1, 2, 3), help="only this one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wardround-nvflare-") as folder:
        root = args.keep or Path(folder)
        with FlareWorld(root) as world:
            world.found()
            world.start_all()
            parts: list[tuple[str, Callable[[], list[str]]]] = [
                ("It trains, and survives kills", lambda: trains_and_survives(world, args.rounds)),
                ("A site that has not approved", lambda: skips(world)),
                ("What may not run does not", lambda: refuses(world)),
            ]
            lines = [
                "# NVFlare: what must be true",
                "",
                f"Printed by `benchmarks/accept_nvflare.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()},",
                f"{os.cpu_count()} cores, no GPU, NVFlare {metadata.version('nvflare')}). Provisioned with `wardround",
                "nvflare provision`: mutual TLS over gRPC, `byoc` none for every role, one class allowed on each side.",
            ]
            for title, part in parts[args.part - 1 : args.part] if args.part else parts:
                lines += ["", f"## {title}", "", *part()]
                print("\n".join(lines[-40:]), flush=True)
    text = "\n".join(lines) + "\n"
    if args.out is not None:
        args.out.write_text(text)
    print(text)
    sys.exit(1 if "**no**" in text else 0)


if __name__ == "__main__":
    main()
