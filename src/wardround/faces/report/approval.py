"""What a person at a hospital reads before deciding about a plan: the same words on the screen and on the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from wardround import __version__
from wardround.faces.report.collect import at
from wardround.faces.report.frame import environment, framed
from wardround.faces.report.personal_words import once_words
from wardround.faces.report.shown import counted, size, whole
from wardround.faces.report.strategy_words import more_leaves
from wardround.faces.report.transfer_words import encoding_words
from wardround.faces.report.words import NETWORKS, Topic, plan_words, stays, who_sees
from wardround.planning.plan import Plan
from wardround.site.consent import Request
from wardround.site.outgoing import Outgoing, bytes_a_round, model_numbers, outgoing, private_numbers
from wardround.site.policy import Objection
from wardround.site.private_files import write_private

FEW_CASES = 10  # to train on: fewer deserve a word
_SAID_APART = ("What leaves a site", "What never leaves a site")
STATES = {"pending": "open", "approved": "done", "refused": "broken", "revoked": "broken"}
SERVING = (
    "While `wardround site serve` runs, whatever is approved: every half minute the question whether there is "
    "anything to do, with the software’s version and the digests of known plans; how this site stands to each plan; "
    "after every round the length and hash of its audit log, so that the coordinator can countersign it.",
    "While an approved task runs: how far it is. Where a task cannot be done: the kind of fault, in words of the "
    "software that hold no name of a file or case.",
    "A reason that you give with refuse or revoke, as you wrote it. Your name does not leave.",
)
MEANING = (
    "Before somebody here approves, nothing of this plan runs and nothing leaves but “waiting for approval”.",
    "An approval holds for exactly this plan, this version of the software and this dataset. If one of them changes, "
    "you are asked again and told what changed; one `approve` continues, where enough cases are left.",
    "`wardround site revoke` stops a running task at its next step and forbids every further one, at once.",
    "What was contributed cannot be unlearned: revoking stops further tasks only. The models made until then keep "
    "what they learnt here.",
)


@dataclass(frozen=True)
class Sent:
    """A row of the table of what leaves."""

    what: str
    when: str
    times: str
    each: str
    total: str


@dataclass(frozen=True)
class Here:
    """The site's side: its data and its policy. None and empty texts: not known, ``trouble`` says why."""

    site: str
    folder: Path  # the site folder
    dataset: str = ""  # the folder of the images
    identity: str | None = None
    cases: int | None = None
    parts: Mapping[str, int] | None = None
    objections: tuple[Objection, ...] = ()
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True)
class Approval:
    """All that is shown."""

    request: Request
    plan: Mapping[str, Any]
    title: str
    state: str
    standing: str
    asks: str
    words: tuple[Topic, ...]
    sent: tuple[Sent, ...]
    sums: str
    notes: tuple[str, ...]
    kept: tuple[str, ...]
    here: Here
    warnings: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the plan."""
        return self.request.digest


def collect_approval(request: Request, plan: Plan, here: Here) -> Approval:
    """Put the words together."""
    json = plan.model_dump(mode="json")
    rows = outgoing(plan)
    most = sum(row.total or 0 for row in rows)
    return Approval(
        request=request,
        plan=json,
        title=plan.study.title,
        state=STATES[request.permission.standing],
        standing=standing_words(request),
        asks=asks(plan),
        words=tuple(topic for topic in plan_words(json) if topic.title not in _SAID_APART),
        sent=tuple(Sent(row.what, row.when, whole(row.times), _each(row), size(row.total or 0)) for row in rows),
        sums=_sums(plan, most),
        notes=tuple(filter(None, (more_leaves(json), encoding_words(json), *once_words(json), who_sees(json)))),
        kept=(*stays(json), *_private(plan)),
        here=here,
        warnings=_warnings(request, here),
    )


def asks(plan: Plan) -> str:
    """What a plan asks, in one line."""
    kind = f"{plan.task.dimensions}D {NETWORKS.get(plan.network.name, plan.network.name)}"
    return f"train a {kind}, up to {counted(plan.rounds.limit, 'round')}, {size(bytes_a_round(plan))} a round"


def standing_words(request: Request) -> str:
    """Where a plan stands, in a sentence without its full stop."""
    permission, decision = request.permission, request.decision
    if permission.standing == "pending":
        if decision is None or decision.standing != "approved":
            return f"Waiting for approval: {permission.detail}"
        when = f"approved by {decision.person} on {_day(decision.time)}"
        return f"Waiting for approval again: {permission.detail} ({when})"
    if decision is None:
        return permission.standing.capitalize()
    why = f": {decision.reason}" if decision.reason else ""
    return f"{permission.standing.capitalize()} by {decision.person} on {_day(decision.time)}{why}"


def render_approval(approval: Approval) -> str:
    """The page as text."""
    return environment().get_template("approval.html.j2").render(
        **framed("style.css"),
        a=approval,
        at=at,
        serving=[_marked(text) for text in SERVING],
        meaning=[_marked(text) for text in MEANING],
        cases=_marked(cases_words(approval.here)),
        commands=commands(approval),
        version=__version__,
        written=datetime.now(UTC),
    )  # fmt: skip


def write_approval(approval: Approval, path: Path) -> Path:
    """Write the page for the site's user alone. Raises StorageError."""
    write_private(path, render_approval(approval).encode())
    return path


def cases_words(here: Here) -> str:
    """How many cases the site has, and what this plan would use them for."""
    if here.cases is None:
        return "not known"
    text = counted(here.cases, "case")
    if here.parts is None:
        return text
    parts = here.parts
    return (
        f"{text}: {parts['train']} to train on, {parts['validation']} to validate, {parts['test']} to test. "
        "Cases that turn out unusable are left out (`wardround check` says which)"
    )


def commands(approval: Approval) -> dict[str, str]:
    """What to type, by what it does."""
    place = f"{approval.digest[:12]} --name 'Your name'"
    where = f"--dir {shlex.quote(str(approval.here.folder))}"
    return {
        "Approve": f"wardround site approve {place} {where}",
        "Refuse": f"wardround site refuse {place} --reason 'why' {where}",
        "Stop it later": f"wardround site revoke {place} --reason 'why' {where}",
    }


def _marked(text: str) -> Markup:
    """Text in which what stands between backticks is code."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def _each(row: Outgoing) -> str:
    return f"at most {size(row.bytes_each)}" if row.compressed else size(row.bytes_each)


def _sums(plan: Plan, most: int) -> str:
    mine = private_numbers(plan)
    which = f", of which {whole(mine)} stay here while it trains" if mine else ""
    return (
        f"The model has {whole(model_numbers(plan))} numbers{which}. At most about {size(bytes_a_round(plan))} leave "
        f"in a round and {size(most)} in the whole run; an interrupted transfer goes on where it stopped."
    )


def _private(plan: Plan) -> tuple[str, ...]:
    found = []
    optimiser = plan.training.optimiser
    if plan.training.optimiser_state == "keep" and getattr(optimiser, "momentum", 1) > 0:
        found.append("The optimiser’s momenta: they are kept here between rounds.")
    if plan.strategy.name == "scaffold":
        found.append("This site’s own control variate: only its changes are sent.")
    return tuple(found)


def _warnings(request: Request, here: Here) -> tuple[str, ...]:
    training = (here.parts or {}).get("train")
    found = list(here.trouble)
    if request.permission.standing == "approved" and not request.permission.allowed:
        found.append(f"Nothing runs now: {request.permission.detail}")
    if training is not None and training < FEW_CASES:
        found.append(
            f"Only {counted(training, 'case')} here would be trained on. The fewer they are, the more of each can be "
            "left in the weights, and the more the sums tell of single patients."
        )
    return tuple(found)


def _day(time: str) -> str:
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%d %b %Y, %H:%M")
    except ValueError:
        return "an unknown day"
