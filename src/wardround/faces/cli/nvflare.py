"""``wardround nvflare``: the same runs in a federation that NVFlare carries. See docs/how-to/nvflare.md."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wardround.faces.cli.site import Gpus, LargestBatch, On, Processes, where_it_computes

nvflare_app = typer.Typer(
    name="nvflare",
    help="Run a plan in an NVFlare federation: jobs without code, approved at each site as on our own network.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Kit = Annotated[Path, typer.Argument(metavar="KIT", help="The startup kit: the folder with startup and local in it.")]
Sites = Annotated[str, typer.Option("--sites", help="A,B,C: NVFlare's names of the sites, in fold order.")]


@nvflare_app.command()
def provision(
    name: Annotated[str, typer.Option("--name", help="Of the federation.")],
    server: Annotated[str, typer.Option("--server", help="Host name at which the sites reach the server.")],
    sites: Sites,
    admin: Annotated[str, typer.Option("--admin", help="The administrator's e-mail address.")],
    out: Annotated[Path, typer.Option("--out", help="A new or empty folder for the kits.")],
    org: Annotated[str, typer.Option("--org", help="Organisation in the certificates.")] = "wardround",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="The server's one open port.")] = 8002,
) -> None:
    """Make the startup kits of a new NVFlare federation: no job may bring code, and only our classes are allowed.

    Example: `wardround nvflare provision --name study --server ward.example.org --sites berlin,lyon,porto
    --admin anna@example.org --out kits`
    """
    from wardround.runtimes.nvflare import kits  # noqa: PLC0415 - keeps the command line's start fast

    names = _names(sites)
    made = kits.provision(name, server, port, names, (admin, org), out)
    print(f"kits     {made} (they hold private keys: send each to its owner as you would a password)")
    print(f"server   wardround nvflare server {made / server} --dir DIR, then start {server}/startup/start.sh")
    print("sites    wardround nvflare site KIT --data DATASET --dir DIR, then start KIT/startup/start.sh")
    print(f"next     wardround nvflare job PLAN --sites {','.join(names)} --out JOB")


@nvflare_app.command()
def server(
    kit: Kit,
    directory: Annotated[Path, typer.Option("--dir", help="The coordinator's folder: made where it is not there.")],
    name: Annotated[str, typer.Option("--name", help="Of the federation, for people.")] = "",
) -> None:
    """Prepare the server's startup kit, and the coordinator's folder that keeps runs, logs and models.

    Example: `wardround nvflare server kits/study/prod_00/ward.example.org --dir /srv/federation`
    """
    from wardround.runtimes.https.office import found_office, open_office  # noqa: PLC0415 - starts fast
    from wardround.runtimes.nvflare import kits  # noqa: PLC0415
    from wardround.runtimes.nvflare.places import URL, ServerPlace, write_place  # noqa: PLC0415

    local = kits.local_of(kit, "server")
    office = open_office(directory) if (directory / "federation.json").is_file() else found_office(directory, URL, name)
    office.close()
    done = kits.prepare(kit, "server")
    print(f"wrote    {write_place(local, ServerPlace(folder=str(directory.resolve())))}")
    print(*(f"wrote    {line}" for line in done), sep="\n")
    print(f"folder   {directory.resolve()} (only you can read it; back it up)")
    print(f"follow   wardround coordinator status {directory}")


@nvflare_app.command()
def site(  # noqa: PLR0913 - one for each option
    kit: Kit,
    data: Annotated[Path, typer.Option("--data", help="The dataset's folder; see `wardround check`.")],
    directory: Annotated[Path, typer.Option("--dir", help="The site folder: approvals, policy, log.")],
    threads: Annotated[int | None, typer.Option(min=1, max=1024, help="Processor threads; default all cores.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto",
    largest_batch: LargestBatch = None,
    processes: Processes = None,
    on: On = "local",
    gpus: Gpus = 0,
) -> None:
    """Prepare a site's startup kit: which dataset, which site folder. No job can name either.

    Where IT keeps the kit's files itself, it can write the lines that are printed by hand.

    Example: `wardround nvflare site kits/berlin --data /data/ms --dir /srv/ward`
    """
    from wardround.data.dataset import open_dataset  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https.home import Home  # noqa: PLC0415
    from wardround.runtimes.nvflare import kits  # noqa: PLC0415
    from wardround.runtimes.nvflare.places import SitePlace, write_place  # noqa: PLC0415
    from wardround.site.policy import default_policy  # noqa: PLC0415
    from wardround.site.private_files import write_private  # noqa: PLC0415

    local, found, home = kits.local_of(kit, "site"), open_dataset(data), Home(directory.resolve())
    home.make()
    if not home.policy.exists():
        write_private(home.policy, default_policy().encode())
    given = {} if threads is None else {"threads": threads}
    place = SitePlace.model_validate(
        {
            "folder": str(home.root),
            "data": str(data.resolve()),
            "device": device,
            "largest_batch": largest_batch or None,
            **where_it_computes(on, gpus, processes),
            **given,
        }
    )
    done = kits.prepare(kit, "site")
    print(f"dataset  {found.root}: {found.layout}, {len(found.cases)} cases")
    print(f"wrote    {write_place(local, place)}")
    print(*(f"wrote    {line}" for line in done), sep="\n")
    print(f"policy   {home.policy}: what this hospital allows, whatever is approved")
    print(f"next     start {kit}/startup/start.sh; when a job came: wardround site requests --dir {directory}")


@nvflare_app.command()
def job(
    plan: Annotated[Path, typer.Argument(help="The plan, YAML or JSON.")],
    sites: Sites,
    out: Annotated[Path, typer.Option("--out", help="The job's folder, to make.")],
) -> None:
    """Write a job for NVFlare: configuration and the plan, no code. Submit it with `wardround nvflare keep`.

    Example: `wardround nvflare job plan.yaml --sites berlin,lyon,porto --out job`
    """
    from wardround.planning.plan import load_plan  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.nvflare.job import ALLOWED, write_job  # noqa: PLC0415

    loaded = load_plan(plan)
    write_job(loaded, _names(sites), out)
    print(f"job      {out}")
    print(f"digest   {loaded.digest()}")
    print("allow    each site's local/resources.json must hold, unless `wardround nvflare site` wrote it:")
    print(f'           "class_allow_list": ["{ALLOWED["site"]}"]')
    print(f'         the server\'s: "class_allow_list": ["{ALLOWED["server"]}"]')
    print('         and every local/authorization.json "byoc": "none", for project_admin too')
    print(f"submit   wardround nvflare keep {out} --admin KIT --dir DIR")
    print(f"sites    approve with: wardround site approve {loaded.digest()[:12]}")


@nvflare_app.command()
def keep(
    folder: Annotated[Path, typer.Argument(metavar="JOB", help="The folder that `wardround nvflare job` wrote.")],
    admin: Annotated[Path, typer.Option("--admin", help="The administrator's startup kit.")],
    directory: Annotated[Path, typer.Option("--dir", help="The coordinator's folder, on this machine.")],
) -> None:
    """Submit a job on the server's machine and keep its run going, until it is over: exit code 0, or 4 if it failed.

    When the job or the server dies, the same job is submitted again as soon as the server and enough sites are
    there, and goes on from the newest checkpoint. Stop it at any time; started again, it goes on. To end the run for
    good: `wardround coordinator abort`.

    Example: `wardround nvflare keep job --admin kits/anna@example.org --dir /srv/federation`
    """
    import time  # noqa: PLC0415 - keeps the command line's start fast

    from wardround.core.errors import InputError  # noqa: PLC0415
    from wardround.faces.report.page import write_report  # noqa: PLC0415
    from wardround.runtimes.https.networked import run_dir  # noqa: PLC0415
    from wardround.runtimes.https.office import open_office  # noqa: PLC0415
    from wardround.runtimes.nvflare.job import job_name, read_job  # noqa: PLC0415
    from wardround.runtimes.nvflare.keeping import Keeper  # noqa: PLC0415

    try:
        from wardround.runtimes.nvflare.keeper import FlareNetwork  # noqa: PLC0415
    except ImportError as error:
        raise InputError("NVFlare is not installed: pip install 'wardround[nvflare]'") from error
    plan, names = read_job(folder)
    office, network = open_office(directory), FlareNetwork(admin)
    keeper = Keeper(
        office, network, plan, names, folder, lambda text: print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
    )
    try:
        while (state := keeper.step(job_name(plan))) is None:
            time.sleep(1)
    finally:
        network.close()
        office.close()
    place = run_dir(directory, plan.digest())
    write_report(place)
    print(f"the run is {state}: {place.root}")
    sys.exit(0 if state == "ended" else 4)


def _names(text: str) -> tuple[str, ...]:
    from wardround.runtimes.https.people_wire import member_name  # noqa: PLC0415 - keeps the command line's start fast

    return tuple(member_name(name.strip()) for name in text.split(",") if name.strip())
