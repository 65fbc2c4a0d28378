"""``wardround adapt``: the model of a run, tuned on a few labelled cases of a hospital that did not train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.core.rundir import RunDir
from wardround.faces.cli.use import Device

if TYPE_CHECKING:
    from collections.abc import Callable

    from wardround.site.adapt import Adapted


def adapt(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory.")],
    data: Annotated[Path, typer.Option("--data", help="The dataset folder of the new hospital.")],
    cases: Annotated[int, typer.Option("--cases", min=2, help="So many labelled cases are used.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the model; default RUN/adapted/<dataset folder>.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, max=100_000, help="Optimiser steps.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=1e-9, max=10, help="Learning rate, constant.")] = None,
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = Device.auto,
) -> None:
    """Tune the final model on a few labelled cases, and keep that only if held-out cases among them improve.

    Only the plan's private tensors are tuned where it has any, else all. A quarter of the cases are not trained
    on and decide. The folder that is written works with `evaluate` and `predict`; adapt.json in it names the
    cases that were used: scores on those flatter the model.

    Example: `wardround adapt runs/ms --data ../hospital-5 --cases 10 --out hospital-5-model`
    """
    from wardround.site.adapt import Effort  # noqa: PLC0415 - brings torch
    from wardround.site.adapt import adapt as carry_out  # noqa: PLC0415

    place = (out or directory / "adapted" / data.resolve().name).resolve()
    with _progress() as step:
        done = carry_out(
            RunDir(directory.resolve()), data, place, Effort(cases, steps, rate), device.value, progress=step
        )
    for line in _lines(done, cases):
        print(line)
    print(f"model: {place}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("adapting", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _lines(done: Adapted, wanted: int) -> Iterator[str]:
    used = len(done.trained_on) + len(done.decided_on)
    fewer = f" (of {wanted} wanted)" if used < wanted else ""
    what = f"{len(done.tensors)} tensors" if len(done.tensors) > 1 else "1 tensor"
    yield f"tuned {what} for {done.updates} steps on {len(done.trained_on)} cases{fewer}"
    gain = f"Dice {_number(done.before)} before, {_number(done.after)} after"
    verdict = "better, so the tuned model is kept" if done.kept else "not better, so the model is left as it was"
    yield f"decided on {len(done.decided_on)} other cases: {gain}: {verdict}"
    if done.others:
        yield (
            f"on {done.others} cases that were not used: Dice {_number(done.others_before)} as it was, "
            f"{_number(done.others_after)} of the model that is written"
        )
    else:
        yield "no labelled case is left to say how good it is"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
