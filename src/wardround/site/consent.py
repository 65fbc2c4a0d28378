"""Nothing runs before a person at the site approved this very plan. Starts fast: torch is not imported.

An approval is bound to the plan's digest, the software's major.minor version and the dataset's identity.
Where one of them changed, the plan is pending again, and one decision continues. The policy is judged
besides, at every task, and no task goes beyond what the plan said would leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wardround import __version__
from wardround.core.audit import AuditLog
from wardround.core.errors import Fault, InputError, SiteError, WardRoundError, in_one_line
from wardround.core.messages import AFTER, FailureKind, Reply, Task
from wardround.planning.plan import Plan
from wardround.site.announced import announces
from wardround.site.decisions import Decision, Desk, Standing
from wardround.site.identity import DatasetWatch, Identity, compare_identities
from wardround.site.outgoing import bytes_a_round
from wardround.site.policy import Objection, Policy, SiteFacts, load_policy
from wardround.site.private_files import alone

WAITING = "waiting for approval"
AGAIN = f"{WAITING}, which has to be given again"
UNDECIDED = "nobody here has decided yet"
UNREADABLE = "the site's policy or dataset cannot be read now"


@dataclass(frozen=True)
class Permission:
    """Whether a task may run. ``reason`` may leave the site; ``detail`` names its own things and stays."""

    allowed: bool
    standing: Standing
    reason: str = ""
    detail: str = ""
    until: float | None = None  # Unix time at which it may be allowed without anybody's doing

    @property
    def failure(self) -> FailureKind:
        """What kind of `SiteFailed` tells of it."""
        return "pending" if self.standing == "pending" or self.until is not None else "refused"


@dataclass(frozen=True)
class Request:
    """A plan that was asked for, and where it stands. ``plan`` is None where the stored file cannot be used."""

    digest: str
    since: float
    permission: Permission
    plan: Plan | None
    decision: Decision | None


class Consents:
    """The plans of one site folder, and what may be done about them. Safe beside another process.

    Args:
        folder: the site folder: ``requests/``, ``approvals/``, ``policy.yaml``.
        audit: where every plan that arrives, decision and refusal is written.
        watch: the site's dataset.
        clock: local time; quiet hours follow it.
    """

    def __init__(
        self, folder: Path, audit: AuditLog, watch: DatasetWatch, clock: Callable[[], datetime] = datetime.now
    ) -> None:
        self._folder, self._audit, self.watch, self._clock = folder, audit, watch, clock
        self.desk = Desk(folder)
        self._told: dict[str, str] = {}  # what was last written into the log about a plan

    def receive(self, text: bytes) -> Plan:
        """Store a plan as asked; the same again changes nothing.

        Raises:
            InputError: it is no plan that this software can carry out; lists every fault.
            StorageError: it cannot be stored.
        """
        plan, new = self.desk.store(text)
        if new:
            self._audit.append("plan_received", plan=plan.digest(), bytes=len(text))
        return plan

    def standing(self, digest: str) -> Standing:
        """The last decision alone: cheap enough to ask every second while a task runs."""
        try:
            decision = self.desk.decision(digest)
        except InputError:
            return "pending"
        return "pending" if decision is None else decision.standing

    def permission(self, plan: Plan, task: Task | None = None, software: str = __version__) -> Permission:
        """How the site stands to a plan now, and whether ``task`` may run. Never raises for what it finds."""
        digest = plan.digest()
        found, event = self._stands(digest, software)
        if not found.allowed:
            if event:
                self._tell(digest, event, why=found.detail)
            return found
        try:
            beyond = None if task is None else self._beyond(plan, digest, task)
            objections = self.policy().judge(plan, task, self.facts(plan), self._clock())
        except SiteError as error:
            self._tell(digest, "too_few_cases", why=in_one_line(error))
            return Permission(False, "approved", in_one_line(error), in_one_line(error))
        except WardRoundError as error:
            self._tell(digest, "unreadable", why=in_one_line(error))
            return Permission(False, "approved", UNREADABLE, in_one_line(error))
        if beyond is not None:
            self._tell(digest, "task_refused", task=task.id if task else "", why=beyond)
            return Permission(False, "approved", "the task goes beyond the plan that was approved", beyond)
        return self._objected(digest, objections) if objections else found

    def may_leave(self, plan: Plan, reply: Reply) -> Permission:
        """Whether an answer may be sent: the policy again, now that its true size and cases are known."""
        digest = plan.digest()
        found = Permission(self.standing(digest) == "approved", self.standing(digest))
        if not found.allowed:
            return replace(found, reason=WAITING if found.standing == "pending" else found.standing)
        try:
            objections = self.policy().judge_reply(reply)
        except InputError as error:
            return Permission(False, "approved", UNREADABLE, in_one_line(error))
        return self._objected(digest, objections) if objections else found

    def decide(
        self, digest: str, standing: Standing, person: str, reason: str = "", software: str = __version__
    ) -> None:
        """Write down what a person decided; it holds at once, also in a process that serves.

        Raises:
            InputError: the stored plan was changed, the policy does not allow it, or there is nothing to revoke.
            DatasetError: approving, and the dataset cannot be read.
            SiteError: approving, and there are too few subjects.
        """
        with alone(self.desk.lock):
            before = self.standing(digest)
            self._possible(before, standing, person, reason)
            plan = self.desk.plan(digest) if standing == "approved" else None
            identity = self._approvable(plan) if plan is not None else None
            decision = Decision(
                plan=digest,
                standing=standing,
                person=person.strip(),
                reason=reason,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                software=software,
                dataset=identity.digest if identity else None,
                cases=len(identity.cases) if identity else 0,
            )
            # First the log: what took effect without being written down would be worse than the reverse.
            facts = decision.model_dump(mode="json", include={"plan", "person", "reason", "software"})
            data = {"dataset": decision.dataset, "cases": decision.cases} if identity else {}
            self._audit.append(standing, **facts, **data)
            self.desk.decide(decision, identity)

    def all(self, software: str = __version__) -> list[Request]:
        """Every plan that was asked for, oldest first."""
        return [self.request(digest, software) for digest in self.desk.digests()]

    def request(self, digest: str, software: str = __version__) -> Request:
        """One of them."""
        plan, decision = None, None
        try:
            plan = self.desk.plan(digest)
            decision = self.desk.decision(digest)
        except InputError:
            pass  # what is wrong is said by the permission
        return Request(digest, self.desk.since(digest), self._stands(digest, software)[0], plan, decision)

    def look_at(self, digest: str, software: str = __version__) -> Request:
        """As `request`; what needs a person's eye, such as a plan changed after approval, goes into the log."""
        found, event = self._stands(digest, software)
        if event:
            self._tell(digest, event, why=found.detail)
        return self.request(digest, software)

    def policy(self) -> Policy:
        """The policy as it is now. Raises InputError."""
        return load_policy(self._folder / "policy.yaml")

    def facts(self, plan: Plan) -> SiteFacts:
        """What the policy is held against, as far as it can be known before any work.

        Raises:
            SiteError: too few subjects to train, validate and test apart; the text may leave the site.
            DatasetError: the dataset cannot be listed.
        """
        return SiteFacts(self.watch.parts(plan)["train"], bytes_a_round(plan))

    def _stands(self, digest: str, software: str) -> tuple[Permission, str]:
        """Consent alone, without policy and task; and what the log calls it, where it needs a person's eye."""
        if not self.desk.holds(digest):
            return Permission(False, "pending", WAITING, "this plan was not received"), ""
        try:
            self.desk.plan(digest)
            decision = self.desk.decision(digest)
        except InputError as error:
            return Permission(False, "pending", WAITING, in_one_line(error)), "tampered"
        if decision is None:
            return Permission(False, "pending", WAITING, UNDECIDED), ""
        if decision.standing != "approved":
            by = f"{decision.standing} by {decision.person}"
            return Permission(False, decision.standing, decision.reason, by), ""
        if _minor(decision.software) != _minor(software):
            why = f"the software changed from {_minor(decision.software)} to {_minor(software)} since approval"
            return Permission(False, "pending", AGAIN, why), "asked_again"
        return self._same_dataset(digest, decision)

    def _same_dataset(self, digest: str, decision: Decision) -> tuple[Permission, str]:
        try:
            now = self.watch.identity()
            if now.digest == decision.dataset:
                return Permission(True, "approved"), ""
            before = self.desk.approved_identity(decision)
            what = str(compare_identities(before, now)) if before else "how is not known"
            if self.policy().confirm_dataset_changes:
                why = f"the dataset changed since approval: {what}"
                return Permission(False, "pending", AGAIN, why), "asked_again"
        except WardRoundError as error:
            return Permission(False, "approved", UNREADABLE, in_one_line(error)), "unreadable"
        with alone(self.desk.lock):
            if self.desk.decision(digest) == decision:  # nobody decided meanwhile
                self._audit.append("dataset_changed", plan=digest, what=what, dataset=now.digest, confirmed=False)
                taken = decision.model_copy(update={"dataset": now.digest, "cases": len(now.cases)})
                self.desk.decide(taken, now)
        return Permission(True, "approved"), ""

    def _beyond(self, plan: Plan, digest: str, task: Task) -> str | None:
        """Why a task is not among those that the approved plan announced; None: it is."""
        number = task.round
        if task.plan != digest:
            return "the task belongs to another plan"
        if plan.study.ends is not None and self._clock().date() > plan.study.ends:
            return f"the study ended on {plan.study.ends}"
        if task.step != 0 or not announces(plan, task.verb, number):
            return f"the plan announces no {task.verb} in round {number}, step {task.step}"
        ended = self.desk.ended(digest)
        if ended is None and task.verb in AFTER:
            self.desk.end(digest, number)
        elif ended is not None and (number != ended if task.verb in AFTER else number + (task.verb == "train") > ended):
            return f"{task.verb} in round {number}: what comes after the last round was asked in round {ended}"
        return None

    def _objected(self, digest: str, objections: list[Objection]) -> Permission:
        rules = ", ".join(dict.fromkeys(objection.rule for objection in objections))
        detail = "; ".join(str(objection) for objection in objections)
        ends = [objection.until for objection in objections]
        until = max((end.timestamp() for end in ends if end is not None), default=None) if all(ends) else None
        self._tell(digest, "policy_forbids", why=rules)
        return Permission(False, "approved", f"the site's policy does not allow it now ({rules})", detail, until)

    def _possible(self, before: Standing, standing: Standing, person: str, reason: str) -> None:
        faults = []
        if standing == "pending":
            faults.append(Fault("standing", "nobody decides that a plan is pending"))
        if not person.strip() or len(person) > 200:
            faults.append(Fault("name", "who decides? Give a name of at most 200 characters"))
        if len(reason) > 500:
            faults.append(Fault("reason", f"has {len(reason)} characters, at most 500 are possible"))
        if standing == "revoked" and not reason.strip():
            faults.append(Fault("reason", "say why: the coordinator is told"))
        if standing == "revoked" and before != "approved":
            faults.append(Fault("standing", f"the plan is {before}: only an approval can be revoked"))
        if standing == "refused" and before == "approved":
            faults.append(Fault("standing", "the plan was approved: revoke the approval"))
        if faults:
            raise InputError("this cannot be decided", faults)

    def _approvable(self, plan: Plan) -> Identity:
        objections = self.policy().judge(plan, None, self.facts(plan), self._clock())
        if objections:
            faults = [Fault(objection.rule, objection.text) for objection in objections]
            raise InputError("policy.yaml does not allow this plan: change the policy, or refuse the plan", faults)
        return self.watch.identity()

    def _tell(self, digest: str, event: str, **facts: str) -> None:
        """Write what is asked over and over into the log once, until something else is to be said."""
        text = f"{event} {facts}"
        if self._told.get(digest) != text:
            self._told[digest] = text
            self._audit.append(event, plan=digest, **facts)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
