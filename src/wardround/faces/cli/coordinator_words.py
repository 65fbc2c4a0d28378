"""What the coordinator's commands say: what to send with an invitation, and what a submitted plan means."""

from __future__ import annotations

from pathlib import Path

from wardround import __version__
from wardround.faces.cli.site_log import printable
from wardround.faces.report.words import leaves, stays
from wardround.planning.plan import Plan
from wardround.runtimes.https.people_wire import Invite, Submitted
from wardround.runtimes.https.transport import needed
from wardround.site.outgoing import tensor_bytes

SERIES = ".".join(__version__.split("+")[0].split(".")[:2])


def invitation_words(asked: Invite) -> tuple[str, str]:
    """What stands before and after an invitation."""
    good = f"good once, for {asked.days:g} day{'' if asked.days == 1 else 's'}"
    who = f"the {asked.role} {asked.name}"
    before = f"Another key for {who}; {good}:\n" if asked.rekey else f"Invitation of {who}; {good}:\n"
    secret = (
        "\nWhoever reads this line before it is used can take part in its place: send it as you would a password.\n"
        f"With it, tell {asked.name} to run:\n"
    )
    return before, secret + "\n".join(f"  {line}" for line in _to_run(asked))


def _to_run(asked: Invite) -> list[str]:
    if asked.role != "site":
        return [
            _install("network"),
            "wardround coordinator join INVITATION --dir DIR",
        ]
    if asked.rekey:
        return ["wardround site rekey INVITATION --dir DIR", "wardround site serve --dir DIR"]
    return [
        _install("train,network"),
        "wardround site join INVITATION --data DATASET --dir DIR",
        "wardround site doctor --dir DIR",
        "wardround site serve --dir DIR",
    ]


def _install(extras: str) -> str:
    """Never by name from a public index: who is not on it cannot say who else is."""
    return f"pip install -c constraints.txt '.[{extras}]'  # in a clone of Ward Round {SERIES}, or from wheels you send"


def submitted_words(plan: Plan, submitted: Submitted, directory: Path) -> str:
    """Who is asked, what would leave them, the digest, and what comes next."""
    sites = submitted.sites
    weights = tensor_bytes(plan, plan.transfer.upward, without=plan.private_tensors)
    lines = [
        f"{printable(plan.study.title)}: waits for approval at {', '.join(sites)}",
        f"It begins when {needed(plan, len(sites))} of {len(sites)} have approved.",
        "",
        "What leaves a site",
        *(f"  - {words}" for words in leaves(plan.model_dump(mode="json"), weights)),
        "What never leaves a site",
        *(f"  - {words}" for words in stays(plan.model_dump(mode="json"))),
        "",
        *(f"note    {printable(note)}" for note in submitted.notes),
        f"digest  {submitted.plan}",
        f"sites   approve with: wardround site approve {submitted.plan[:12]}",
        f"follow  wardround coordinator status {directory} {submitted.plan[:12]} --watch",
    ]
    return "\n".join(lines)
