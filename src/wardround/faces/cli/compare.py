"""``wardround compare``: strategies beside each other, at equal updates, in one table."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.core.errors import InputError
from wardround.core.rundir import RunDir
from wardround.core.weights import write_bytes
from wardround.faces.cli.studies import Study, create_study, variants_of
from wardround.faces.report.comparison import LOCAL, OTHERS, POOLED, Line, lines
from wardround.faces.report.gates import Gate, gates
from wardround.faces.report.shown import NOTHING, decimal, duration, size
from wardround.metrics.bootstrap import Interval
from wardround.planning.plan import Plan, load_plan
from wardround.planning.sites import load_sites

COLUMNS = ("mean", "SD of seeds", "worst site", "gap", "lesion F1", "updates", "sent", "time")


def compare(
    plan: Annotated[Path, typer.Argument(help="The plan that all variants start from.")],
    sites: Annotated[Path, typer.Option("--sites", help="The sites file: which folders play the hospitals.")],
    strategies: Annotated[
        str, typer.Option("--strategies", help="Names, with commas between: fedavg,fedprox,scaffold.")
    ] = "",
    variant: Annotated[
        list[str] | None,
        typer.Option("--variant", help="NAME: {section: {field: value}}; replaces whole sections of the plan."),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, max=100, help="Every variant with seeds 0 to N-1.")] = 3,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="Also train the first variant without each site in turn.")
    ] = False,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where relative folders of the sites file begin.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The study's folder; default runs/compare-<time>.")] = None,
) -> None:
    """Train every variant with every seed, local-only and pooled beside them, and print one table.

    All take the plan's number of rounds (nothing stops early), so that the updates are equal. Go on after any
    interruption with `wardround resume DIR`.

    Example: `wardround compare examples/hippocampus/plan.yaml --sites examples/hippocampus/sites.yaml
    --data-root ../shared/data --strategies fedavg,fedprox,scaffold --seeds 3 --out runs/compare`
    """
    names = [name.strip() for name in strategies.split(",") if name.strip()]
    variants = variants_of(load_plan(plan), names, variant or [])
    place = RunDir((out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}").resolve())
    begin(place, variants, load_sites(sites, data_root), range(seeds), ["pooled", "local"], leave_one_out)


def begin(
    place: RunDir, variants: dict[str, Plan], sites: Any, seeds: range, baselines: list[str], leave_one_out: bool
) -> None:
    """Lay a study out and carry it out."""
    from wardround.faces.cli.runs import go_on  # noqa: PLC0415 - runs resumes studies

    if not variants:
        raise InputError("nothing to compare: give --strategies or --variant")
    create_study(place, {n: to_the_end(p) for n, p in variants.items()}, sites, seeds, baselines, leave_one_out)
    go_on(place)


def to_the_end(plan: Plan) -> Plan:
    """The plan without early stopping."""
    rounds = plan.rounds.model_copy(update={"patience": plan.rounds.limit})
    return plan.model_copy(update={"rounds": rounds})


def conclude(place: RunDir, study: Study, console: Console) -> None:
    """Print the table over all runs of a study and write it beside them."""
    table = lines((m.variant, m.left_out, RunDir(place.root / m.folder)) for m in study.members)
    answers = gates(table)
    for drawn in _drawn(table):
        console.print(drawn)
    for words in filter(None, _unlike(table)):
        console.print(Text(words))
    for answer in answers:
        console.print(Text(f"{'holds' if answer.holds else 'DOES NOT HOLD'}: {answer.question} ({answer.seen})"))
    write_bytes(place.root / "comparison.md", markdown(table, answers).encode())
    place.write_json("comparison.json", {"lines": [_plain(line) for line in table]})
    print(f"table: {place.root / 'comparison.md'}")


def _drawn(table: list[Line]) -> list[Table]:
    scores = Table(title="Test Dice, mean over the seeds [95 % interval over patients]", title_justify="left")
    work = Table(title="By site, and the work of one run", title_justify="left")
    for drawn, names in ((scores, COLUMNS[:5]), (work, (*_sites(table), *COLUMNS[5:]))):
        drawn.add_column("variant")
        for name in names:
            drawn.add_column(name, justify="right")
    for line in table:
        cells = _cells(line)
        scores.add_row(Text(line.name), *map(Text, cells[:5]))
        work.add_row(Text(line.name), *(decimal(line.sites.get(s)) for s in _sites(table)), *cells[5:])
    return [scores, work]


def markdown(table: list[Line], answers: list[Gate]) -> str:
    """The table and the answers as text for a document."""
    sites = _sites(table)
    rows = ["| " + " | ".join(["variant", *COLUMNS, *sites]) + " |", "|---" * (1 + len(COLUMNS) + len(sites)) + "|"]
    rows += [
        "| " + " | ".join([line.name, *_cells(line), *(decimal(line.sites.get(site)) for site in sites)]) + " |"
        for line in table
    ]
    asked = [f"- {'holds' if a.holds else '**does not hold**'}: {a.question} ({a.seen})" for a in answers]
    return "\n".join([*rows, "", *_unlike(table), *asked, ""])


def _unlike(table: list[Line]) -> list[str]:
    names = ", ".join(line.name for line in table if not line.like_baselines)
    return [f"Trained in another way than the baselines, so not held against them: {names}.", ""] if names else []


def _sites(table: list[Line]) -> list[str]:
    return list(dict.fromkeys(site for line in table for site in line.sites))


def _cells(line: Line) -> list[str]:
    return [
        _interval(line.mean, fmean(line.sites.values())),
        decimal(line.spread),
        f"{line.worst_site} {_interval(line.worst, line.sites[line.worst_site])}",
        decimal(line.gap),
        decimal(line.lesion_f1),
        str(line.updates),
        NOTHING if line.name in (LOCAL, OTHERS, POOLED) else size(line.sent),
        duration(line.seconds),
    ]


def _interval(value: Interval | None, alone: float) -> str:
    return decimal(alone) if value is None else f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _numbers(value: Interval | None, alone: float) -> dict[str, float | None]:
    return {"value": alone, "low": None, "high": None} if value is None else dict(vars(value))


def _plain(line: Line) -> dict[str, Any]:
    return {
        "variant": line.name,
        "seeds": line.seeds,
        "sites": dict(line.sites),
        "mean": _numbers(line.mean, fmean(line.sites.values())),
        "worst": {"site": line.worst_site, **_numbers(line.worst, line.sites[line.worst_site])},
        "spread": line.spread,
        "lesion_f1": line.lesion_f1,
        "updates": line.updates,
        "bytes": None if line.name in (LOCAL, OTHERS, POOLED) else line.sent,
        "seconds": line.seconds,
    }
