"""``wardround coordinator``: a federation's own side, for its owner and for the people who work with it.

DIR is the coordinator's folder, or, away from its machine, the folder that `join` made.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from wardround.faces.cli import coordinator_log, coordinator_serve, coordinator_status

coordinator_app = typer.Typer(
    name="coordinator",
    help="A federation's own side: invite sites, submit plans, serve. All of it lies in one folder.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
coordinator_serve.register(coordinator_app)
coordinator_status.register(coordinator_app)
coordinator_log.register(coordinator_app)

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder, or a person's (see `join`).")]
Own = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="The plan's digest, or its first 6 or more digits.")]


LEAST_DAYS = 0.05  # 72 minutes: shorter ones have ended before they are read


class Role(StrEnum):
    """Who somebody is in a federation."""

    site = "site"
    viewer = "viewer"
    researcher = "researcher"
    owner = "owner"


@coordinator_app.command()
def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    url: Annotated[
        str, typer.Option("--url", help="https://host[:port] at which the sites reach it; port 443 if none.")
    ],
    name: Annotated[str, typer.Option("--name", help="Of the federation, for people; default the host.")] = "",
    database: Annotated[
        str | None, typer.Option("--database", help="SQLAlchemy URL, as postgresql+psycopg://...; default SQLite.")
    ] = None,
) -> None:
    """Begin a federation: its keys, its certificate authority, its empty state.

    Example: `wardround coordinator init /srv/federation --url https://ward.example.org --name "MS lesions"`
    """
    from wardround.runtimes.https.office import found_office  # noqa: PLC0415 - keeps the command line's start fast

    office = found_office(directory, url, name, database)
    print(f"federation  {_plain(office.settings.name)}")
    print(f"folder      {directory.resolve()} (holds its keys: only you can read it; back it up)")
    print(f"address     {office.settings.url}")
    print(f"next        wardround coordinator invite {directory} SITE, then wardround coordinator serve {directory}")
    office.close()


@coordinator_app.command()
def invite(
    directory: Dir,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site's or person's name in the federation.")],
    role: Annotated[Role, typer.Option("--role", help="What they may do.")] = Role.site,
    days: Annotated[
        float,
        typer.Option(
            "--days", min=LEAST_DAYS, max=366, help="For how many days it is good, at least 0.05 (72 minutes)."
        ),
    ] = 7,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="Another key for somebody who joined: lost, expired or revoked.")
    ] = False,
) -> None:
    """Make an invitation, good once. It is shown now and kept nowhere.

    The invitation goes to standard output, what to write with it to standard error.

    Examples: `wardround coordinator invite /srv/federation berlin`,
    `wardround coordinator invite /srv/federation anna --role researcher`
    """
    from wardround.faces.cli.coordinator_words import invitation_words  # noqa: PLC0415
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import Invite, Invited, member_name  # noqa: PLC0415

    asked = Invite(name=member_name(name), role=role.value, days=days, rekey=rekey)
    invited = open_desk(directory).ask(asked, Invited)
    before, after = invitation_words(asked)
    print(before, file=sys.stderr)
    print(invited.invitation, flush=True)
    print(after, file=sys.stderr)


@coordinator_app.command()
def join(
    invitation: Annotated[str, typer.Argument(help="The line that the federation's owner sent; - reads it.")],
    directory: Annotated[Path, typer.Option("--dir", help="Your folder, to make.")],
) -> None:
    """Work with a federation from another machine, as viewer, researcher or owner. For a site: `wardround site join`.

    The key is made here; only its public half is sent. Interrupted, the same command goes on.

    Example: `wardround coordinator join wardround-QUJD... --dir ~/federation`
    """
    from wardround.runtimes.https.desk import join_as_person  # noqa: PLC0415

    text = sys.stdin.read(4096) if invitation == "-" else invitation
    settings = join_as_person(text, directory)
    print(f"joined  {_plain(settings.federation.name)} as {settings.role} {settings.name}")
    print(f"folder  {directory.resolve()} (holds your key: only you can read it)")
    print(f"next    wardround coordinator status {directory}")


@coordinator_app.command()
def submit(
    directory: Dir,
    plan: Annotated[Path, typer.Argument(help="The plan, YAML or JSON.")],
    sites: Annotated[
        str | None, typer.Option("--sites", help="A,B,C: whom to ask, in this order; default all, by name.")
    ] = None,
) -> None:
    """Ask the sites to run a plan. It begins when enough of them have approved; a federation runs a plan once.

    Every fault of the plan is listed. What would leave a site is printed, as each site's people will read it.

    Example: `wardround coordinator submit /srv/federation plan.yaml --sites berlin,lyon,porto`
    """
    from wardround.core.errors import InputError  # noqa: PLC0415
    from wardround.faces.cli.coordinator_words import submitted_words  # noqa: PLC0415
    from wardround.planning.plan import load_plan  # noqa: PLC0415
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import Submit, Submitted, member_name  # noqa: PLC0415

    loaded, text = load_plan(plan), plan.read_text(encoding="utf-8-sig")
    named = None if sites is None else tuple(member_name(name.strip()) for name in sites.split(",") if name.strip())
    if named == ():
        raise InputError("--sites names no site")
    answer = open_desk(directory).ask(Submit(plan=text, sites=named), Submitted)
    print(submitted_words(loaded, answer, directory))


@coordinator_app.command()
def abort(
    directory: Dir,
    run: Run,
    reason: Annotated[str, typer.Option("--reason", help="Why; the sites' people may read it.", prompt="Why")],
) -> None:
    """End a run for good, at once. Another seed makes the same study another plan, which can be submitted.

    Example: `wardround coordinator abort /srv/federation 3f2a9c --reason "wrong label values"`
    """
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import Abort, Changed, run_name  # noqa: PLC0415

    changed = open_desk(directory).ask(Abort(run=run_name(run), reason=reason[:500]), Changed)
    print(f"run {changed.plan[:12]} is {changed.state}")


@coordinator_app.command()
def resume(directory: Dir, run: Run) -> None:
    """Go on with a run that failed, after what was wrong has been mended. All others go on by themselves.

    Example: `wardround coordinator resume /srv/federation 3f2a9c`
    """
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import Changed, Resume, run_name  # noqa: PLC0415

    changed = open_desk(directory).ask(Resume(run=run_name(run)), Changed)
    print(f"run {changed.plan[:12]} goes on as soon as enough sites take part (and `coordinator serve` runs)")


@coordinator_app.command()
def revoke(
    directory: Dir,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The site or person.")],
    reason: Annotated[str, typer.Option("--reason", help="Why.", prompt="Why")],
) -> None:
    """Serve nothing more to a site or person, from this moment. What was contributed stays in models: they are listed.

    Example: `wardround coordinator revoke /srv/federation berlin --reason "laptop stolen"`
    """
    from wardround.runtimes.https.desk import open_desk  # noqa: PLC0415
    from wardround.runtimes.https.people_wire import Revoke, Revoked, member_name  # noqa: PLC0415

    revoked = open_desk(directory).ask(Revoke(name=member_name(name), reason=reason[:500]), Revoked)
    print(f"{name} is revoked: nothing is served to its key, and its open invitation is void")
    for digest in revoked.runs:
        print(f"the model of run {digest[:12]} contains its contributions; nothing is unlearned")
    print(f"if it may come back: wardround coordinator invite {directory} {name} --rekey")


@coordinator_app.command()
def backup(
    directory: Own,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write, as backup.tar.")],
    blobs: Annotated[
        bool, typer.Option("--blobs", help="Also models and answers on their way; sites send them again without.")
    ] = False,
) -> None:
    """Write keys, certificate authority, state and runs into one file, also while serving.

    Whoever has the file can play the coordinator: keep it as you keep the folder.

    Example: `wardround coordinator backup /srv/federation /mnt/safe/federation-$(date +%F).tar`
    """
    from wardround.faces.report.shown import size  # noqa: PLC0415
    from wardround.runtimes.https import backup as saving  # noqa: PLC0415
    from wardround.runtimes.https.office import open_office  # noqa: PLC0415

    office = open_office(directory)
    manifest = saving.backup(office, file, blobs)
    print(f"{file}: {len(manifest.files)} files, {size(file.stat().st_size)}, readable only by you")
    if office.settings.database is not None:
        print("the state is in a database of its own, which is NOT in this file: dump it first, then back up again")
    office.close()


@coordinator_app.command()
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
) -> None:
    """Make the coordinator's folder from a backup; `serve` then continues the federation.

    Sites need not do anything: keys and address are the same. Runs go on from their newest checkpoint.

    Example: `wardround coordinator restore federation-2025-03-01.tar /srv/federation`
    """
    from wardround.runtimes.https.restore import restore as bring_back  # noqa: PLC0415

    manifest = bring_back(file, directory)
    print(f"restored {_plain(manifest.name)} as it was at {_moment(manifest.made)} into {directory.resolve()}")
    print("never serve two copies of one federation: make sure that the old one is gone")
    print(f"next  wardround coordinator serve {directory}")


def _moment(seconds: float) -> str:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
