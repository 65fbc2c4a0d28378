"""``wardround run`` and ``wardround resume``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround.core.errors import InputError, Interrupted
from wardround.core.rundir import RunDir
from wardround.faces.cli.compare import begin, conclude
from wardround.faces.cli.crossval import create_folds, folds, print_merged
from wardround.faces.cli.live import LiveRun
from wardround.faces.cli.studies import read_study
from wardround.faces.report.console import print_summary
from wardround.faces.report.page import write_report
from wardround.planning.plan import load_plan
from wardround.planning.sites import load_sites
from wardround.runtimes.assemble import carry_out, create, load_run_plan
from wardround.runtimes.engines import check_engine, move


def run(  # noqa: PLR0913 - one for each option
    plan: Annotated[Path, typer.Argument(help="The plan, YAML or JSON.")],
    sites: Annotated[Path, typer.Option("--sites", help="The sites file: which folders play the hospitals.")],
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where relative folders of the sites file begin.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run directory; default runs/<plan>-<time>.")] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option("--baseline", help="Also train `pooled`, `local` (each site alone) or `local:SITE`."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, max=2**31, help="Instead of the plan's seed.")] = None,
    cross_validate: Annotated[
        bool, typer.Option("--cross-validate", help="One federation a fold: every case is a test case once.")
    ] = False,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also train without each site in turn, and test there.")
    ] = False,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Repeat with seeds 0 to N-1.")] = 1,
    on: Annotated[
        str | None,
        typer.Option("--on", help="Where the sites are played: local (default), ray, ray://HOST:PORT."),
    ] = None,
) -> None:
    """Train one model across the sites, on this machine or on a cluster.

    Example: `wardround run examples/hippocampus/plan.yaml --sites examples/hippocampus/sites.yaml
    --data-root ../shared/data --out runs/hippocampus --baseline pooled`
    """
    loaded = load_plan(plan)
    if seed is not None:
        loaded = loaded.model_copy(update={"seed": seed})
    file, folders = load_sites(sites, data_root)
    check_engine(on or file.on)
    file = file.model_copy(update={"on": on or file.on})
    chosen = baselines([*(baseline or [])], list(folders))
    place = RunDir((out or Path("runs") / f"{plan.parent.name}-{time.strftime('%Y%m%d-%H%M%S')}").resolve())
    if leave_one_out or seeds > 1:
        if cross_validate or seed is not None:
            raise InputError("--leave-one-out and --seeds cannot be combined with --cross-validate or --seed")
        begin(place, {loaded.strategy.name: loaded}, (file, folders), range(seeds), chosen, leave_one_out)
        return
    make = create_folds if cross_validate else create
    make(place, loaded, file, folders, chosen, plan.read_text(encoding="utf-8"))
    go_on(place)


def resume(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")],
    on: Annotated[
        str | None, typer.Option("--on", help="The new address of the cluster on which it began: ray://HOST:PORT.")
    ] = None,
) -> None:
    """Go on with a run after any interruption; the result is the same as without it.

    A run of a network goes on by itself while `wardround coordinator serve` runs.

    Example: `wardround resume runs/hippocampus`
    """
    place = RunDir(directory.resolve())
    check_own(place)
    if on is not None:
        check_engine(on)
        for member in runs_in(place):
            move(member, on)
    go_on(place)


def check_own(place: RunDir) -> None:
    """Raises InputError for a run of a network, which is not carried out from its directory."""
    if not (place.root / "run.json").is_file() or place.read_json("run.json").get("simulation") is not False:
        return
    office = place.root.parent.parent
    if (office / "federation.json").is_file():
        raise InputError(
            f"{place.root} is a run of a network: it goes on by itself while the coordinator serves\n"
            f"(wardround coordinator serve {office}); wardround coordinator status {office} says where it stands, and\n"
            f"wardround coordinator resume {office} {place.root.name} goes on with it after a failure"
        )
    raise InputError(f"{place.root} holds the result of a run of a network: only its coordinator could go on with it")


def runs_in(place: RunDir) -> list[RunDir]:
    """The run, or all runs of a study or of a cross-validation."""
    study = read_study(place)
    if study is not None:
        return [RunDir(place.root / member.folder) for member in study.members]
    return folds(place) or [place]


def go_on(place: RunDir) -> None:
    """Run or resume a run directory, or all the runs in it."""
    study = read_study(place)
    if study is not None:
        for member in study.members:
            execute(RunDir(place.root / member.folder), place)
        conclude(place, study, Console())
        return
    runs = folds(place)
    for run_of_fold in runs or [place]:
        execute(run_of_fold)
    if runs:
        print_merged(place, runs, Console())


def execute(place: RunDir, study: RunDir | None = None) -> None:
    """Run what the directory asks for, then write and name the report; within a ``study`` its table comes later."""
    console = Console(stderr=True)
    loaded = load_run_plan(place)
    console.print(f"run directory {place.root}", highlight=False, markup=False, soft_wrap=True)
    try:
        with LiveRun(console, loaded.rounds.limit) as live:
            carry_out(place, live.progress, live.listen)
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"interrupted; nothing finished is lost. Go on with: wardround resume {(study or place).root}"
        ) from error
    page = write_report(place)
    if study is not None:
        return
    print_summary(place, Console())
    print(f"report: {page}")


def baselines(wanted: list[str], sites: list[str]) -> list[str]:
    """Check the names of baselines. Raises InputError with the valid ones."""
    valid = ["pooled", "local", *(f"local:{site}" for site in sites)]
    wrong = [name for name in wanted if name not in valid]
    if wrong:
        raise InputError(f"--baseline {', '.join(wrong)}: choose among {', '.join(valid)}")
    return list(dict.fromkeys(wanted))
