"""One run of a network, from wherever it stands to its end. All that matters is durable: kill it anywhere.

::

    waiting --(enough sites approved)--> running --> ended
       ^                                   |
       +-----(too few are left)------------+---(sites failed, a full disk, ...)--> failed --(resume)--> waiting
    aborted: from any of them, by a person
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

from sqlalchemy.exc import SQLAlchemyError

from wardround.coordinator.rounds import Run, run_rounds
from wardround.coordinator.state import State
from wardround.core.errors import QuorumLost, StorageError, WardRoundError
from wardround.core.messages import Task, Verb
from wardround.core.rundir import EventLog, RunDir, read_events
from wardround.runtimes.https.attending import Roll, silent_before, told_before
from wardround.runtimes.https.networked import ARM, SHORT, has_ended, make_run_dir, outcome_of, reached
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.store import RunState
from wardround.runtimes.https.transport import TICK, Aborted, HttpsTransport, Stopped, needed
from wardround.runtimes.scalars import Scalars

LONGEST_REST = 300.0  # seconds between two tries of a run whose sites cannot take part
ABSENT = ("pending", "refused", "late")
BEGINNINGS = ("run_started", "run_resumed")
Say = Callable[[str, dict[str, Any]], None]
Report = Callable[[RunDir], object]


@dataclass(frozen=True)
class Means:
    """What every run of a coordinator is given."""

    office: Office
    report: Report  # writes a run's report
    say: Say  # the server's log
    stopping: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic


class Conduct:
    """Carries out one run. `go` returns when the run is over, or the server ends."""

    def __init__(self, means: Means, digest: str) -> None:
        self._means, self._digest = means, digest
        self._store = means.office.store
        self._plan = self._store.plan(digest)
        self._roster = self._store.run(digest).roster
        self.place = make_run_dir(means.office.folder, self._plan, self._roster)
        events = list(read_events(self.place.events))
        self._task = next((str(e["task"]) for e in reversed(events) if e["event"] == "task_opened"), None)
        self._failures: dict[str, tuple[str, str]] = {}  # of that task: site -> (kind, reason)
        self._lost = 0  # quorums in a row since a round ended
        self._scalars = Scalars(self.place.root / "tensorboard")
        self._log = EventLog(self.place.events, self._listen)
        self._transport = HttpsTransport(
            self._store,
            self._plan,
            self._roster,
            self._tell,
            roll=Roll(self._store, digest, told_before(events), self._tell),
            silent=silent_before(events),
            stopping=means.stopping,
            clock=means.clock,
        )

    def go(self) -> None:
        """Raises StorageError where nothing can be written now, not even a failure: to be tried again later."""
        lock = self.place.lock()
        try:
            self._go()
        except Stopped:
            pass
        except Aborted:
            self._abort()
        except QuorumLost:
            self._fail(self._why_lost())
        except SQLAlchemyError as error:
            raise StorageError(f"the coordinator's database: {error}") from error
        except WardRoundError as error:
            self._fail(str(error))
        except Exception as error:  # noqa: BLE001 - one run's fault must not end the others
            self._means.say("run_crashed", {"run": self._digest, "trace": traceback.format_exc()})
            self._fail(f"an error of Ward Round itself, see the server's log: {type(error).__name__}: {error}")
        finally:
            self._scalars.close()
            os.close(lock)

    def _go(self) -> None:
        while not has_ended(self.place):
            self._transport.check()
            if self._store.run(self._digest).state == "waiting":
                self._await_quorum()
            self._log_beginning()
            sites = self._roster
            try:
                run_rounds(Run(self._plan, self.place, self._transport.ask, sites, sites, self._log))
            except QuorumLost:
                self._log.write("quorum_lost", task=self._task)
                if not self._absent():
                    raise
                self._lost += 1
                self._set("waiting", self._why_lost())
        self._finish()

    def _await_quorum(self) -> None:
        enough = needed(self._plan, len(self._roster))
        while True:
            version = self._store.version()
            if self._approved() >= enough:
                break
            self._store.wait(version, TICK)
        self._rest()
        if (lost := self._lost_task()) is not None:
            self._store.forget_failures(lost)  # nothing of that task was used: who failed is asked again
        self._set("running")

    def _rest(self) -> None:
        """Sites that approved and still cannot take part (their policy, quiet hours) are not asked without a pause."""
        if not self._lost:
            return
        over, before = time.monotonic() + min(LONGEST_REST, 2.0 ** (self._lost - 1)), self._transport.standing()
        while (left := over - time.monotonic()) > 0 and self._transport.standing() == before:
            self._transport.check()
            self._store.wait(self._store.version(), min(TICK, left))

    def _approved(self) -> int:
        return sum(stand.standing == "approved" for stand in self._transport.standing().values())

    def _lost_task(self) -> str | None:
        """The task by which the run stopped last, unless it went on since."""
        lost = None
        for event in read_events(self.place.events):
            if event["event"] in BEGINNINGS:
                lost = None
            elif event["event"] == "quorum_lost":
                lost = str(event["task"])
        return lost

    def _log_beginning(self) -> None:
        if any(event["event"] in BEGINNINGS for event in read_events(self.place.events)):
            self._log.write("run_resumed")
        else:
            self._log.write("run_started", plan=self._digest, sites=list(self._roster), seed=self._plan.seed)

    def _absent(self) -> bool:
        """Whether a quorum was lost because sites are away, not because something is wrong at them."""
        away = all(kind in ABSENT for kind, _ in self._failures.values())
        return away or self._approved() < needed(self._plan, len(self._roster))

    def _why_lost(self) -> str:
        _, number, verb, _ = (self._task or "::::").split(":", 3)
        reasons = "".join(f"\n  - {site}: {kind}: {reason}" for site, (kind, reason) in self._failures.items())
        least = needed(self._plan, len(self._roster)) if verb == "train" else 1
        return f"round {number}, {verb}: too few of the {len(self._roster)} sites answered ({least} needed){reasons}"

    def _finish(self) -> None:
        self._transport.check()
        outcome = outcome_of(self.place, self._roster)
        self._close_all()
        self._write_report()
        if self._store.finish_run(self._digest, self.place.model, outcome) != "ended":
            raise Aborted("aborted")
        self._note("ended", "")

    def _abort(self) -> None:
        self._close_all()
        self._log_stop("aborted")
        self._write_report()
        self._note("aborted", self._store.run(self._digest).note)

    def _fail(self, why: str) -> None:
        how = (
            f"Mend it, then go on with: wardround coordinator resume {self._means.office.folder} {self._digest[:SHORT]}"
        )
        self._log_stop("failed")
        note = f"{why}\n{how}"
        if self._store.set_run(self._digest, "failed", note) == "aborted":
            self._abort()
            return
        self._note("failed", note)
        self._write_report()

    def _log_stop(self, reason: str) -> None:
        events = [event["event"] for event in read_events(self.place.events)]
        if "run_stopped" not in events[max((i for i, e in enumerate(events) if e in BEGINNINGS), default=0) :]:
            state = reached(self.place) or State()
            self._log.write("run_stopped", reason=reason, rounds=state.round, best_round=state.best_round)

    def _close_all(self) -> None:
        if self._task is not None:
            number = int(self._task.split(":")[1])
            for verb in get_args(Verb):
                self._store.close_task(Task(plan=self._digest, round=number, verb=verb).id)
            self._store.prune(self._digest, number + 1)

    def _set(self, state: RunState, note: str = "") -> None:
        if self._store.set_run(self._digest, state, note) == "aborted":
            raise Aborted("aborted")
        self._note(state, note)

    def _note(self, state: RunState, note: str) -> None:
        facts = {"run": self._digest, "state": state, "note": note}
        self._means.office.audit.append("run_state", **facts)
        self._means.say("run_state", facts)

    def _write_report(self) -> None:
        try:
            self._means.report(self.place)
        except Exception as error:  # noqa: BLE001 - a report can be written again at any time
            self._means.say("report_failed", {"run": self._digest, "error": f"{type(error).__name__}: {error}"})

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        """What the transport tells: into the run's log, the server's and, of tasks, the audit log."""
        if event == "task_opened":
            self._task, self._failures = facts["task"], {}
            self._means.office.audit.append(event, **facts)
        self._log.write(event, **facts)
        self._means.say(event, {"run": self._digest, **facts})

    def _listen(self, event: str, facts: dict[str, Any]) -> None:
        """What the rounds write into the run's log."""
        self._scalars.listen(ARM, {"event": event, **facts})
        if event == "round_ended":
            self._lost = 0
        if event == "site_failed":
            self._failures[facts["site"]] = (facts["kind"], facts["reason"])
        if event in ("site_failed", "site_alert", "round_ended", "run_stopped"):
            self._means.say(event, {"run": self._digest, **facts})
