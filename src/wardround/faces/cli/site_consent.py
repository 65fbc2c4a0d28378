"""``wardround site requests``, ``show``, ``approve``, ``refuse``, ``revoke``, ``policy``: a person decides.

They work on the site folder alone: whether `wardround site serve` runs beside them or not, and without a
network. A process that serves notices a decision at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wardround.faces.cli.site_log import LastHead
    from wardround.runtimes.https.home import Home
    from wardround.site.consent import Consents

Dir = Annotated[Path | None, typer.Option("--dir", help="The site folder; else WARDROUND_SITE, else ./wardround-site.")]
Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="The plan's digest, or its first 6 or more digits.")]
Name = Annotated[str, typer.Option("--name", help="Who decides. It stays in this site's log.")]
Why = Annotated[str, typer.Option("--reason", help="Why.")]
WhySent = Annotated[str, typer.Option("--reason", help="Why. The coordinator is told this text; the name is not.")]


def register(site_app: typer.Typer, last_head: LastHead | None = None) -> None:
    """Add the commands to ``wardround site``.

    Args:
        site_app: the group.
        last_head: asks the coordinator for the last head of the site's log that it signed (see `site_log`).
    """
    from wardround.faces.cli.site_log import log_command  # noqa: PLC0415 - keeps the command line's start fast

    for command in (requests, show, approve, refuse, revoke, policy):
        site_app.command()(command)
    site_app.command("log")(log_command(last_head))


def requests(directory: Dir = None) -> None:
    """List the plans that were asked for, and where each stands.

    Example: `wardround site requests`
    """
    from wardround.core.errors import InputError  # noqa: PLC0415
    from wardround.faces.cli.site_shown import requests_table  # noqa: PLC0415

    _, consents = opened(directory)
    if not consents.desk.digests():
        print("no plan was asked for yet: `wardround site serve` fetches them")
        return
    with reading(consents):
        found = consents.all()
    requests_table(found)
    try:
        consents.policy()
    except InputError:
        say("policy.yaml is wrong or missing, so nothing runs: `wardround site policy` lists what to mend.")


def show(
    digest: Digest,
    directory: Dir = None,
    html: Annotated[bool, typer.Option("--html", help="Write a page with the same words and print its path.")] = False,
) -> None:
    """A plan in plain words, exactly what would leave and how often, and how it stands here.

    Examples: `wardround site show 3f2a9c`, `wardround site show 3f2a9c --html`
    """
    from wardround.faces.cli.site_shown import print_approval, seen_here  # noqa: PLC0415
    from wardround.faces.report.approval import collect_approval, write_approval  # noqa: PLC0415

    home, consents = opened(directory)
    full = consents.desk.find(digest)
    plan = consents.desk.plan(full)
    with reading(consents):
        approval = collect_approval(consents.request(full), plan, seen_here(home, consents, plan))
    if html:
        print(write_approval(approval, home.requests / f"{full}.html"))
    else:
        print_approval(approval)


def approve(digest: Digest, name: Name, directory: Dir = None, reason: Why = "") -> None:
    """Let a plan run here, with the dataset as it is now. Read `show` first.

    Example: `wardround site approve 3f2a9c --name "Dr. A. Meyer"`
    """
    home, consents = opened(directory)
    full = consents.desk.find(digest)
    with reading(consents):
        before = consents.request(full)
        consents.decide(full, "approved", name, reason)
        after = consents.request(full)
    if before.permission.standing == "pending" and before.decision is not None:
        say(f"It was asked again because {before.permission.detail}.")
    assert after.plan is not None and after.decision is not None  # noqa: S101, PT018 - just decided
    say(
        f"Approved: {after.plan.study.title} ({full[:12]}), by {after.decision.person}, for software "
        f"{after.decision.software} and the dataset as it is now ({after.decision.cases} cases)."
    )
    say("`wardround site serve` takes part from the next round on. `wardround site revoke` stops it.")
    say(f"Written into {home.audit}.")


def refuse(digest: Digest, name: Name, directory: Dir = None, reason: WhySent = "") -> None:
    """Say no to a plan. Nothing of it ran, and nothing will.

    Example: `wardround site refuse 3f2a9c --name "Dr. A. Meyer" --reason "no ethics vote yet"`
    """
    home, consents = opened(directory)
    full = consents.desk.find(digest)
    consents.decide(full, "refused", name, reason)
    say(f"Refused: {full[:12]}, by {name.strip()}.")
    say(f"The coordinator is told that it was refused{_told(reason)}. The name stays here, in {home.audit}.")


def revoke(digest: Digest, name: Name, reason: WhySent, directory: Dir = None) -> None:
    """Stop a plan that was approved: a running task ends at its next step, and no further one begins.

    What was contributed cannot be unlearned; the models that hold it are listed.

    Example: `wardround site revoke 3f2a9c --name "Dr. A. Meyer" --reason "consent of patients withdrawn"`
    """
    from wardround.faces.cli.site_shown import contributed  # noqa: PLC0415

    home, consents = opened(directory)
    full = consents.desk.find(digest)
    consents.decide(full, "revoked", name, reason)
    say(f"Revoked: {full[:12]}, by {name.strip()}. No further task of it runs here.")
    say(f"The coordinator is told that it was revoked{_told(reason)}. The name stays here, in {home.audit}.")
    for line in contributed(home, full):
        say(line)


def policy(
    directory: Dir = None,
    write: Annotated[bool, typer.Option("--write", help="Write the default policy where there is none.")] = False,
) -> None:
    """Check policy.yaml and print what it allows; exit code 2 and every fault where it is wrong.

    Example: `wardround site policy`
    """
    from wardround.core.errors import StorageError  # noqa: PLC0415
    from wardround.faces.cli.site_shown import print_policy  # noqa: PLC0415
    from wardround.runtimes.https.home import Home  # noqa: PLC0415
    from wardround.site.policy import default_policy, load_policy  # noqa: PLC0415
    from wardround.site.private_files import write_private  # noqa: PLC0415

    path = Home.find(directory).policy
    if write:
        if path.exists():
            raise StorageError(f"{path} exists: remove it first if the default is to be written")
        write_private(path, default_policy().encode())
    print_policy(path, load_policy(path))


def opened(directory: Path | None) -> tuple[Home, Consents]:
    """The site folder that is meant, and its consents.

    Raises:
        InputError: it is no site folder.
    """
    from wardround.runtimes.https.home import Home  # noqa: PLC0415

    home = Home.find(directory)
    return home, home.consents()


@contextmanager
def reading(consents: Consents) -> Iterator[None]:
    """Read the dataset with a progress bar on stderr; what is wrong with it is said by what follows."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    from wardround.core.errors import WardRoundError  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Reading the dataset", total=None)
        step: Callable[[int, int], None] = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        try:
            consents.watch.identity(step)
        except WardRoundError:
            bar.stop()
    yield


def say(text: str) -> None:
    """Print a sentence; names and reasons in it are text, whatever they hold."""
    from wardround.faces.cli.site_log import printable  # noqa: PLC0415

    print(printable(text))


def _told(reason: str) -> str:
    return f", with your reason: “{reason}”" if reason else ", without a reason"
