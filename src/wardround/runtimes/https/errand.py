"""A task at a site: fetch what it needs, let the worker process answer, send the answer. Safe to begin again anywhere.

The worker's answer is on the disk before anything of it is sent (`wardround.site.answers`), downloads and
uploads go on where they broke off, and the coordinator takes the same answer twice. So after any death the
same errand is simply run again.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from logging import WARNING
from pathlib import Path
from typing import Any

from wardround.core.errors import WardRoundError
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.planning.plan import Plan
from wardround.runtimes.https.client import Client, Rejected
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.journal import Journal
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.patience import Unreachable
from wardround.runtimes.https.pools import Limits, MakePool, Pool
from wardround.runtimes.https.transfer import Blob, Transfers, task_path
from wardround.runtimes.https.wire import PIECE, Done, Going, Moved, Work
from wardround.runtimes.local import DIED
from wardround.site.consent import Consents

TICK = 0.25  # seconds in which a revocation is noticed
MOVED = 2.0  # seconds between two signs of life, at least
UNWANTED = ("closed", "not_found", "conflict", "forbidden", "revoked")


class Withdrawn(WardRoundError):
    """The approval was taken back here; nothing more is sent for the task."""


class Errands:
    """Runs tasks, one at a time, in one worker process that is kept warm between them."""

    def __init__(
        self,
        home: Home,
        settings: SiteSettings,
        consents: Consents,
        client: Client,
        journal: Journal,
        make: MakePool,
        renewed: Callable[[], bool],
    ) -> None:
        """``renewed`` takes up a key that was changed in another process, and says whether there was one."""
        self._home, self._settings, self._consents = home, settings, consents
        self._client, self._journal, self._make, self._renewed = client, journal, make, renewed
        self.transfers = Transfers(client)
        self.transfers.pace.largest = settings.largest_piece
        if settings.carrier != "https":
            self.transfers.pace.at_once = PIECE  # as much as a message of another carrier holds
        self._pool: tuple[Limits, Pool] | None = None
        self._last = ""
        self._news: queue.Queue[tuple[str, Any]] = queue.Queue()

    def close(self) -> None:
        """End the worker at once, in the middle of whatever it does."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool[1].close()

    def run(self, work: Work, plan: Plan) -> bool:
        """Do a task that was asked for; False where nothing could be given.

        Raises:
            Unreachable: see `Client.call`.
            StorageError: the disk is full.
        """
        task, name = work.task, self._settings.name
        permission = self._consents.permission(plan, task)
        if not permission.allowed:
            if permission.standing != "approved":
                return False
            say("task_declined", task=_short(task), reason=permission.reason, why=permission.detail)
            reason = permission.reason[:500]
            return self._give(task, SiteFailed(task=task.id, site=name, kind=permission.failure, reason=reason))
        self._asked(work)
        begin = time.monotonic()
        try:
            tensors = self._fetch(work)
            result = self._answer(task, tensors)
            if isinstance(result, SiteFailed) and result.reason == DIED:
                say("worker_died", level=WARNING, task=_short(task), next="once more in a new process")
                result = self._answer(task, tensors)
            if result is None:
                return False
            if isinstance(result, Answer):
                leave = self._consents.may_leave(plan, result.reply)
                if not leave.allowed and leave.standing != "approved":
                    return False
                if not leave.allowed:
                    say("answer_held_back", level=WARNING, task=_short(task), reason=leave.reason, why=leave.detail)
                    result = SiteFailed(task=task.id, site=name, kind="refused", reason=leave.reason[:500])
            given = self._give(task, result)
            say("task_done", task=_short(task), given=given, seconds=round(time.monotonic() - begin, 2))
            return given
        except Withdrawn:
            say("task_stopped", task=_short(task), reason="the approval was taken back here")
            return False
        finally:
            self._journal.settle(task)

    def _fetch(self, work: Work) -> Path | None:
        """The task's tensors; what else lies in the inbox is not needed any more."""
        task, folder = work.task, self._home.inbox(work.task.plan)
        wanted = None if task.tensors is None else folder / f"{task.tensors}.safetensors"
        for path in folder.iterdir() if folder.is_dir() else ():
            if wanted is None or path.name not in (wanted.name, f"{wanted.name}.part"):
                path.unlink()
        if wanted is None or task.tensors is None:
            return None
        new = not wanted.is_file()
        self.transfers.download(task.tensors, work.size, wanted, lambda: self._check(task))
        if new:
            self._journal.arrived("tensors", work.size, task.tensors, plan=task.plan, task=task.id)
        return wanted

    def _check(self, task: Task) -> None:
        if self._consents.standing(task.plan) != "approved":
            raise Withdrawn("not approved any more")

    def _answer(self, task: Task, tensors: Path | None) -> Answer | SiteFailed | None:
        """The worker's answer; None where it was killed, because nobody wants it or the approval is gone."""
        news: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._news = news
        own = self._settings
        limits = self._consents.policy().limited(own.threads, own.device, own.processes)
        future = self._worker(limits).submit(self._message(task, tensors, limits), task, own.name)
        future.add_done_callback(lambda done: news.put(("done", done)))
        signs = _Signs(self._client, task, news)
        checked = 0.0
        while True:
            try:
                what, value = news.get(timeout=TICK)
            except queue.Empty:
                what, value = "", None
            if what == "done":
                return self._result(task, value)
            if what == "progress":
                signs.newest = value
            if what == "moved" and not signs.wanted(value) and not self._has_new_key(value):
                say("task_stopped", task=_short(task), reason="the coordinator does not want it any more")
                self.close()
                return None
            if time.monotonic() - checked >= TICK:
                checked = time.monotonic()
                self._check_or_kill(task)
                signs.send()

    def _result(self, task: Task, future: Future[Answer | SiteFailed]) -> Answer | SiteFailed:
        error = future.exception()
        if error is None:
            return future.result()
        say("worker_fault", level=WARNING, task=_short(task), error=f"{type(error).__name__}: {error}")
        self.close()
        reason = "the site's process answered what is no answer; details are in the site's own log"
        return SiteFailed(task=task.id, site=self._settings.name, kind="error", reason=reason)

    def _check_or_kill(self, task: Task) -> None:
        try:
            self._check(task)
        except Withdrawn:
            self.close()
            raise

    def _worker(self, limits: Limits) -> Pool:
        if self._pool is not None and self._pool[0] != limits:
            self.close()
        if self._pool is None:
            self._pool = limits, self._make(limits[0], self._home.worker_log, self._progress)
        return self._pool[1]

    def _progress(self, _site: str, what: str, done: int, total: int) -> None:
        self._news.put(("progress", (what, done, total)))

    def _message(self, task: Task, tensors: Path | None, limits: Limits) -> dict[str, Any]:
        settings, (threads, device, processes) = self._settings, limits
        spec = None if settings.spec is None else settings.spec.model_dump(mode="json")
        return {
            "plan": str(self._home.requests / f"{task.plan}.json"),
            "plan_digest": task.plan,
            "task": task.model_dump(mode="json"),
            "tensors": None if tensors is None else str(tensors),
            "setting": {
                "name": settings.name,
                "sources": [{"folder": settings.data, "spec": spec}],
                "folder": str(self._home.run(task.plan)),
                "store_root": settings.store,
                "threads": threads,
                "device": device,
                "largest_batch": settings.largest_batch,
                "processes": processes,
            },
        }

    def _give(self, task: Task, result: Answer | SiteFailed) -> bool:
        """Send an answer or a failure; False where the coordinator does not take it any more."""
        try:
            if isinstance(result, SiteFailed):
                self._client.insist("POST", f"{task_path(task)}/failure", result, Done, "failure", self._going(task))
                say("failure_sent", level=WARNING, task=_short(task), kind=result.kind, reason=result.reason)
                self._note("failed", task, kind=result.kind, reason=result.reason)
                return True
            reply = result.reply
            if reply.tensors is not None and result.tensors is not None:
                blob = Blob(result.tensors, reply.tensors, reply.size)
                announce = partial(self._journal.announce, task, sha256=reply.tensors)
                self.transfers.upload(task, blob, announce, self._going(task))
            self._client.insist("POST", f"{task_path(task)}/reply", reply, Done, "reply", self._going(task))
            self._note("answered", task, sha256=reply.tensors, bytes=reply.size)
            return True
        except Rejected as error:
            if self._has_new_key(error):
                return self._give(task, result)
            if error.code not in UNWANTED:
                raise
            say("not_taken", level=WARNING, task=_short(task), code=error.code, reason=error.refused.message)
            return False

    def _has_new_key(self, refused: object) -> bool:
        """Whether it was refused because another key took its place, which is used from now on."""
        return isinstance(refused, Rejected) and refused.code == "revoked" and self._renewed()

    def _asked(self, work: Work) -> None:
        if work.task.id != self._last:
            self._last = work.task.id
            say("task", task=_short(work.task), bytes=work.size)
            self._note("task", work.task, bytes=work.size)

    def _note(self, event: str, task: Task, **facts: Any) -> None:
        self._journal.note(event, plan=task.plan, round=task.round, verb=task.verb, task=task.id, **facts)

    def _going(self, task: Task) -> Callable[[], None]:
        return lambda: self._check(task)


class _Signs:
    """Tells the coordinator that a task goes on: at most every `MOVED` seconds, and only of progress."""

    def __init__(self, client: Client, task: Task, news: queue.Queue[tuple[str, Any]]) -> None:
        self.newest: tuple[str, int, int] | None = None
        self._client, self._task, self._news = client, task, news
        self._sent: tuple[str, int, int] | None = None
        self._last, self._flying = time.monotonic() - MOVED, False

    def send(self) -> None:
        """Send the newest progress where it is time. In a thread: the line may hang, the worker must not."""
        due = time.monotonic() - self._last >= MOVED
        if self._flying or not due or self.newest is None or self.newest == self._sent:
            return
        self._sent, self._last, self._flying = self.newest, time.monotonic(), True
        what, done, total = self.newest
        moved = Moved(what="".join(c for c in what.lower() if "a" <= c <= "z")[:20] or "work", done=done, total=total)
        aside(self._news, "moved", lambda: self._client.call("POST", f"{self._path}", moved, Going, "moved"))

    def wanted(self, said: Going | Exception) -> bool:
        """What came of it. A line that is down, or a key that must be renewed, is no reason to stop."""
        self._flying = False
        if isinstance(said, Going):
            return said.wanted
        if isinstance(said, Rejected):
            return said.code not in UNWANTED
        if isinstance(said, Unreachable):
            self._sent = None
            return True
        raise said

    @property
    def _path(self) -> str:
        return f"{task_path(self._task)}/moved"


def aside(news: queue.Queue[tuple[str, Any]], name: str, action: Callable[[], Any]) -> None:
    """Do something that may hang in a thread of its own; what comes of it, or its exception, arrives as news."""

    def run() -> None:
        try:
            value = action()
        except Exception as error:  # noqa: BLE001 - handed to whoever reads the news
            value = error
        news.put((name, value))

    threading.Thread(target=run, name=name, daemon=True).start()


def _short(task: Task) -> str:
    return f"{task.plan[:12]}:{task.round}:{task.verb}:{task.step}"
