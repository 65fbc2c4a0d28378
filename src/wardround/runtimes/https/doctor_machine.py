"""What this machine and this site folder have for training: key, disk, memory, processor, dataset."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from wardround.core.errors import InputError, StorageError, WardRoundError
from wardround.runtimes.https.doctor_path import Finding
from wardround.runtimes.https.home import Home, SiteSettings, load_key
from wardround.runtimes.https.joining import cores
from wardround.site.policy import load_policy

GIGA = 10**9
SOON = 14  # days before its end in which a key that was not renewed is worth a word
LEAST_DISK, GOOD_DISK = 1 * GIGA, 10 * GIGA
LEAST_MEMORY, GOOD_MEMORY = 2 * GIGA, 6 * GIGA
FEWEST = 3  # usable cases: one each to train, validate and test
TORCH = """
import json, torch
found = {"torch": torch.__version__, "gpus": []}
if torch.cuda.is_available():
    for n in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(n)
        found["gpus"].append([p.name, p.total_memory])
print(json.dumps(found))
"""


def check_key(home: Home, settings: SiteSettings, now: float | None = None) -> Finding:
    """Whether the key is there, for this user alone, and for how long it counts."""
    try:
        loose = [p.name for p in (home.key_file, home.root) if stat.S_IMODE(p.stat().st_mode) & 0o077]
        load_key(home.key_file)
    except OSError as error:
        return _no_key(f"{home.key_file} cannot be read ({error.strerror})")
    except StorageError as error:
        return _no_key(str(error))
    if loose:
        names = " and ".join(loose)
        remedy = (
            f"chmod 700 {home.root}; chmod 600 {home.key_file}. Who may have read it can speak for this site: rekey"
        )
        return Finding("key", "warn", f"{names} could be read by others on this machine", remedy)
    if settings.expires == 0:
        return Finding("key", "ok", "readable by this user alone")
    return _days((settings.expires - (time.time() if now is None else now)) / 86_400)


def _days(days: float) -> Finding:
    if days < 0:
        remedy = "ask the coordinator's owner for an invitation to re-key, then `wardround site rekey`"
        return Finding("key", "fail", f"ended {-days:.0f} days ago", remedy)
    if days < SOON:
        remedy = "`wardround site serve` renews it by itself: is it running? By hand: `wardround site rekey`"
        return Finding("key", "warn", f"ends in {days:.0f} days", remedy)
    return Finding("key", "ok", f"readable by this user alone, counts for {days:.0f} more days")


def _no_key(seen: str) -> Finding:
    remedy = "restore the site folder from a backup, or ask for an invitation to re-key, then `wardround site rekey`"
    return Finding("key", "fail", seen, remedy)


def check_agent(home: Home) -> Finding:
    """Whether `serve` is running."""
    handle = os.open(home.root / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return Finding("agent", "ok", "`wardround site serve` is running")
    finally:
        os.close(handle)
    remedy = "start it: `wardround site service --install`, or `wardround site serve`"
    return Finding("agent", "warn", "`wardround site serve` is not running: no task is answered", remedy)


def check_policy(home: Home, now: datetime | None = None) -> Finding:
    """Whether policy.yaml can be read, and lets any training happen; ``now`` is local time."""
    try:
        policy = load_policy(home.policy)
    except InputError as error:
        seen = "; ".join(str(fault) for fault in error.faults) or error.what
        remedy = f"nothing is allowed until it is mended: edit {home.policy}, then `wardround site policy`"
        if not home.policy.is_file():
            remedy = "nothing is allowed without one: `wardround site policy --write` writes the default"
        return Finding("policy", "fail", seen, remedy)
    forbidden = policy.forbids_all(datetime.now() if now is None else now)
    if not forbidden:
        return Finding("policy", "ok", "policy.yaml is valid and lets training happen")
    rules = ", ".join(objection.rule for objection in forbidden)
    remedy = f"if this site is to take part, change {rules} in {home.policy}: a change holds at once"
    return Finding("policy", "warn", f"it refuses all training: {'; '.join(map(str, forbidden))}", remedy)


def check_disk(home: Home, settings: SiteSettings) -> list[Finding]:
    """Room for models (site folder) and for prepared images (store)."""
    return [
        _room("disk, site folder", home.root, "models and answers of every run lie here"),
        _room(
            "disk, store", Path(settings.store), "prepared images lie here, often several times the size of the files"
        ),
    ]


def _room(name: str, folder: Path, what: str) -> Finding:
    place = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(name, "fail", f"{folder} cannot be looked at ({error.strerror})", "is its disk there?")
    writable = os.access(place, os.W_OK | os.X_OK)
    if not writable:
        return Finding(name, "fail", f"{place} cannot be written by this user", f"give this user {folder}")
    seen = f"{free / GIGA:.1f} GB free at {folder}"
    if free < GOOD_DISK:
        remedy = f"make room, or move it to a larger disk: {what}"
        return Finding(name, "fail" if free < LEAST_DISK else "warn", seen, remedy)
    return Finding(name, "ok", seen)


def check_memory(root: Path = Path("/")) -> Finding:
    """Memory that is free now, within what a container allows; ``root`` is where /proc and /sys are."""
    free = free_memory(root)
    if free is None:
        return Finding("memory", "skipped", "this system does not say how much is free")
    seen = f"{free / GIGA:.1f} GB free"
    if free >= GOOD_MEMORY:
        return Finding("memory", "ok", seen)
    remedy = "end other programs, or ask IT for more; training in 3D takes 2 to 8 GB"
    return Finding("memory", "fail" if free < LEAST_MEMORY else "warn", seen, remedy)


def free_memory(root: Path = Path("/")) -> int | None:
    """Bytes; None where it is not known."""
    known = []
    try:
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(1024 * int(line.split()[1]))
    except (OSError, ValueError, IndexError):
        pass
    try:
        group = root / "sys/fs/cgroup"
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            known.append(max(0, int(limit) - int((group / "memory.current").read_text(encoding="ascii"))))
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def check_processor(settings: SiteSettings, python: str = sys.executable) -> list[Finding]:
    """Cores and GPUs, as the training will see them: asked in a process of its own, because that loads torch."""
    have = cores()
    threads = Finding("processor", "ok", f"{have} cores, {settings.threads} used for training")
    if settings.threads > have:
        remedy = f"set threads in site.json to {have}"
        threads = Finding("processor", "warn", f"{have} cores, but {settings.threads} threads are asked for", remedy)
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter and words
            [python, "-c", TORCH], capture_output=True, text=True, timeout=180, check=False
        )
        found = json.loads(ended.stdout) if ended.returncode == 0 else None
        why = (ended.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        found, why = None, type(error).__name__
    if found is None:
        remedy = "install the extras train and network here: docs/how-to/run-a-site.md, offline-install.md"
        return [threads, Finding("training software", "fail", f"torch cannot be loaded ({why})", remedy)]
    return [threads, _gpu(settings, found)]


def _gpu(settings: SiteSettings, found: dict[str, list[tuple[str, int]]]) -> Finding:
    gpus = found["gpus"]
    if gpus:
        names = ", ".join(f"{name} ({size / GIGA:.0f} GB)" for name, size in gpus)
        return Finding("training software", "ok", f"torch {found['torch']}, GPU: {names}")
    seen = f"torch {found['torch']}, no GPU that it can use"
    if settings.device.startswith("cuda"):
        remedy = "is the NVIDIA driver installed, and torch's build one with CUDA? Or set device in site.json to auto"
        return Finding("training software", "fail", seen, remedy)
    return Finding("training software", "ok", f"{seen}: trains on the processor")


def check_data(settings: SiteSettings, quick: bool) -> Finding:
    """Whether the dataset opens, and how many of its cases can be used; ``quick`` only lists them."""
    from wardround.data.checks import check_dataset  # noqa: PLC0415 - brings nibabel, scipy
    from wardround.data.dataset import open_dataset  # noqa: PLC0415

    look = f"`wardround check {settings.data}` says what is wrong, case by case"
    try:
        dataset = open_dataset(Path(settings.data), settings.spec)
        if quick:
            return Finding("dataset", "ok", f"{len(dataset.cases)} cases listed ({dataset.layout}); not read")
        report = check_dataset(dataset)
    except WardRoundError as error:
        return Finding("dataset", "fail", str(error), look)
    bad = len(report.unusable)
    usable = report.cases - bad
    seen = f"{usable} of {report.cases} cases can be used ({dataset.layout})"
    if usable < FEWEST:
        return Finding("dataset", "fail", seen, f"at least {FEWEST} are needed: {look}")
    room = 8 * sum(math.prod(trait.shape) for trait in report.traits if trait.shape)
    seen += f"; about {room / GIGA:.1f} GB in the store" if room >= GIGA / 10 else ""
    return Finding("dataset", "warn" if bad else "ok", seen, look if bad else "")
