"""`make bench`: what Ward Round costs over doing the same by hand, as ratios measured in one run.

Everything is generated; nothing but this repository is needed. Each pair is measured in turn
(A B A B ...), and medians are quoted, because machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wardround.core.encoding import PLAIN, Encoding
from wardround.core.messages import Task

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

SHAPES = [(1000, 1000)] * 30 + [(1000,)] * 1000  # 31 M parameters
LINES: list[str] = []
TASK = Task(plan="0" * 64, round=0, verb="train")


def say(text: str) -> None:
    print(text, flush=True)
    LINES.append(text)


# -- a round against bare PyTorch ---------------------------------------------------------------------------


def bench_round(repeats: int, steps: int) -> None:
    """One federated round of one site against a plain loop over the same number of steps."""
    import nibabel as nib
    import torch
    from torch import nn

    from wardround.coordinator import checkpoint
    from wardround.coordinator.rounds import Run, _first_weights, describe, one_round
    from wardround.core.rundir import EventLog, RunDir, read_events
    from wardround.planning.plan import Plan, load_plan
    from wardround.site.device import choose_machine, settle
    from wardround.site.hospital import Source
    from wardround.site.loss import make_loss
    from wardround.site.optimiser import make_optimiser
    from wardround.site.patches import Batches
    from wardround.site.training import make_network
    from wardround.site.worker import Setting, Site

    folder = Path(tempfile.mkdtemp(prefix="wardround-bench-"))
    random = np.random.default_rng(0)
    for number in range(8):  # the size of hippocampus crops
        label = np.zeros((36, 50, 36), np.uint8)
        label[12:20, 10:24, 14:20], label[12:20, 24:40, 14:20] = 1, 2
        image = (random.normal(size=label.shape) + label).astype(np.float32)
        for kind, array in (("images", image), ("masks", label)):
            (folder / "data" / kind).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "data" / kind / f"c{number}.nii.gz")
    values = load_plan(ROOT / "examples/hippocampus/plan.yaml").model_dump(mode="json")
    values["training"]["steps"] = steps
    values["rounds"] |= {"limit": 1000, "quorum": 1, "patience": 1000}
    plan = Plan.model_validate(values)
    site = Site(plan, Setting("A", (Source(folder / "data"),), folder / "site", folder / "store"))
    place = RunDir(folder / "run")
    place.make()

    def ask(task, tensors, sites) -> Iterator:  # type: ignore[no-untyped-def]
        yield from (site.answer(task, tensors) for _ in sites)

    run = Run(plan, place, ask, ("A",), ("A",), EventLog(place.events))
    describe(run)
    point = _first_weights(run)
    settle(1, True)
    machine = choose_machine(plan, "cpu", folder / "store")
    batches = Batches(site._hospital.part("train"), plan.training, 0, "A")
    ready = [batches.make(update) for update in range(steps)]
    network = make_network(plan, machine, None).train()
    optimiser, loss_of = make_optimiser(plan, network), make_loss(plan.training.loss)

    def bare() -> float:
        begin = time.perf_counter()
        for image, label, _ in ready:
            optimiser.zero_grad(set_to_none=True)
            with machine.autocast():
                outputs = network(image)
            loss_of(outputs, label).backward()
            nn.utils.clip_grad_norm_(network.parameters(), plan.training.clip)
            optimiser.step()
        return time.perf_counter() - begin

    # One core for everything: the thread that prepares batches must not hide on another one.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    bare()
    plain, ours = [], []
    for _ in range(repeats):
        plain.append(bare())
        point = one_round(run, point)
        ended = [event for event in read_events(place.events) if event["event"] == "round_ended"][-1]
        ours.append(ended["seconds"]["total"] - ended["seconds"]["validate_wait"])
    ratios = [b / a for a, b in zip(plain, ours, strict=True)]
    trained = [e["facts"]["seconds"] for e in read_events(place.events)
               if e["event"] == "site_replied" and e["verb"] == "train"]  # fmt: skip
    waits = [seconds["data"] / seconds["total"] for seconds in trained]
    say(f"round over bare PyTorch ({steps} steps, {machine.precision}, 1 core, {repeats} pairs): "
        f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}   (goal <= 1.05)")  # fmt: skip
    say(f"  the round: load, {steps} augmented batches, steps, checks, private state, reply, fold, checkpoint; "
        "validation apart; bare: the same steps on batches that lie ready")  # fmt: skip
    say(f"site's time waiting for data: median {100 * statistics.median(waits):.1f} %   (goal <= 5 %)")
    assert torch.get_num_threads() == 1
    assert checkpoint.load(place) is not None


# -- aggregation --------------------------------------------------------------------------------------------


def write_contributions(folder: Path, sites: int, encoding: Encoding = PLAIN) -> list[Path]:
    from wardround.core.parcels import pack_as
    from wardround.core.weights import Part, write_tensors

    random, files = np.random.default_rng(0), []
    base = {f"t{i}": random.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(SHAPES)}
    for site in range(sites):
        arrays = {k: v + np.float32(site) for k, v in base.items()}
        files.append(folder / f"{encoding.kind}-{site:02d}.safetensors")
        write_tensors(files[-1], *pack_as({"weights": Part(arrays, site + 1.0)}, encoding))
    return files


def bench_fold(repeats: int) -> None:
    """20 contributions of 31 M parameters against one pass of in-place additions over the same files."""
    from wardround.aggregation.fold import fold_files

    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        files = write_contributions(Path(name), 20)
        one_pass = passing(files)

        def folding() -> float:
            begin = time.perf_counter()
            fold_files(files)
            return time.perf_counter() - begin

        pair("the fold", folding, one_pass, repeats)
        pair("the fold with checks and norms", collecting(files, files[0]), one_pass, repeats)
        for kind in ("int8", "bf16"):
            encoded = write_contributions(Path(name), 20, Encoding(kind=kind, updates=True))
            pair(f"the fold with checks and norms of {kind} updates", collecting(encoded, files[0]), one_pass, repeats)
            say(f"  peak memory of a coordinator folding 20 of them: {peak_of_fold(encoded):.0f} MB")
            for file in encoded:
                file.unlink()
        peaks = [peak_of_fold(files[:n]) for n in (3, 20)]
        say(f"peak memory of a coordinator folding 31 M parameters: {peaks[0]:.0f} MB with 3 sites, "
            f"{peaks[1]:.0f} MB with 20   (x {peaks[1] / peaks[0]:.2f}; the model is 124 MB)")  # fmt: skip


def pair(title: str, ours: Callable[[], float], one_pass: Callable[[], float], repeats: int) -> None:
    one_pass(), ours()
    ratios = [ours() / one_pass() for _ in range(repeats)]
    say(
        f"aggregation of 20 x 31 M parameters over one in-place addition pass, {title}: median "
        f"{statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}   (goal <= 1.2)"
    )


def passing(files: Sequence[Path]) -> Callable[[], float]:
    """One pass of in-place additions of float32 arrays in mapped files."""
    from wardround.core.weights import unpack

    def one_pass() -> float:
        total = {k: np.zeros(v.shape, v.dtype) for k, v in unpack(files[0])["weights"].arrays.items()}
        begin = time.perf_counter()
        for file in files:
            for key, array in unpack(file)["weights"].arrays.items():
                total[key] += array
        return time.perf_counter() - begin

    return one_pass


def collecting(files: Sequence[Path], model: Path) -> Callable[[], float]:
    """The fold as a round does it, with ``model`` as what was sent."""
    from wardround.aggregation.plain import Plain
    from wardround.core.contracts import Aggregate
    from wardround.core.messages import Answer, InitFacts, Reply

    names = [file.stem for file in files]
    answers = [Answer(Reply(task=TASK.id, site=name, facts=InitFacts(parameters=1)), file)
               for name, file in zip(names, files, strict=True)]  # fmt: skip

    def whole() -> float:
        result = Plain().collect(lambda *_: iter(answers), TASK, model, names, 20)
        assert isinstance(result, Aggregate), result
        return result.seconds["fold"]

    return whole


# -- encodings ----------------------------------------------------------------------------------------------


def bench_encoding(repeats: int) -> None:
    """What it costs a site to encode 31 M parameters, and what zstd brings on top."""
    from wardround.core.containers import compress, expand
    from wardround.core.weights import Part, write_tensors
    from wardround.planning.transfer import Transfer
    from wardround.site.post import leaving

    random = np.random.default_rng(0)
    sent = {f"t{i}": random.standard_normal(shape, dtype=np.float32) for i, shape in enumerate(SHAPES)}
    # Steps of AdamW have much the same size everywhere; those of SGD follow the gradients. In between: a Laplacian.
    after = {k: v + random.laplace(scale=1e-3, size=v.shape).astype(np.float32) for k, v in sent.items()}
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as name:
        file, small = Path(name) / "plain", Path(name) / "small"
        for up in ("fp32", "bf16", "int8"):
            transfer, kept, encoding, writing = Transfer(up=up), {}, [], []
            for _ in range(repeats):
                begin = time.perf_counter()
                packed, kept = leaving({"weights": Part(after, 1.0)}, sent, transfer, kept)
                middle = time.perf_counter()
                write_tensors(file, *packed)
                encoding.append(middle - begin), writing.append(time.perf_counter() - middle)
            size = file.stat().st_size
            say(
                f"a site's contribution of 31 M parameters in {up}: {size / 1e6:.1f} MB; encoded with error feedback "
                f"in {statistics.median(encoding):.2f} s, written and synced in {statistics.median(writing):.2f} s"
            )
            for level in (1, 3):
                begin = time.perf_counter()
                compress(file, small, level)
                middle = time.perf_counter()
                expand(small, Path(name) / "again", 1 << 30)
                end = time.perf_counter()
                packing, unpacking = (size / 1e6 / (b - a) for a, b in ((begin, middle), (middle, end)))
                say(
                    f"  zstd level {level} on top: {small.stat().st_size / size:.2f} of that; "
                    f"{packing:.0f} MB/s in, {unpacking:.0f} MB/s out"
                )


def peak_of_fold(files: Sequence[Path]) -> float:
    # VmHWM, not ru_maxrss: the latter starts at what this process had when it forked.
    code = (
        "import sys; from pathlib import Path; from wardround.aggregation.fold import fold_files; "
        "fold_files([Path(p) for p in sys.argv[1:]]); "
        "print([line for line in open('/proc/self/status') if line.startswith('VmHWM')][0].split()[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path, help="also write the lines to this file, as Markdown")
    options = parser.parse_args()
    say(
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    bench_fold(options.repeats)
    bench_encoding(options.repeats)
    bench_round(options.repeats, options.steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    say(f"peak memory of the site that trained: {peak:.0f} MB")
    if options.out:
        text = (
            "# Speed\n\nPrinted by `make bench` (`python benchmarks/bench.py`).\n\n```\n" + "\n".join(LINES) + "\n```\n"
        )
        options.out.write_text(text, encoding="utf-8")
    print(json.dumps({"lines": len(LINES)}), file=sys.stderr)


if __name__ == "__main__":
    main()
