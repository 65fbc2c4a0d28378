"""What people may do at a coordinator: on its own machine, or over the network by their role.

Whoever can write the coordinator's folder is its owner: the command line calls `act` there, with the
server running or not. Over HTTPS the application calls `handle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wardround import __version__
from wardround.core.documents import parse_document
from wardround.core.errors import Fault, InputError, WardRoundError
from wardround.core.frozen import Frozen
from wardround.planning.plan import Plan
from wardround.runtimes.https.duties import incompatible
from wardround.runtimes.https.forms import read_json
from wardround.runtimes.https.networked import make_run_dir, reached, run_dir
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.people_wire import (
    ASKED,
    Abort,
    Asked,
    AskStatus,
    Changed,
    Invite,
    Invited,
    Resume,
    Revoke,
    Revoked,
    Submit,
    Submitted,
)
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.store import Principal, RunRow
from wardround.runtimes.https.wire import PROTOCOL, Poll


@dataclass(frozen=True)
class Person:
    """Who asks."""

    name: str
    role: str


def handle(office: Office, caller: Principal, action: str, body: bytes) -> Frozen:
    """A request that came over the network, from an admitted person.

    Raises:
        Refusal: malformed, forbidden, not_found or conflict.
    """
    if action not in ASKED:
        raise Refusal("not_found", "there is no such action")
    asked = read_json(body or b"{}", ASKED[action])
    try:
        return act(office, Person(caller.name, caller.role), asked)
    except Refusal:
        raise
    except WardRoundError as error:
        raise Refusal("conflict", str(error)) from error


def act(office: Office, person: Person, asked: Asked) -> Frozen:
    """Do what a person asks for.

    Raises:
        Refusal: ``forbidden`` (the role does not allow it) or ``not_found`` (no such run).
        InputError: it cannot be done as it is asked; with every fault.
    """
    if person.role not in asked.roles:
        raise Refusal("forbidden", f"a {person.role} may not {asked.action}: ask an owner of the federation")
    return _ACTS[type(asked)](office, person, asked)


def find_run(office: Office, name: str) -> RunRow:
    """A run by the beginning of its digest. Raises Refusal (``not_found``) and InputError (several)."""
    found = [row for row in office.store.runs() if row.digest.startswith(name)]
    if not found:
        raise Refusal("not_found", f"there is no run {name}: `wardround coordinator status` lists them")
    if len(found) > 1:
        several = ", ".join(row.digest[: len(name) + 6] for row in found)
        raise InputError(f"{name} may mean several runs ({several}): give more digits")
    return found[0]


def tainted(office: Office) -> dict[str, tuple[str, ...]]:
    """Runs in whose model there is something of sites that revoked their approval, or were revoked: by digest."""
    out = {one.name for one in office.store.sites() if not one.active}
    found = {}
    for row in office.store.runs():
        state = reached(run_dir(office.folder, row.digest))
        if state is not None:
            left = out | {site for site, said in office.store.standings(row.digest).items() if said == "revoked"}
            sites = tuple(site for site in row.roster if site in left and site in state.accepted)
            if sites:
                found[row.digest] = sites
    return found


def _status(office: Office, _: Person, asked: AskStatus) -> Frozen:
    from wardround.runtimes.https.people_status import status  # noqa: PLC0415 - it needs `find_run`

    return status(office, None if asked.run is None else find_run(office, asked.run))


def _submit(office: Office, person: Person, asked: Submit) -> Submitted:
    plan = parse_document(asked.plan, Plan, "the plan")
    sites = {one.name: one for one in office.store.sites() if one.active}
    roster = tuple(sorted(sites)) if asked.sites is None else asked.sites
    _check_roster(plan, roster, set(sites))
    office.store.add_run(plan, roster, person.name)
    make_run_dir(office.folder, plan, roster, asked.plan)
    office.audit.append("submitted", run=plan.digest(), sites=list(roster), by=person.name)
    return Submitted(plan=plan.digest(), sites=roster, notes=tuple(_notes(office, roster)))


def _check_roster(plan: Plan, roster: tuple[str, ...], active: set[str]) -> None:
    """Every fault at once. Raises InputError."""
    known = ", ".join(sorted(active)) or "none has joined"
    faults = [
        Fault("--sites", f"{site} is not an active site (active: {known})") for site in roster if site not in active
    ]
    faults += [Fault("--sites", f"{site} is named twice") for site in sorted(set(roster)) if roster.count(site) > 1]
    if not roster:
        faults.append(Fault("--sites", "there is no site to ask: invite some first"))
    if (plan.rounds.quorum or 1) > len(roster):
        faults.append(Fault("rounds.quorum", f"asks for {plan.rounds.quorum} sites, the run has {len(roster)}"))
    least = getattr(plan.aggregation, "least", lambda _: (1, ""))(len(roster))
    if roster and least[0] > len(roster):
        faults.append(Fault("aggregation", f"{plan.aggregation.name} needs {least[0]} sites: {least[1]}"))
    if plan.study.ends is not None and plan.study.ends < datetime.now(UTC).date():
        faults.append(Fault("study.ends", f"the study ended on {plan.study.ends}"))
    if faults:
        raise InputError("the plan cannot be submitted", faults)


def _notes(office: Office, roster: tuple[str, ...]) -> list[str]:
    """What might go wrong with some sites."""
    seen, notes = office.store.seen(), []
    ends = {one.name: one.expires for one in office.store.sites()}
    for site in roster:
        if site not in seen:
            notes.append(f"{site} has not called yet since it joined: is `wardround site serve` running there?")
        elif (why := incompatible(Poll(protocol=PROTOCOL, software=seen[site][1]), __version__)) is not None:
            notes.append(f"{site}: {why}")
        if ends[site] < datetime.now(UTC).timestamp():
            notes.append(f"{site}: its key has expired: give it an invitation with --rekey")
    return notes


def _abort(office: Office, person: Person, asked: Abort) -> Changed:
    row = _own_run(office, person, asked.run)
    reason = f"aborted by {person.name}" + (f": {asked.reason}" if asked.reason else "")
    state = office.store.set_run(row.digest, "aborted", reason)
    if state != "aborted" or row.state == "aborted":
        raise InputError(f"run {row.digest[:12]} is over already: {state}")
    office.audit.append("aborted", run=row.digest, by=person.name, reason=asked.reason)
    return Changed(plan=row.digest, state=state)


def _resume(office: Office, person: Person, asked: Resume) -> Changed:
    row = _own_run(office, person, asked.run)
    if row.state != "failed":
        raise InputError(f"run {row.digest[:12]} did not fail: it is {row.state}, and goes on by itself if it can")
    state = office.store.set_run(row.digest, "waiting", f"resumed by {person.name}")
    office.audit.append("resumed", run=row.digest, by=person.name)
    return Changed(plan=row.digest, state=state)


def _own_run(office: Office, person: Person, name: str) -> RunRow:
    row = find_run(office, name)
    if person.role != "owner" and row.owner != person.name:
        raise Refusal("forbidden", f"run {row.digest[:12]} was submitted by {row.owner}: ask them, or an owner")
    return row


def _invite(office: Office, person: Person, asked: Invite) -> Invited:
    role: Any = asked.role
    invitation = office.invite(asked.name, role, asked.days, asked.rekey, person.name)
    return Invited(invitation=invitation.text())


def _revoke(office: Office, person: Person, asked: Revoke) -> Revoked:
    office.store.revoke(asked.name, asked.reason)
    office.audit.append("revoked", name=asked.name, by=person.name, reason=asked.reason)
    return Revoked(runs=tuple(digest for digest, sites in tainted(office).items() if asked.name in sites))


_ACTS: dict[type[Asked], Callable[..., Frozen]] = {
    AskStatus: _status,
    Submit: _submit,
    Abort: _abort,
    Resume: _resume,
    Invite: _invite,
    Revoke: _revoke,
}
