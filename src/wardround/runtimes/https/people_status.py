"""How a federation stands, as people see it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from wardround import __version__
from wardround.core.messages import Answer
from wardround.core.rundir import RunDir
from wardround.runtimes.https.attending import Roll
from wardround.runtimes.https.networked import reached, run_dir
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.people import tainted
from wardround.runtimes.https.people_wire import Member, RunStatus, Status, Taking
from wardround.runtimes.https.store import Outcome, RunRow
from wardround.runtimes.https.transport import needed

NEWEST = 50  # runs that are shown
TAIL = 1 << 18  # bytes at the end of an event log among which the last task is found
OPEN = ("running", "waiting", "failed")


def status(office: Office, only: RunRow | None = None) -> Status:
    """All sites, people and the newest runs, or one run."""
    rows = [only] if only is not None else office.store.runs()[-NEWEST:]
    left = tainted(office)
    return Status(
        federation=office.settings.name,
        url=office.settings.url,
        software=__version__,
        now=time.time(),
        served=office.served(),
        members=tuple(_members(office)),
        runs=tuple(_run(office, row, left.get(row.digest, ())) for row in rows),
    )


def _members(office: Office) -> list[Member]:
    seen = office.store.seen()
    return [
        Member(
            name=one.name,
            role=one.role,
            active=one.active,
            reason=one.reason,
            expires=one.expires,
            seen=seen[one.name][0] if one.name in seen else None,
            software=seen[one.name][1] if one.name in seen else "",
        )
        for one in office.store.principals()
    ]


def _run(office: Office, row: RunRow, revoked: tuple[str, ...]) -> RunStatus:
    plan, place = office.store.plan(row.digest), run_dir(office.folder, row.digest)
    state, task = reached(place), _task(place) if row.state == "running" else None
    accepted = {} if state is None else state.accepted
    stands = Roll(office.store, row.digest, {}, lambda _event, _facts: None).look()
    outcomes = {} if task is None else office.store.outcomes(task["task"])
    moved = {} if task is None else office.store.moved(task["task"])
    takings = []
    for site in row.roster:
        doing = _doing(site, task, outcomes) if stands[site].standing == "approved" else ""
        counted = accepted[site] + 1 if site in accepted else None
        last = moved.get(site) if doing == "working" else None
        standing, reason = stands[site].standing, stands[site].reason
        takings.append(Taking(site=site, standing=standing, reason=reason, doing=doing, moved=last, counted=counted))
    return RunStatus(
        plan=row.digest,
        title=plan.study.title,
        state=row.state,
        note=row.note,
        owner=row.owner,
        created=row.created,
        changed=row.changed,
        round=0 if state is None else state.round,
        limit=plan.rounds.limit,
        best=None if state is None else state.best,
        best_round=None if state is None else state.best_round,
        needed=needed(plan, len(row.roster)),
        task="" if task is None else task_words(task["task"]),
        sites=tuple(takings),
        revoked=revoked,
    )


def task_words(task_id: str) -> str:
    """``train, round 3``: rounds counted from 1, as people do."""
    _, number, verb, _ = task_id.split(":")
    if verb in ("train", "validate"):
        return f"{verb}, round {int(number) + (verb == 'train')}"
    return verb


def _doing(site: str, task: Mapping[str, Any] | None, outcomes: Mapping[str, Outcome]) -> str:
    if task is None or site not in task["sites"]:
        return ""
    found = outcomes.get(site)
    if found is None:
        return "working"
    return "answered" if isinstance(found, Answer) else found.kind


def _task(place: RunDir) -> Mapping[str, Any] | None:
    """The task that was opened last, from the end of the event log."""
    if not place.events.is_file():
        return None
    with place.events.open("rb") as file:
        file.seek(max(0, place.events.stat().st_size - TAIL))
        lines = file.read().split(b"\n")
    for line in reversed(lines):
        if b'"task_opened"' in line:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == "task_opened":
                return event
    return None
