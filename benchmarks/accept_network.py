"""`make accept-network`: the hippocampus plan over HTTPS, with the commands of the README, against the local runtime.

    python benchmarks/accept_network.py --data ../shared/data

Three sites and a coordinator, each a process of its own, on loopback; then `wardround run` with the same plan and
the same three sites. The final weights must be the same, bit for bit. Writes docs/results/network-equals-local.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from network_federation import free_port, until_open, wardround

ROOT = Path(__file__).resolve().parents[1]
SITES = {"H1": "site_H1_uint8", "H2": "site_H2_float_lo", "H3": "site_H3_float_hi"}
MODELS = ("model.safetensors", "best.safetensors", "last.safetensors")


def begin(*command: object, log: Path, store: Path | None = None) -> subprocess.Popen[bytes]:
    env = {**os.environ, **({"WARDROUND_STORE": str(store)} if store is not None else {})}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "wardround", *map(str, command)], stdout=file, stderr=file, env=env
        )


def networked(root: Path, plan: Path, data: Path) -> tuple[Path, float]:
    """The run directory at the coordinator, and the seconds from the last approval to the end."""
    url, home = f"https://127.0.0.1:{free_port()}", root / "coordinator"
    wardround("coordinator", "init", home, "--url", url)
    processes = [begin("coordinator", "serve", home, log=root / "coordinator.log")]
    try:
        until_open(url, processes[0])
        for name, folder in SITES.items():
            invitation = wardround("coordinator", "invite", home, name).split()[-1]
            site = root / name
            wardround("site", "join", invitation, "--data", data / folder, "--dir", site, "--threads", 1)
            log, store = root / f"{name}.log", root / f"{name}-store"
            processes.append(begin("site", "serve", "--dir", site, log=log, store=store))
        said = wardround("coordinator", "submit", home, plan).splitlines()
        digest = next(line.split()[1] for line in said if line.startswith("digest"))
        for name in SITES:
            until(lambda name=name: (root / name / "requests" / f"{digest}.json").is_file(), processes)
            wardround("site", "approve", digest, "--name", "The person who runs this", "--dir", root / name)
        started = time.monotonic()
        until(lambda: state(home, digest) == "ended", processes, pause=5)
        took = time.monotonic() - started
        for name in SITES:
            until(lambda name=name: (root / name / "results" / digest / "report.html").is_file(), processes)
            wardround("site", "log", "--verify", "--dir", root / name)
        return home / "runs" / digest[:12], took
    finally:
        for process in processes:
            process.terminate()
            process.wait()


def state(home: Path, digest: str) -> str:
    runs: list[dict[str, Any]] = json.loads(wardround("coordinator", "status", home, "--json"))["runs"]
    return str(next(run["state"] for run in runs if run["plan"] == digest))


def until(done: Any, processes: list[subprocess.Popen[bytes]], pause: float = 0.5) -> None:
    while not done():
        assert all(process.poll() is None for process in processes), "a process ended"
        time.sleep(pause)


def digest_of(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=14)
    args = parser.parse_args()
    data = (args.data / "hippocampus_msd").resolve()
    with tempfile.TemporaryDirectory(prefix="wardround-accept-") as folder:
        root = Path(folder)
        document = yaml.safe_load((ROOT / "examples" / "hippocampus" / "plan.yaml").read_text())
        document["rounds"]["limit"] = args.rounds
        document["training"]["precision"] = "fp32"
        plan, sites = root / "plan.yaml", root / "sites.yaml"
        plan.write_text(yaml.safe_dump(document, sort_keys=False))
        entries = [{"name": name, "folder": str(data / folder)} for name, folder in SITES.items()]
        sites.write_text(yaml.safe_dump({"sites": entries, "threads": 1}))
        far, took = networked(root, plan, data)
        started = time.monotonic()
        wardround("run", plan, "--sites", sites, "--out", root / "local")
        local = time.monotonic() - started
        rows = [(name, digest_of(far / name), digest_of(root / "local" / name)) for name in MODELS]
        same = (
            json.loads((far / "scores.json").read_text())["sites"]
            == json.loads((root / "local" / "scores.json").read_text())["sites"]
        )
    lines = [
        "# The network against one machine",
        "",
        f"Printed by `python benchmarks/accept_network.py` ({datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{os.cpu_count()} cores, no GPU, seed 0). Hippocampus, the example's plan with {args.rounds} rounds in fp32,",
        "three sites, one thread each: a coordinator and three site processes on loopback with the commands of the",
        "README, and `wardround run` on the same folders.",
        "",
        "| file | over HTTPS | on one machine | same |",
        "|---|---|---|---|",
        *(f"| {name} | `{a[:16]}` | `{b[:16]}` | {'yes' if a == b else '**no**'} |" for name, a, b in rows),
        "",
        f"Test scores of every site equal: {'yes' if same else '**no**'}. Over HTTPS {took:.0f} s from the last",
        f"approval to the end, locally {local:.0f} s including start and preparation. All three sites' logs verified.",
    ]
    (ROOT / "docs" / "results" / "network-equals-local.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    sys.exit(0 if same and all(a == b for _, a, b in rows) else 1)


if __name__ == "__main__":
    main()
