"""What the consent commands print: tables and plain words. Whatever a stranger wrote is text here, never markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from wardround.core.errors import WardRoundError, in_one_line
from wardround.faces.cli.site_log import printable
from wardround.faces.report.approval import (
    MEANING,
    SERVING,
    Approval,
    Here,
    asks,
    cases_words,
    commands,
)
from wardround.faces.report.own_log import read_log
from wardround.faces.report.shown import ranges, size
from wardround.planning.plan import Plan
from wardround.runtimes.https.home import Home
from wardround.site.consent import Consents, Request
from wardround.site.outgoing import bytes_a_round
from wardround.site.policy import Objection, Policy, SiteFacts

_COLOURS = {"pending": "yellow", "approved": "green", "refused": "red", "revoked": "red"}


def plain(text: object, style: str = "") -> Text:
    """Text without anything that a terminal or markup would obey."""
    return Text(printable(str(text)), style=style)


def requests_table(requests: Sequence[Request]) -> None:
    """One row a plan."""
    table = Table("digest", "title", "standing", "since", "asks", box=None, pad_edge=False)
    again = []
    for request in requests:
        standing = request.permission.standing
        title = request.plan.study.title if request.plan else "the stored plan cannot be used"
        table.add_row(
            plain(request.digest[:12]),
            plain(title),
            plain(standing, _COLOURS[standing]),
            plain(datetime.fromtimestamp(request.since).strftime("%Y-%m-%d %H:%M")),
            plain(asks(request.plan) if request.plan else ""),
        )
        if not request.permission.allowed and (request.decision is not None or request.plan is None):
            again.append(f"{request.digest[:12]}: {request.permission.detail}")
    console = Console(highlight=False)
    console.print(table)
    for line in again:
        console.print(plain(line), soft_wrap=True)
    if any(request.permission.standing == "pending" for request in requests):
        console.print(plain("Read a plan with `wardround site show DIGEST`, then `approve` or `refuse` it."))


def seen_here(home: Home, consents: Consents, plan: Plan) -> Here:
    """The site's side of a decision, as far as it can be read."""
    settings, trouble = home.settings(), []
    identity, parts = None, None
    objections: tuple[Objection, ...] = ()
    try:
        identity = consents.watch.identity()
        parts = consents.watch.parts(plan)
    except WardRoundError as error:
        trouble.append(f"The dataset: {in_one_line(error)}")
    try:
        facts = SiteFacts(parts["train"] if parts else None, bytes_a_round(plan))
        objections = tuple(consents.policy().judge(plan, None, facts, datetime.now()))
    except WardRoundError as error:
        trouble.append(f"The policy: {in_one_line(error)}")
    return Here(
        site=settings.name,
        folder=home.root,
        dataset=settings.data,
        identity=identity.digest if identity else None,
        cases=len(identity.cases) if identity else None,
        parts=parts,
        objections=objections,
        trouble=tuple(trouble),
    )


def print_approval(approval: Approval) -> None:
    """Everything that the page says."""
    console, here, study = Console(highlight=False), approval.here, approval.plan["study"]
    console.print(plain(approval.title, "bold"))
    console.print(plain(approval.standing + "."), soft_wrap=True)
    for warning in approval.warnings:
        console.print(plain(f"! {warning}", "yellow"))
    _pairs(
        console,
        {
            "digest": approval.digest,
            "asks": approval.asks,
            "purpose": study["purpose"] or "not given",
            "contact": study["contact"] or "not given",
            "ethics": study["ethics"] or "not given",
            "study ends": study["ends"] or "no date given",
        },
    )
    _heading(console, "Exactly what would leave, and how often")
    table = Table("what", "when", "times at most", "each, about", "in all at most", box=None, pad_edge=False)
    for row in approval.sent:
        table.add_row(*map(plain, (row.what, row.when, row.times, row.each, row.total)))
    console.print(table)
    _lines(console, (approval.sums, *approval.notes))
    _heading(console, "Besides")
    _lines(console, SERVING)
    _heading(console, "What never leaves")
    _lines(console, approval.kept)
    _heading(console, "The plan in plain words")
    _pairs(console, {topic.title: topic.text for topic in approval.words})
    _heading(console, "This site")
    _pairs(console, {"dataset": here.dataset, "cases": cases_words(here), "identity": here.identity or "not known"})
    said = [f"policy.yaml does not allow it: {objection}" for objection in here.objections]
    _lines(console, said or ["policy.yaml allows this plan, and is judged again at every task."])
    _heading(console, "What approving means")
    _lines(console, MEANING)
    _heading(console, "Deciding")
    for name, command in commands(approval).items():
        console.print(plain(f"{name}:", "dim"))
        console.print(plain(f"  {command}"), soft_wrap=True)


def contributed(home: Home, digest: str) -> list[str]:
    """What of a run had left when it was revoked, and which models here hold it."""
    log = read_log(home.audit, digest)
    if not log.trained:
        return ["The audit log has no trained weights of this run that left: no model holds anything from here."]
    sent, one = sum(part.size for part in log.left), len(log.trained) == 1
    rounds = "round" if one else "rounds"
    models = sorted(home.result(digest).glob("*.safetensors")) if home.result(digest).is_dir() else []
    return [
        f"Before, {size(sent)} had left in this run. The training here in {rounds} {ranges(log.trained)} is part "
        f"of the models of {'this' if one else 'these'} and all later rounds, at the coordinator and at every site. "
        "It cannot be unlearned.",
        *(f"On this machine it is in {path}" for path in models),
    ]


def print_policy(path: Path, policy: Policy) -> None:
    """A policy field by field."""
    console = Console(highlight=False)
    console.print(plain(f"{path} is valid"), soft_wrap=True)
    _pairs(console, {name: _value(name, value) for name, value in policy if name != "wardround"})
    if not policy.weights_without_secure_aggregation:
        _lines(console, ["Every plan is refused: there is no secure aggregation yet."])


def _value(name: str, value: Any) -> str:
    if name == "most_bytes_a_round":
        return size(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    return "no limit" if value is None else str(value)


def _heading(console: Console, text: str) -> None:
    console.print()
    console.print(plain(text, "bold"))


def _lines(console: Console, lines: Iterable[str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for line in lines:
        table.add_row("-", plain(line))
    console.print(table)


def _pairs(console: Console, pairs: dict[str, object]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in pairs.items():
        table.add_row(plain(name, "bold"), plain(value))
    console.print(table)
