"""`Transport` over the coordinator's store: opens a task, and waits for what the sites give.

Who answered and who did not is decided once for every site and task, and is durable: the same task asked
again after a restart gives the same answers and the same failures, so a round never counts other sites
than it did before.

A site without approval is missing at once, and so is one that takes its approval back. One that is silent
is late when it gave no sign of progress for the plan's ``rounds.stall`` seconds and enough others have
answered; before that there is nothing to go on with, and it is waited for. A site that was late is not
waited for again until it has sent any signed request, whatever restarts meanwhile: a dead site costs a run
one stall, and one that is back takes part from the next task on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wardround.aggregation.checked import Checked
from wardround.core.errors import WardRoundError
from wardround.core.messages import AFTER, ANSWERS, Answer, SiteFailed, Task, Verb
from wardround.planning.plan import Plan
from wardround.runtimes.https.attending import Roll, Silence, Stand, Tell
from wardround.runtimes.https.store import Outcome, Store

TICK = 1.0  # seconds: the longest time for which a stop goes unnoticed


class Aborted(WardRoundError):
    """A person stopped the run."""


class Stopped(WardRoundError):
    """The server ends. What was reached is durable and goes on when it starts again."""


def needed(plan: Plan, sites: int) -> int:
    """How many of ``sites`` must train for a round to count: the quorum, and what the aggregation cannot do without."""
    return min(max(plan.rounds.needed(sites), _least(plan, sites)), sites)


def _least(plan: Plan, sites: int) -> int:
    rule = plan.aggregation
    return rule.least(sites)[0] if isinstance(rule, Checked) else 1


def fault_of(task: Task, answer: Answer) -> str | None:
    """Why ``answer`` is none to ``task``, in words that may be shown; None where it is one."""
    reply, expected = answer.reply, ANSWERS[task.verb]
    if reply.task != task.id:
        return "its answer is to another task"
    if not isinstance(reply.facts, expected.facts):
        return f"its answer says {reply.facts.kind}, which is no answer to {task.verb}"
    if (reply.tensors is not None) != expected.tensors:
        return "its answer brings no weights" if expected.tensors else "its answer brings weights, unasked"
    if reply.tensors is not None and (answer.tensors is None or not answer.tensors.is_file()):
        return "the weights that it sent are no longer on the coordinator's disk"
    return None


class HttpsTransport:
    """`wardround.core.contracts.Transport` to the sites of one run; one task at a time."""

    def __init__(
        self,
        store: Store,
        plan: Plan,
        roster: Sequence[str],
        tell: Tell = lambda _event, _facts: None,
        *,
        roll: Roll | None = None,
        silent: Mapping[str, float | None] | None = None,
        stopping: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``tell`` hears what happens; ``silent``: see `silent_before`; ``stopping`` ends the waiting (`Stopped`)."""
        self._store, self._plan, self._roster = store, plan, tuple(roster)
        self._digest, self._tell = plan.digest(), tell
        self._roll = roll or Roll(store, self._digest, {}, tell)
        self._stopping = stopping or threading.Event()
        self._silence, self._clock = Silence(clock, silent), clock
        self._stands: tuple[int, Mapping[str, Stand]] = (-1, {})
        self._noted = float("-inf")

    def ask(self, task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        """See `wardround.core.contracts.Transport`.

        Raises:
            Aborted, Stopped: the run ends, or the server does.
        """
        self.check()
        self._store.open_task(task, tensors, sites)
        self._tell("task_opened", {"task": task.id, "tensors": task.tensors, "sites": list(sites)})
        self._close_older(task)  # while the sites are at work
        self._silence.begin()
        self._noted = float("-inf")
        waiting, patient = list(sites), False
        while True:
            version = self._store.version()
            now = self._look(task, sites)
            for site in list(waiting):
                result = now.known.get(site) or self._missing(task, site, now)
                if result is not None:
                    waiting.remove(site)
                    yield result
            if not waiting:
                return
            patient = patient or self._held_up(task, waiting, now)
            self._store.wait(version, TICK)

    def check(self) -> None:
        """Raises Aborted or Stopped where nothing more is to be done."""
        if self._stopping.is_set():
            raise Stopped("the coordinator's server ends")
        row = self._store.run(self._digest)
        if row.state == "aborted":
            raise Aborted(row.note or "aborted")

    def _look(self, task: Task, sites: Sequence[str]) -> _Now:
        stands = self.standing()
        known = {site: _judged(task, site, outcome) for site, outcome in self._store.outcomes(task.id).items()}
        if self._clock() - self._noted >= TICK / 2:
            self._note_signs(task)
        answers = sum(isinstance(known.get(site), Answer) for site in sites)
        if task.verb == "init":  # put to one site after another: a silent one is passed over while there is a next
            approved = {site for site, stand in stands.items() if stand.standing == "approved"}
            missing = 0 if approved & set(self._roster) - known.keys() - set(sites) else 1 - answers
        else:
            missing = self._enough(task.verb, len(sites)) - answers
        return _Now(known, stands, answers, max(0, missing))

    def _note_signs(self, task: Task) -> None:
        self._noted = self._clock()
        heard = {site: when for site, (when, _) in self._store.seen().items()}
        self._silence.note(self._store.moved(task.id), heard)

    def _late(self, task: Task, site: str) -> bool:
        stall = self._plan.rounds.stall
        if not self._silence.late(site, stall):
            return False
        self._note_signs(task)  # it may have called in the last moment
        return self._silence.late(site, stall)

    def _enough(self, verb: Verb, sites: int) -> int:
        if verb == "train":
            return needed(self._plan, sites)
        return min(_least(self._plan, sites), sites) if ANSWERS[verb].tensors else 1

    def standing(self) -> Mapping[str, Stand]:
        """How the sites stand, read anew where anything of that kind was written; see also `check`."""
        if self._stopping.is_set():
            raise Stopped("the coordinator's server ends")
        duties = self._store.duties()
        if duties != self._stands[0]:
            self.check()
            self._stands = duties, self._roll.look()
        return self._stands[1]

    def _missing(self, task: Task, site: str, now: _Now) -> Outcome | None:
        """The failure of a site that has to be counted out; None where it may still answer."""
        missing = now.stands.get(site, Stand("pending")).missing
        if missing is None and (now.needed or not self._late(task, site)):
            return None
        kind, reason = missing or ("late", f"no progress for {self._plan.rounds.stall} seconds")
        failure = SiteFailed(task=task.id, site=site, kind=kind, reason=reason)
        decided = _judged(task, site, self._store.decide(task.id, site, failure))
        if isinstance(decided, SiteFailed) and decided.kind == "late":
            self._silent(site)
        return decided

    def _silent(self, site: str) -> None:
        """Not waited for until it is heard of again; the run's log keeps it, so that a restart changes nothing."""
        newly = self._silence.missed(site)
        if newly is not None:
            self._tell("site_silent", {"site": site, "heard": newly[0]})

    def _held_up(self, task: Task, waiting: Sequence[str], now: _Now) -> bool:
        """Whether somebody is silent beyond the limit without whom there is nothing to go on with; tells that."""
        silent = [site for site in waiting if self._silence.late(site, self._plan.rounds.stall)]
        if not silent or not now.needed:
            return False
        facts = {"round": task.round, "verb": task.verb, "sites": silent, "answered": now.answers}
        self._tell("waiting_for", {**facts, "needed": now.answers + now.needed})
        return True

    def _close_older(self, task: Task) -> None:
        """These begin from a checkpoint: what was asked before it is over, and its tensors may go."""
        if task.verb not in ("train", *AFTER):
            return
        older: list[tuple[Verb, int]] = [("train", task.round - 1), ("validate", task.round)]
        older += [(verb, task.round) for verb in AFTER[: AFTER.index(task.verb)]] if task.verb in AFTER else []
        if task.round <= 1:
            older += [("describe", 0), ("init", 0)]
        for verb, number in older:
            if number >= 0:
                self._store.close_task(Task(plan=self._digest, round=number, verb=verb).id)
        self._store.prune(self._digest, task.round)


@dataclass(frozen=True)
class _Now:
    """Where a task stands at one moment."""

    known: Mapping[str, Outcome]
    stands: Mapping[str, Stand]
    answers: int
    needed: int  # answers without which there is nothing to go on with


def _judged(task: Task, site: str, outcome: Outcome) -> Outcome:
    """An answer that is none to this task is a failure, now and whenever it is played back."""
    fault = fault_of(task, outcome) if isinstance(outcome, Answer) else None
    return outcome if fault is None else SiteFailed(task=task.id, site=site, kind="error", reason=fault)
