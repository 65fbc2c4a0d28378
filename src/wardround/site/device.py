"""Which processor, how many threads, which precision: decided once per machine and network."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from wardround.core.errors import SiteError
from wardround.core.frozen import canonical_json
from wardround.core.randomness import seed_of
from wardround.core.weights import write_bytes
from wardround.networks.build import build
from wardround.planning.plan import Plan
from wardround.site.group import ALONE, Group
from wardround.site.loss import make_loss

# bf16 must be this much faster than fp32 to be worth its coarser numbers.
WORTH = 1.2
# Cosine between the two gradients on noise, the hardest case: 0.97 is usual, broken kernels give about 0.
ALIKE = 0.9


@dataclass(frozen=True)
class Machine:
    """How a site computes."""

    device: torch.device
    precision: str  # "fp32" or "bf16"
    why: str
    group: Group = ALONE

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Forward passes in bf16 where that was chosen."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            yield


def choose_machine(plan: Plan, device: str, cache: Path) -> Machine:
    """Device and precision for ``plan`` here; the self-test's outcome is remembered in ``cache``.

    It is remembered because it depends on timing: a resumed run must not decide anew.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    where = torch.device(kind)
    wanted = plan.training.precision
    if wanted == "bf16" and _hits_depth_two(plan, where):
        raise SiteError(
            "the plan asks for bf16, but its patch leaves a feature map 2 deep, which bf16 computes wrongly on a "
            "processor: another patch or depth, precision auto or fp32, or a GPU"
        )
    if wanted != "auto":
        return Machine(where, wanted, "the plan says so")
    if _hits_depth_two(plan, where):
        return Machine(where, "fp32", "a feature map is 2 deep, which bf16 on this processor computes wrongly")
    shape = {"network": plan.network.digest(), "patch": plan.training.patch, "batch": plan.training.batch}
    key = {**shape, "classes": plan.classes, "channels": len(plan.task.modalities), "torch": torch.__version__,
           "device": kind, "threads": torch.get_num_threads(), "processor": processor_name(where)}  # fmt: skip
    path = cache / f"selftest-{seed_of(0, canonical_json(key)):016x}.json"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two workers must not measure at once, nor decide differently
        if not path.is_file():
            precision, why = self_test(plan, where)
            write_bytes(path, json.dumps({**key, "precision": precision, "why": why}).encode())
    known = json.loads(path.read_text(encoding="utf-8"))
    return Machine(where, known["precision"], known["why"])


def _hits_depth_two(plan: Plan, where: torch.device) -> bool:
    return where.type == "cpu" and plan.network.has_depth_two(plan.training.patch)


def processor_name(where: torch.device) -> str:
    """A name to tell machines apart by."""
    if where.type == "cuda":
        return str(torch.cuda.get_device_name(where))
    return str(torch.backends.cpu.get_cpu_capability())


def self_test(plan: Plan, where: torch.device) -> tuple[str, str]:
    """(precision, reason): bf16 if its gradients repeat, agree with fp32's, and it is faster.

    The same step is done twice after filling freed memory with NaN, which brings uninitialised
    reads to light (seen in bf16 convolutions of torch 2.13).
    """
    if where.type == "cuda" and not torch.cuda.is_bf16_supported():
        return "fp32", "this GPU has no bf16"
    full, seconds = _gradient(plan, where, "fp32")
    half, seconds_half = _gradient(plan, where, "bf16")
    again, _ = _gradient(plan, where, "bf16")
    if not torch.isfinite(half).all() or (where.type == "cpu" and not torch.equal(half, again)):
        return "fp32", "bf16 gradients are not finite or not repeatable on this machine"
    cosine = float(torch.nn.functional.cosine_similarity(full, half, dim=0))
    if cosine < ALIKE:
        return "fp32", f"bf16 gradients differ too much from fp32 (cosine {cosine:.3f})"
    if seconds < WORTH * seconds_half:
        return "fp32", f"bf16 is not faster here ({seconds / seconds_half:.2f} x)"
    return "bf16", f"bf16 is {seconds / seconds_half:.1f} x as fast as fp32 here; gradient cosine {cosine:.4f}"


def _gradient(plan: Plan, where: torch.device, precision: str) -> tuple[torch.Tensor, float]:
    torch.manual_seed(seed_of(0, "self-test"))
    channels, patch = len(plan.task.modalities), plan.training.patch
    network = build(plan.network, plan.task.dimensions, channels, plan.classes).to(where).train()
    image = torch.randn(plan.training.batch, channels, *patch, device=where)
    label = torch.randint(plan.classes, (plan.training.batch, 1, *patch), device=where)
    loss = make_loss(plan.training.loss)
    machine = Machine(where, precision, "")
    best = float("inf")
    for _ in range(3):
        network.zero_grad()
        torch.full((64, 1024, 256), float("nan"), device=where)  # poison what the allocator gives out next
        begin = time.perf_counter()
        with machine.autocast():
            outputs = network(image)
        loss(outputs, label).backward()  # type: ignore[no-untyped-call]
        if where.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    flat = [p.grad.detach().float().flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(flat), best


def settle(threads: int, deterministic: bool) -> None:
    """Fix the thread count (results depend on it) and deterministic algorithms for this process."""
    torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=torch.cuda.is_available())
        torch.backends.cudnn.benchmark = False
