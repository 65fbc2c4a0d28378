"""Runs, their rosters, and how each site stands to each of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, bindparam, insert, select, update

from wardround.core.errors import Fault, InputError
from wardround.core.frozen import canonical_json
from wardround.core.messages import Task
from wardround.planning.plan import Plan
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.state_base import Base
from wardround.runtimes.https.tables import asked, members, principals, runs, tasks
from wardround.runtimes.https.wire import MESSAGE, Consent, Standing

RunState = Literal["waiting", "running", "ended", "failed", "aborted"]
OVER: tuple[RunState, ...] = ("ended", "aborted")  # never left again; a failed run can be resumed
SHOWN = 200  # ended runs whose results a site is told of


@dataclass(frozen=True)
class RunRow:
    """One run."""

    digest: str
    state: RunState
    roster: tuple[str, ...]  # fold order
    owner: str
    created: float  # Unix time
    changed: float  # last change of the state
    note: str
    model: str | None = None  # SHA-256 of the final model
    size: int = 0  # its bytes
    outcome: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """One run as one site sees it: all that its duties follow from."""

    site: str
    digest: str
    state: RunState
    plan_size: int
    standing: Standing | None = None
    work: Task | None = None  # an open task that it has not answered
    work_size: int = 0
    answered: bool = False  # any task
    model: str | None = None
    size: int = 0
    outcome: str = "{}"  # JSON, as the coordinator has it: see `networked.outcome_for`


# Built once: building a statement takes longer than SQLite takes to answer it.
_SHOWN = (runs.c.digest, runs.c.standing, runs.c.plan_size, runs.c.model, runs.c.size, runs.c.outcome)
_MINE = select(*_SHOWN, members.c.standing.label("consent"), members.c.answered).join(members)
_MINE = _MINE.where(members.c.site == bindparam("s")).order_by(runs.c.number)
_WORK = select(tasks.c.run, tasks.c.message, tasks.c.size).join(asked)
_WORK = _WORK.where((asked.c.site == bindparam("s")) & asked.c.kind.is_(None) & tasks.c.closed.is_(None))
_WORK = _WORK.order_by(tasks.c.opened)
_APPROVED = (members.c.site == bindparam("s")) & (members.c.standing == "approved")
_TASKS = select(tasks.c.id).join(asked).join(members, members.c.run == tasks.c.run).limit(1)
_TASKS = _TASKS.where(_APPROVED & (tasks.c.tensors == bindparam("d")) & tasks.c.closed.is_(None))
_TASKS = _TASKS.where(asked.c.site == bindparam("s"))
_RESULTS = select(runs.c.digest).join(members).where(_APPROVED & (runs.c.model == bindparam("d"))).limit(1)
_RESULTS = _RESULTS.where((runs.c.standing == "ended") & (members.c.answered > 0))


class Runs(Base):
    """See `wardround.runtimes.https.store.Store`."""

    def add_run(self, plan: Plan, roster: Sequence[str], owner: str) -> None:
        """A new run, "waiting" for approvals; ``roster`` is the fold order.

        Raises:
            InputError: this plan was submitted before, is too long to be sent, or a site is not active or named twice.
        """
        text, digest, now = plan.canonical(), plan.digest(), time.time()
        if len(text.encode()) > MESSAGE:
            raise InputError(f"the plan is longer than {MESSAGE} bytes")
        with self._write() as connection:
            if _exists(connection, digest):
                raise InputError("this plan was submitted before: another seed makes it another plan")
            _check_roster(connection, roster)
            values = {"digest": digest, "plan": text, "plan_size": len(text.encode()), "note": ""}
            values = {**values, "standing": "waiting", "owner": owner}
            connection.execute(insert(runs).values({**values, "created": now, "changed": now, "outcome": "{}"}))
            rows = [{"run": digest, "site": site, "position": place} for place, site in enumerate(roster)]
            connection.execute(insert(members), rows)

    def runs(self) -> list[RunRow]:
        """All runs, in the order of submission."""
        with self._state.read() as connection:
            rows = connection.execute(select(runs).order_by(runs.c.number)).all()
            sites = connection.execute(select(members.c.run, members.c.site).order_by(members.c.position)).all()
        rosters: dict[str, list[str]] = {}
        for run, site in sites:
            rosters.setdefault(run, []).append(site)
        return [_run_row(row, tuple(rosters[row.digest])) for row in rows]

    def run(self, digest: str) -> RunRow:
        """One run. Raises InputError where there is none."""
        with self._state.read() as connection:
            row = connection.execute(select(runs).where(runs.c.digest == digest)).one_or_none()
            if row is None:
                raise InputError(f"there is no run {digest[:12]}")
            sites = select(members.c.site).where(members.c.run == digest).order_by(members.c.position)
            return _run_row(row, tuple(connection.scalars(sites)))

    def plan_text(self, digest: str) -> bytes | None:
        """A submitted plan's canonical JSON."""
        with self._state.read() as connection:
            text = connection.scalar(select(runs.c.plan).where(runs.c.digest == digest))
        return None if text is None else text.encode()

    def plan(self, digest: str) -> Plan:
        """A submitted plan. Raises InputError where there is none."""
        text = self.plan_text(digest)
        if text is None:
            raise InputError(f"there is no run {digest[:12]}")
        return Plan.model_validate_json(text)

    def set_run(self, digest: str, state: RunState, note: str = "") -> RunState:
        """Change a run's state and say why; returns the state now in force: what is over stays over."""
        with self._write() as connection:
            now = connection.scalar(select(runs.c.standing).where(runs.c.digest == digest))
            if now is None:
                raise InputError(f"there is no run {digest[:12]}")
            if now in OVER:
                return now  # type: ignore[no-any-return] # the column holds nothing else
            values = {"standing": state, "note": note[:2000], "changed": time.time()}
            connection.execute(update(runs).where(runs.c.digest == digest).values(values))
        return state

    def finish_run(self, digest: str, model: Path, outcome: dict[str, Any]) -> RunState:
        """The run ended: its model and ``outcome`` are for every site that took part. Returns as `set_run`."""
        sha256, size = self.blobs.take(model)
        with self._write() as connection:
            now = connection.scalar(select(runs.c.standing).where(runs.c.digest == digest))
            if now in OVER:
                return now  # type: ignore[no-any-return] # the column holds nothing else
            values = {"model": sha256, "size": size, "outcome": canonical_json(outcome), "note": ""}
            values = {**values, "standing": "ended", "changed": time.time()}
            connection.execute(update(runs).where(runs.c.digest == digest).values(values))
        return "ended"

    def standings(self, digest: str) -> dict[str, Standing]:
        """How each site of the roster stands to the plan; one that said nothing yet is pending."""
        with self._state.read() as connection:
            rows = connection.execute(select(members.c.site, members.c.standing).where(members.c.run == digest))
            return {site: standing or "pending" for site, standing in rows}

    def reasons(self, digest: str) -> dict[str, str]:
        """What the sites said beside their standing."""
        with self._state.read() as connection:
            rows = connection.execute(select(members.c.site, members.c.reason).where(members.c.run == digest))
            return {site: reason for site, reason in rows if reason}

    def set_standing(self, digest: str, site: str, consent: Consent) -> bool:
        """Write down how a site stands to a plan; returns whether that changed anything.

        Raises:
            Refusal: ``not_found``: the site is not of this run's roster.
        """
        here = (members.c.run == digest) & (members.c.site == site)
        with self._state.read() as connection:
            row = connection.execute(select(members.c.standing, members.c.reason).where(here)).one_or_none()
        if row is None:
            raise Refusal("not_found", "there is no such plan for this site")
        if (row.standing, row.reason) == (consent.standing, consent.reason):
            return False
        with self._write() as connection:
            values = {"standing": consent.standing, "reason": consent.reason, "since": time.time()}
            connection.execute(update(members).where(here).values(values))
        return True

    def views(self, site: str) -> list[View]:
        """All runs that concern a site, oldest first."""
        with self._state.read() as connection:
            rows = connection.execute(_MINE, {"s": site}).all()
            open_ = connection.execute(_WORK, {"s": site}).all()
        works: dict[str, tuple[Task, int]] = {}
        for run, message, size in open_:
            works.setdefault(run, (Task.model_validate_json(message), size))
        late = [row.digest for row in rows if row.standing in OVER][-SHOWN:]
        shown = (row for row in rows if row.standing not in OVER or row.digest in late)
        return [_view(site, row, *works.get(row.digest, (None, 0))) for row in shown]

    def may_read_plan(self, digest: str, site: str) -> bool:
        """Whether a plan was offered to a site."""
        here = (members.c.run == digest) & (members.c.site == site)
        with self._state.read() as connection:
            return connection.execute(select(members.c.run).where(here)).first() is not None

    def may_read_blob(self, sha256: str, site: str) -> bool:
        """Whether a blob is of an open task of a run that the site approved, or of results that it may have."""
        with self._state.read() as connection:
            return any(
                connection.execute(query, {"s": site, "d": sha256}).first() is not None for query in (_TASKS, _RESULTS)
            )


def _exists(connection: Connection, digest: str) -> bool:
    return connection.scalar(select(runs.c.number).where(runs.c.digest == digest)) is not None


def _check_roster(connection: Connection, roster: Sequence[str]) -> None:
    active = (principals.c.role == "site") & (principals.c.standing == "active")
    known = set(connection.scalars(select(principals.c.name).where(active)))
    faults = [Fault("roster", f"{name} is not an active site") for name in roster if name not in known]
    faults += [Fault("roster", f"{name} is named twice") for name in sorted(set(roster)) if roster.count(name) > 1]
    if faults or not roster:
        raise InputError("these sites cannot be asked", faults or [Fault("roster", "names no site")])


def _run_row(row: Any, roster: tuple[str, ...]) -> RunRow:
    return RunRow(
        digest=row.digest,
        state=row.standing,
        roster=roster,
        owner=row.owner,
        created=row.created,
        changed=row.changed,
        note=row.note,
        model=row.model,
        size=row.size,
        outcome=json.loads(row.outcome),
    )


def _view(site: str, row: Any, work: Task | None, work_size: int) -> View:
    return View(
        site=site,
        digest=row.digest,
        state=row.standing,
        plan_size=row.plan_size,
        standing=row.consent,
        work=work if row.standing == "running" else None,
        work_size=work_size,
        answered=row.answered > 0,
        model=row.model,
        size=row.size,
        outcome=row.outcome,
    )
