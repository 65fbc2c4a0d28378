"""Tasks, and what came of them at each site: an answer or a failure, decided once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, bindparam, exists, func, insert, select, update

from wardround.core.errors import RunError
from wardround.core.messages import ANSWERS, Answer, Reply, SiteFailed, Task
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.state_recent import Recent
from wardround.runtimes.https.tables import asked, members, runs, tasks
from wardround.runtimes.https.wire import BLOB

Outcome = Answer | SiteFailed
FIRST = 16 << 30  # most bytes of a first model, of which nothing is known yet
STALE = 7 * 86_400  # seconds

# Built once: building a statement takes longer than SQLite takes to answer it.
_STAND = (
    select(
        asked.c.kind, asked.c.body, tasks.c.run, tasks.c.size, tasks.c.closed, runs.c.standing,
        members.c.standing.label("consent"),
    )
    .join(tasks, tasks.c.id == asked.c.task)
    .join(runs, runs.c.digest == tasks.c.run)
    .join(members, (members.c.run == tasks.c.run) & (members.c.site == asked.c.site))
    .where((asked.c.task == bindparam("t")) & (asked.c.site == bindparam("s")))
)  # fmt: skip
_OPEN = select(tasks.c.id).join(runs).where(
    (tasks.c.id == bindparam("t")) & tasks.c.closed.is_(None) & (runs.c.standing == "running")
)  # fmt: skip
_GIVE = update(asked).where(
    (asked.c.task == bindparam("t")) & (asked.c.site == bindparam("s")) & asked.c.kind.is_(None) & exists(_OPEN)
).values({name: bindparam(name) for name in ("kind", "body", "tensors", "seconds")})  # fmt: skip
_COUNT = update(members).where(
    (members.c.run == bindparam("r")) & (members.c.site == bindparam("s"))
).values(answered=members.c.answered + 1)  # fmt: skip
_FETCHING = select(tasks.c.id).join(asked).where(
    (asked.c.site == bindparam("s")) & (tasks.c.tensors == bindparam("d"))
    & asked.c.kind.is_(None) & tasks.c.closed.is_(None)
)  # fmt: skip


class Tasks(Recent):
    """See `wardround.runtimes.https.store.Store`."""

    def open_task(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> None:
        """Put a task to sites; its tensors become fetchable. Again: nothing changes but that the stall clock is reset.

        Raises:
            RunError: the same id was used for another question.
        """
        size = 0 if tensors is None or task.tensors is None else self.blobs.offer(tensors, task.tensors)
        message, now = task.canonical(), time.time()
        with self._write() as connection:
            row = connection.execute(select(tasks).where(tasks.c.id == task.id)).one_or_none()
            if row is None:
                values = {"id": task.id, "run": task.plan, "round": task.round, "message": message}
                values = {**values, "tensors": task.tensors, "size": size, "opened": now}
                connection.execute(insert(tasks).values(values))
            elif row.message != message:
                raise RunError(f"round {task.round}, {task.verb}: this task was put before with other contents")
            else:
                connection.execute(update(tasks).where(tasks.c.id == task.id).values(opened=now))
            known = set(connection.scalars(select(asked.c.site).where(asked.c.task == task.id)))
            rows = [{"task": task.id, "site": site} for site in sites if site not in known]
            if rows and row is not None and row.closed is not None:
                raise RunError(f"round {task.round}, {task.verb}: this task was closed and is put to other sites")
            if rows:
                connection.execute(insert(asked), rows)

    def outcomes(self, task_id: str) -> dict[str, Outcome]:
        """What was decided so far, by site."""
        decided = (asked.c.task == task_id) & asked.c.kind.is_not(None)
        with self._state.read() as connection:
            return {row.site: self._outcome(row) for row in connection.execute(select(asked).where(decided))}

    def decide(self, task_id: str, site: str, failure: SiteFailed) -> Outcome:
        """Record that a site failed, unless something is recorded; returns what is."""
        with self._write() as connection:
            row = _asked(connection, task_id, site)
            if row is None:
                raise RunError(f"{site} was not asked {task_id}")
            if row.kind is not None:
                return self._outcome(row)
            _record(connection, task_id, site, {"kind": "failure", "body": failure.canonical()})
        return failure

    def give(self, task_id: str, site: str, result: Reply | SiteFailed) -> bool:
        """A site's own answer or failure: the first that is recorded counts. False: it was given before.

        Raises:
            Refusal: ``not_found`` (not asked), ``closed``, ``conflict`` (another was given, or its
                tensors are not here), ``malformed`` (not an answer to this task), ``forbidden`` (no approval).
        """
        body = result.canonical()
        if (result.task, result.site) != (task_id, site):
            raise Refusal("malformed", "the answer names another task or site than its address")
        row = self._stand(task_id, site)
        if row.kind is not None:
            return _as_before(row, body)
        _check_open(row)
        values: dict[str, Any] = {"kind": "failure", "body": body, "tensors": None, "seconds": 0.0}
        if isinstance(result, Reply):
            self._check_reply(result)
            seconds = self._seconds(result)
            values = {"kind": "reply", "body": body, "tensors": result.tensors, "seconds": seconds}
        with self._write(duties=False) as connection:
            given = connection.execute(_GIVE, {"t": task_id, "s": site, **values}).rowcount
            if given and isinstance(result, Reply):
                connection.execute(_COUNT, {"r": row.run, "s": site})
        if not given:  # meanwhile, by another request: the task was closed, or the site's part in it decided
            return _as_before(self._stand(task_id, site), body)
        return True

    def check_wanted(self, task_id: str, site: str) -> int:
        """Raises Refusal (see `give`) unless an answer of this site would be taken now.

        Returns the most bytes that its tensors may have; 0 where an answer brings none.
        """
        row = self._stand(task_id, site)
        _check_open(row)
        if row.kind is not None:
            raise Refusal("closed", "this site's part in the task is decided")
        digest, _, verb, _ = task_id.split(":")
        if verb not in {name for name, expected in ANSWERS.items() if expected.tensors}:
            return 0
        size = row.size or self._largest(digest)
        return min(BLOB, 32 * size + (64 << 20)) if size else FIRST

    def _largest(self, run: str) -> int:
        """Bytes of the largest model that was sent in a run: for tasks that come without one."""
        with self._state.read() as connection:
            return int(connection.scalar(select(func.max(tasks.c.size)).where(tasks.c.run == run)) or 0)

    def forget_failures(self, task_id: str) -> None:
        """Ask again whoever failed: for a task whose quorum was lost, of which nothing was used."""
        with self._write() as connection:
            failed = (asked.c.task == task_id) & (asked.c.kind == "failure")
            connection.execute(update(asked).where(failed).values(kind=None, body=None))
            connection.execute(update(tasks).where(tasks.c.id == task_id).values(closed=None, opened=time.time()))

    def close_task(self, task_id: str) -> None:
        """Nothing more is taken for this task."""
        with self._write(duties=False) as connection:
            open_ = (tasks.c.id == task_id) & tasks.c.closed.is_(None)
            connection.execute(update(tasks).where(open_).values(closed=time.time()))

    def is_closed(self, task_id: str) -> bool:
        """Whether `close_task` was called."""
        with self._state.read() as connection:
            return connection.scalar(select(tasks.c.closed).where(tasks.c.id == task_id)) is not None

    def moved(self, task_id: str) -> dict[str, float]:
        """Unix time of each site's last sign of progress; at the least, that at which the task was opened."""
        with self._state.read() as connection:
            opened = connection.scalar(select(tasks.c.opened).where(tasks.c.id == task_id)) or 0.0
            sites = list(connection.scalars(select(asked.c.site).where(asked.c.task == task_id)))
        last = self._progress(task_id)
        return {site: max(opened, last.get(site, (0.0, 0.0))[1]) for site in sites}

    def touch_fetching(self, sha256: str, site: str) -> None:
        """Bytes of a blob move to a site: its tasks that need them go on."""
        with self._state.read() as connection:
            ids = list(connection.scalars(_FETCHING, {"s": site, "d": sha256}))
        for id in ids:
            self.touch(id, site)

    def prune(self, digest: str, before: int) -> int:
        """Delete tensors of a run's closed tasks of rounds before ``before``: nothing asks for them again.

        Returns the bytes that were freed. What was answered stays written down.
        """
        old = (tasks.c.run == digest) & (tasks.c.round < before) & tasks.c.closed.is_not(None) & (tasks.c.pruned == 0)
        with self._write(duties=False) as connection:
            gone = connection.execute(select(tasks.c.id, tasks.c.tensors).where(old)).all()
            ids = [row.id for row in gone]
            mine = asked.c.task.in_(ids) & asked.c.tensors.is_not(None)
            given = connection.execute(select(asked.c.site, asked.c.tensors).where(mine)).all()
            connection.execute(update(tasks).where(tasks.c.id.in_(ids)).values(pruned=1))
            offered = {row.tensors for row in gone if row.tensors} - _in_use(connection)
            kept = _still_given(connection)
        self._forget(ids)
        paths = [self.blobs.offered(sha256) for sha256 in offered]
        paths += [self.blobs.given(sha256, site) for site, sha256 in given if (site, sha256) not in kept]
        return sum(_remove(path) for path in paths)

    def tidy(self) -> int:
        """Delete uploads that nobody went on with for a week, and whole ones that no answer names. Returns bytes."""
        with self._state.read() as connection:
            kept = {f"{sha256}.{site}" for site, sha256 in _still_given(connection)}
        limit, gone = time.time() - STALE, 0
        for folder in ("partial", "given"):
            for path in (self.blobs.folder / folder).iterdir():
                if path.name not in kept and path.stat().st_mtime < limit:
                    gone += _remove(path)
        return gone

    def _outcome(self, row: Any) -> Outcome:
        if row.kind == "failure":
            return SiteFailed.model_validate_json(row.body)
        reply = Reply.model_validate_json(row.body)
        path = None if reply.tensors is None else self.blobs.given(reply.tensors, row.site)
        return Answer(reply, path, row.seconds)

    def _stand(self, task_id: str, site: str) -> Any:
        """How a task stands at a site. Raises Refusal where it was not asked."""
        with self._state.read() as connection:
            row = connection.execute(_STAND, {"t": task_id, "s": site}).one_or_none()
        if row is None:
            raise Refusal("not_found", "this site was not asked such a task")
        return row

    def _check_reply(self, reply: Reply) -> None:
        verb: Any = reply.task.split(":")[2]
        if not isinstance(reply.facts, ANSWERS[verb].facts):
            raise Refusal("malformed", f"these are not the facts of a {verb} task")
        if reply.tensors is None:
            return
        path = self.blobs.given(reply.tensors, reply.site)
        if not path.is_file() or path.stat().st_size != reply.size:
            raise Refusal("conflict", "the tensors of this answer have not arrived", received=0)

    def _seconds(self, reply: Reply) -> float:
        """Time since the site was told of the task, less the time that it was busy."""
        told = self._progress(reply.task).get(reply.site)
        busy = getattr(reply.facts, "seconds", None)
        return 0.0 if told is None or busy is None else max(0.0, time.time() - told[0] - busy.total)


def _asked(connection: Connection, task_id: str, site: str) -> Any:
    return connection.execute(select(asked).where((asked.c.task == task_id) & (asked.c.site == site))).one_or_none()


def _check_open(row: Any) -> None:
    if row.consent != "approved":
        raise Refusal("forbidden", "this site has not approved the plan")
    if row.closed is not None or row.standing != "running":
        raise Refusal("closed", "the task is closed")


def _as_before(row: Any, body: str) -> bool:
    """False where the same was given before. Raises Refusal where something else was decided."""
    if row.body == body:
        return False
    if row.kind == "reply":
        raise Refusal("conflict", "this site gave another answer to this task before")
    raise Refusal("closed", "the task is closed, or this site's part in it was decided: it was missing")


def _record(connection: Connection, task_id: str, site: str, values: dict[str, Any]) -> None:
    connection.execute(update(asked).where((asked.c.task == task_id) & (asked.c.site == site)).values(values))


def _in_use(connection: Connection) -> set[str]:
    """Digests of offered blobs that somebody may still fetch."""
    of_tasks = select(tasks.c.tensors).where(tasks.c.tensors.is_not(None) & (tasks.c.pruned == 0))
    of_runs = select(runs.c.model).where(runs.c.model.is_not(None))
    return {str(one) for query in (of_tasks, of_runs) for one in connection.scalars(query)}


def _still_given(connection: Connection) -> set[tuple[str, str]]:
    query = select(asked.c.site, asked.c.tensors).join(tasks).where(tasks.c.pruned == 0)
    return {(site, sha256) for site, sha256 in connection.execute(query) if sha256}


def _remove(path: Path) -> int:
    try:
        size = path.stat().st_size
        path.unlink()
    except FileNotFoundError:
        return 0
    return size
