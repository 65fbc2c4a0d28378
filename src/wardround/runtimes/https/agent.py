"""``wardround site serve``: asks the coordinator what to do, and does it. Nothing of it is lost when it dies anywhere.

One thread decides; what may hang (a poll, a sign of life) runs in threads of its own, so that a person's
decision, taken in another process, is noticed within a second whatever the line does.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from logging import ERROR, WARNING
from typing import Any

from wardround import __version__
from wardround.core.audit import AuditLog
from wardround.core.errors import StorageError, WardRoundError
from wardround.runtimes.https.client import Client, Rejected, link_of
from wardround.runtimes.https.connection import Link
from wardround.runtimes.https.errand import Errands, aside
from wardround.runtimes.https.fetching import MOST, fetch_plan, fetch_results, fetched_results, known_plans
from wardround.runtimes.https.heads import countersign
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.joining import due, rekey
from wardround.runtimes.https.journal import Journal
from wardround.runtimes.https.logs import ROOT, TellOnce, say
from wardround.runtimes.https.patience import SHORTEST, Hold, Patience, Unreachable
from wardround.runtimes.https.pools import MakePool, site_pool
from wardround.runtimes.https.standings import Standings
from wardround.runtimes.https.wire import PROTOCOL, Incompatible, Next, Nothing, Offer, Poll, Results, Work

TICK = 0.5  # seconds in which a person's decision is noticed
LONG = 60.0  # seconds before asking again where only a person can help
HOUR = 3600.0
ROUNDS = ("train", "test")  # after these, site and coordinator sign each other's logs
Report = Callable[[Home, str], object]


@dataclass(frozen=True)
class Parts:
    """What an agent is made of besides its folder."""

    report: Report | None = None  # called with the digest of each run whose results came
    make: MakePool | None = None  # see `Errands`; None: what the site's settings say
    patience: Patience = field(default_factory=lambda: Patience(longest=15.0, tell=TellOnce()))
    hold: Hold = field(default_factory=Hold)
    link: Callable[[Home, SiteSettings], Link] = link_of  # another where something else than HTTPS carries requests
    renews: bool = True  # its own key, in time


class Agent:
    """One site's agent. Hold `Home.lock` while it lives."""

    def __init__(self, home: Home, parts: Parts | None = None) -> None:
        self._home, self._parts = home, parts or Parts()
        self._settings = home.settings()
        self._consents = home.consents()
        self._audit = AuditLog(home.audit)
        self._journal = Journal(self._audit)
        options: dict[str, Any] = {"patience": self._parts.patience, "leaving": self._journal, "warn": _warn}
        link = self._parts.link(home, self._settings)
        self._client = Client(link, home.key(), self._settings.federation, **options)
        self._standings = Standings(home, self._consents, self._client, self._ended)
        make = self._parts.make or site_pool(self._settings)
        self._errands = Errands(home, self._settings, self._consents, self._client, self._journal, make, self._reload)
        self._hold, self._failures = self._parts.hold, 0
        self._key = self._key_stamp()
        self._renew_at = 0.0
        self._unsigned = any((home.root / "runs").iterdir())  # killed before the last round was signed, perhaps
        self._over: set[str] = set()  # plans that cannot be read and results that cannot be used
        self._said: tuple[str, ...] = ()

    def serve(self, going: Callable[[], bool] = lambda: True) -> None:
        """As long as ``going`` says. Ends by an exception: of a signal, or where the disk is full or not writable."""
        say("serving", site=self._settings.name, coordinator=self._settings.url, folder=str(self._home.root))
        self._audit.append("serving", software=__version__)
        self._status("starting")
        try:
            while going():
                self.step()
        finally:
            self.close()

    def close(self) -> None:
        """End the worker and idle connections, at once."""
        self._errands.close()
        self._client.close()

    def step(self) -> None:
        """One question to the coordinator, and what it asks for."""
        try:
            self._renew()
            self._standings.tell()
            self._countersign()
            answer = self._poll()
            self._note_stopped(answer)
            if self._do(answer):
                self._failures = 0
            else:
                self._rest("the coordinator asks again for what could not be given")
        except Unreachable as error:
            self._standings.forget()
            self._rest(str(error))
        except Rejected as error:
            self._refused(error)
        except WardRoundError as error:  # a full disk, a coordinator of another version: people mend it meanwhile
            say("trouble", level=ERROR, reason=str(error))
            self._rest(str(error))
        except Exception as error:
            logging.getLogger(ROOT).exception("fault", extra={"facts": {}})
            self._rest(f"a fault of Ward Round itself ({type(error).__name__}), see log.jsonl")

    def _poll(self) -> Next:
        poll = Poll(
            protocol=PROTOCOL,
            software=__version__,
            wait=self._hold.seconds,
            knows=_together(known_plans(self._home), self._over),
            fetched=_together(fetched_results(self._home), self._over),
        )
        news: queue.Queue[tuple[str, Any]] = queue.Queue()
        begin = time.monotonic()
        aside(news, "poll", lambda: self._client.call("POST", "/v1/next", poll, Next, "poll", poll.wait))
        trouble = False
        while True:
            try:
                _, said = news.get(timeout=TICK)
                break
            except queue.Empty:
                trouble = trouble or not self._told()
        if isinstance(said, Unreachable) and time.monotonic() - begin > SHORTEST:
            self._hold.cut(time.monotonic() - begin)
        if isinstance(said, Exception):
            raise said
        self._hold.went()
        return said  # type: ignore[no-any-return] # aside hands over what `call` returns

    def _told(self) -> bool:
        try:
            self._standings.tell()
        except (Unreachable, Rejected):
            return False  # the poll will fail as well, or the next turn tells
        return True

    def _do(self, answer: Next) -> bool:
        do = answer.do
        if isinstance(do, Work):
            return self._work(do)
        if isinstance(do, Nothing):
            self._status("waiting for work")
        elif isinstance(do, Incompatible):
            self._status("incompatible software", do.reason)
            say("incompatible", level=ERROR, reason=do.reason)
            self._parts.patience.pause(LONG)
        elif isinstance(do, Offer):
            self._consider(do.plan, lambda: fetch_plan(self._client, self._consents, self._journal, do))
        elif isinstance(do, Results):
            self._consider(do.plan, lambda: self._results(do))
        return True

    def _work(self, work: Work) -> bool:
        digest = work.task.plan
        number = work.task.round + (work.task.verb == "train")  # a round is named by its number from 1 on
        self._status(f"{work.task.verb}, round {number} of run {digest[:12]}")
        request = self._consents.request(digest)
        given = request.plan is not None and self._errands.run(work, request.plan)
        if not given and self._consents.request(digest).permission.standing != "approved":
            self._standings.again(digest)
        self._unsigned = self._unsigned or work.task.verb in ROUNDS
        self._countersign()
        return given

    def _countersign(self) -> None:
        """Site and coordinator sign each other's logs, where a round went by since they did."""
        if not self._unsigned:
            return
        self._reload()
        try:
            countersign(self._home, self._settings, self._client, self._audit)
        except Unreachable:
            raise
        except WardRoundError as error:
            say("log_not_countersigned", level=ERROR, reason=str(error), next="wardround site log --verify")
        self._unsigned = False

    def _results(self, results: Results) -> None:
        plan = self._consents.desk.plan(results.plan)
        self._status(f"fetching the results of run {results.plan[:12]}")
        fetch_results(self._home, self._settings, self._errands.transfers, self._journal, results, plan)
        self._clear(results.plan)
        if self._parts.report is not None:
            try:
                self._parts.report(self._home, results.plan)
            except Exception as error:  # noqa: BLE001 - the model is here; the page can be written again by hand
                say("report_failed", level=ERROR, error=str(error), next=f"wardround site results {results.plan[:12]}")

    def _consider(self, digest: str, action: Callable[[], object]) -> None:
        """Do what is about one run; a run of which nothing can be made must not stop all others."""
        try:
            action()
        except (Unreachable, Rejected, StorageError):
            raise
        except WardRoundError as error:
            self._over.add(digest)
            say("run_left_out", level=ERROR, plan=digest[:12], reason=str(error))
            self._audit.append("run_left_out", plan=digest, reason=str(error)[:500])

    def _note_stopped(self, answer: Next) -> None:
        for digest in answer.stopped:
            if digest not in self._over:
                self._over.add(digest)
                self._clear(digest)
                say("run_aborted", plan=digest[:12])

    def _clear(self, digest: str) -> None:
        """A run is over: its worker and what was downloaded for it are of no more use."""
        self._errands.close()
        shutil.rmtree(self._home.inbox(digest), ignore_errors=True)

    def _ended(self) -> set[str]:
        return {*fetched_results(self._home), *self._over}

    def _refused(self, error: Rejected) -> None:
        """A refusal of what was asked. A key that is not accepted may be mended in another process meanwhile."""
        if self._reload():
            return
        self._status(f"refused ({error.code})", str(error))
        say("refused", level=ERROR, code=error.code, reason=error.refused.message)
        only_a_person_helps = error.code in ("revoked", "unknown_key", "expired", "federation", "incompatible")
        if not only_a_person_helps:
            self._rest(str(error))
            return
        for _ in range(int(LONG / TICK)):
            self._parts.patience.pause(TICK)
            if self._reload():
                return

    def _rest(self, why: str) -> None:
        self._failures += 1
        self._status("trying again", why)
        self._parts.patience.rest(WardRoundError(why), self._failures)

    def _renew(self) -> None:
        """Renew a key that is near its end; what fails is tried again after an hour, there is a month for it."""
        self._reload()
        if not self._parts.renews or not due(self._settings) or time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + HOUR
        try:
            settings = rekey(self._home, patience=Patience(tries=2))
        except (Unreachable, Rejected) as error:
            say("key_not_renewed", level=WARNING, reason=str(error), expires=_day(self._settings.expires))
            return
        self._audit.append("key_renewed", expires=settings.expires)
        say("key_renewed", expires=_day(settings.expires))
        self._reload()

    def _reload(self) -> bool:
        """Take up a key that was changed, here or by `wardround site rekey` in another process."""
        stamp = self._key_stamp()
        if stamp == self._key:
            return False
        self._key, self._settings = stamp, self._home.settings()
        self._client.use(self._parts.link(self._home, self._settings), self._home.key())
        return True

    def _key_stamp(self) -> tuple[int, int]:
        found = self._home.key_file.stat()
        return found.st_mtime_ns, found.st_ino

    def _status(self, doing: str, problem: str = "") -> None:
        """What `wardround site status` shows."""
        said = (doing, problem)
        if said != self._said:
            self._said = said
            state = {"pid": os.getpid(), "doing": doing, "problem": problem, "since": int(time.time())}
            self._home.note_json(self._home.serving, state)


def _together(known: list[str], over: set[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*sorted(over), *known]))[-MOST:]


def _warn(text: str) -> None:
    say("clock", level=WARNING, reason=text)


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(moment))
