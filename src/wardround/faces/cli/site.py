"""``wardround site``: a hospital's commands. Here those that join and serve; the others are mounted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wardround.faces.cli import site_consent, site_doctor, site_results, site_service

if TYPE_CHECKING:
    from wardround.core.audit import SignedHead
    from wardround.runtimes.https.home import Home

Dir = Annotated[Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")]
LargestBatch = Annotated[
    int | None,
    typer.Option(
        "--largest-batch",
        min=0,
        max=4096,
        help="Samples that fit into memory at once: larger batches are taken in parts. 0: all fit.",
    ),
]
Processes = Annotated[
    int | None, typer.Option(min=1, max=64, help="Processes that train together, each with its threads or a GPU.")
]
On = Annotated[str, typer.Option("--on", help="Where this site computes: local, ray or ray://HOST:PORT.")]
Gpus = Annotated[float, typer.Option(min=0, max=64, help="With --on ray: of a node, for this site.")]

site_app = typer.Typer(
    name="site",
    help="A hospital in a federation: join, approve, serve. Everything that is kept lies in one folder.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@site_app.command()
def join(  # noqa: PLR0913 - one for each option
    invitation: Annotated[str, typer.Argument(help="The line that the coordinator's owner sent; - reads it.")],
    data: Annotated[Path, typer.Option("--data", help="The dataset's folder; see `wardround check`.")],
    directory: Annotated[Path, typer.Option("--dir", help="The site folder to make.")] = Path("wardround-site"),
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; default all cores.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    largest_batch: LargestBatch = None,
    processes: Processes = None,
    on: On = "local",
    gpus: Gpus = 0,
) -> None:
    """Become a site of a federation. The key is made here; only its public half is sent.

    Nothing of the dataset leaves by joining. Interrupted, the same command goes on.

    Examples: `wardround site join wardround-QUJD... --data /data/ms`,
    `wardround site join - --data /data/ms --dir /srv/ward < invitation.txt`,
    `wardround site join wardround-QUJD... --data /data/ms --on ray --gpus 4`
    """
    from wardround.data.dataset import open_dataset  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https import joining  # noqa: PLC0415

    _describe(open_dataset(data))
    options: dict[str, Any] = {"device": device, "largest_batch": largest_batch or None}
    options |= where_it_computes(on, gpus, processes)
    options |= {} if threads is None else {"threads": threads}
    home = joining.join(_read(invitation), data, directory, options)
    settings = home.settings()
    print(f"joined    {_plain(settings.federation.name)} as {settings.name}")
    print(f"folder    {home.root} (only you can read it)")
    print("next      wardround site doctor, then wardround site serve (or wardround site service --install)")


@site_app.command()
def serve(directory: Dir = None, largest_batch: LargestBatch = None) -> None:
    """Ask the coordinator for work and do what was approved, until stopped. Outgoing HTTPS only.

    It may be stopped or killed at any time, and goes on when started again. Ctrl-C and SIGTERM stop it at
    once. What it does is on stderr (JSON lines, readable on a terminal) and in log.jsonl. What is given with
    --largest-batch is kept in site.json and holds from then on.

    Examples: `wardround site serve`, `wardround site serve --dir /srv/ward --largest-batch 2`
    """
    import os  # noqa: PLC0415 - keeps the command line's start fast
    import signal  # noqa: PLC0415

    from wardround.core.errors import Interrupted  # noqa: PLC0415
    from wardround.faces.report.own import write_own_report  # noqa: PLC0415
    from wardround.runtimes.https.agent import Agent, Parts  # noqa: PLC0415
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    os.umask(0o077)
    home = Home.find(directory)
    home.check_carrier()
    lock = home.lock()
    keep_batch(home, largest_batch)
    _log(home)
    signal.signal(signal.SIGTERM, _stop)
    try:
        Agent(home, Parts(report=lambda place, digest: write_own_report(place.root, digest))).serve()
    except KeyboardInterrupt as error:
        raise Interrupted(f"stopped; nothing is lost. Go on with: wardround site serve --dir {home.root}") from error
    finally:
        os.close(lock)


@site_app.command()
def rekey(
    invitation: Annotated[
        str | None, typer.Argument(help="Where the present key is lost, expired or revoked: an invitation; - reads it.")
    ] = None,
    directory: Dir = None,
) -> None:
    """Give this site a new key; runs, approvals and the log stay. `serve` does it by itself a month before the end.

    A `serve` that runs takes the new key up by itself.

    Examples: `wardround site rekey`, `wardround site rekey wardround-QUJD... --dir /srv/ward`
    """
    from wardround.core.audit import AuditLog  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https import joining  # noqa: PLC0415
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    home = Home.find(directory)
    home.check_carrier()
    settings = joining.rekey(home, None if invitation is None else _read(invitation))
    AuditLog(home.audit).append("key_renewed", expires=settings.expires)
    print(f"{settings.name} has a new key, good until {_day(settings.expires)}")


@site_app.command()
def status(
    directory: Dir = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document for programs.")] = False,
) -> None:
    """Who this site is, whether it is served, and how its plans stand. Asks nobody.

    Example: `wardround site status`
    """
    import json  # noqa: PLC0415 - keeps the command line's start fast

    from wardround.runtimes.https.home import Home  # noqa: PLC0415
    from wardround.runtimes.https.site_status import site_status  # noqa: PLC0415

    found = site_status(Home.find(directory))
    if json_:
        print(json.dumps(found, ensure_ascii=False))
        return
    for name, value in found.items():
        if value not in ("", None, {}, []):
            text = ", ".join(f"{n} {key}" for key, n in value.items()) if isinstance(value, dict) else value
            print(f"{name:<12}{_plain(str(text))}")


def _last_head(folder: Path) -> SignedHead | None:
    from wardround.runtimes.https.heads import last_signed  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    Home(folder).check_carrier()
    return last_signed(folder)


site_consent.register(site_app, _last_head)
for part in (site_doctor, site_results, site_service):
    part.register(site_app)


def where_it_computes(on: str, gpus: float, processes: int | None) -> dict[str, Any]:
    """What `SiteSettings` hold of an engine; as many processes as whole GPUs where nobody says.

    Raises:
        InputError: no such engine, it is not installed, or GPUs are asked for without it or in odd shares.
    """
    from wardround.core.errors import InputError  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.planning.sites import processes_of, whole_gpus  # noqa: PLC0415
    from wardround.runtimes.engines import check_engine  # noqa: PLC0415

    check_engine(on)
    try:
        whole_gpus(gpus)
    except ValueError as error:
        raise InputError(f"--gpus {gpus:g}: {error}") from error
    if gpus and on == "local":
        raise InputError("--gpus is for --on ray; on this machine say --processes, one for each GPU")
    return {"on": on, "gpus": gpus, "processes": processes_of(processes, gpus)}


def keep_batch(home: Home, largest_batch: int | None) -> None:
    """Write what `serve --largest-batch` said into ``site.json``; None: it said nothing."""
    if largest_batch is not None:
        home.write_settings(home.settings().model_copy(update={"largest_batch": largest_batch or None}))


def _read(invitation: str) -> str:
    return sys.stdin.read(4096) if invitation == "-" else invitation


def _describe(dataset: Any) -> None:
    """What is in the folder, before anybody is asked anything."""
    masks = sum(case.mask is not None for case in dataset.cases)
    names = ", ".join(name or "one without a name" for name in dataset.modalities)
    print(f"dataset   {dataset.root}: {dataset.layout}, {len(dataset.cases)} cases, {masks} with a mask; {names}")
    for code in sorted({note.code for note in dataset.notes}):
        print(f"          {sum(note.code == code for note in dataset.notes)} x {code}")
    print(f"          `wardround check {dataset.root}` reads every case and lists all that is wrong")


def _log(home: Home) -> None:
    """To stderr, and as JSON lines to a file that cannot fill the disk."""
    from logging.handlers import RotatingFileHandler  # noqa: PLC0415 - keeps the command line's start fast

    from wardround.runtimes.https.logs import Json, set_up  # noqa: PLC0415

    handler = RotatingFileHandler(home.log, maxBytes=10 << 20, backupCount=3, encoding="utf-8")
    handler.setFormatter(Json())
    set_up().addHandler(handler)


def _stop(_number: int, _frame: object) -> None:
    raise SystemExit(0)


def _day(moment: int) -> str:
    import time  # noqa: PLC0415 - keeps the command line's start fast

    return time.strftime("%Y-%m-%d", time.localtime(moment))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
