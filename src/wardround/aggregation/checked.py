"""What every aggregation does first: check each contribution, and shorten updates that are far too long.

Why, and what it costs: docs/decisions/0007-contributions-are-checked-and-clipped.md.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import Field

from wardround.aggregation.checks import Verdict, check_forms, judge
from wardround.aggregation.contributions import Contribution, Folded, Group, opened
from wardround.aggregation.directions import contrary
from wardround.core.contracts import Aggregate, Aggregation, Alert, Ask, Lost
from wardround.core.errors import WardRoundError
from wardround.core.messages import ANSWERS, Answer, SiteFailed, Task
from wardround.core.weights import Part


@dataclass
class _Round:
    """One exchange: who answered, who failed or was rejected and why, and what was conspicuous."""

    task: Task
    answers: dict[str, Answer] = field(default_factory=dict)
    failures: dict[str, SiteFailed] = field(default_factory=dict)
    alerts: list[Alert] = field(default_factory=list)

    def reject(self, reasons: Mapping[str, str]) -> None:
        """Count sites as failed."""
        for site, reason in reasons.items():
            del self.answers[site]
            self.failures[site] = SiteFailed(task=self.task.id, site=site, kind="error", reason=reason[:500])
            self.alerts.append(Alert(site, "rejected"))


class Checked(Aggregation):
    """An aggregation of contributions that the coordinator sees one by one."""

    clip: float | None = Field(
        default=3.0, ge=1, le=1e6, description="longest update of a site, times the sites' median; null: any length"
    )

    @abstractmethod
    def combine(self, group: Group) -> Folded:
        """The group's parts and, unless ``group.measured``, each member's squares.

        Where a square is not finite the parts do not matter: it is asked again without that member.
        """

    def least(self, asked: int) -> tuple[int, str]:
        """Contributions without which the rule is undefined when ``asked`` sites are asked, and why."""
        return min(1, asked), ""

    def collect(
        self, ask: Ask, task: Task, tensors: Path | None, sites: Sequence[str], quorum: int
    ) -> Aggregate | Lost:
        begin = time.perf_counter()
        here = _gather(ask, task, tensors, sites)
        arrived = time.perf_counter()
        contributing = ANSWERS[task.verb].tensors
        least, why = self.least(len(sites)) if contributing else (1, "")
        if least <= quorum:
            least, why = quorum, ""
        parts = self._settle(here, tensors, least) if contributing else {}
        failed = tuple(here.failures[site] for site in sites if site in here.failures)
        if len(here.answers) < least:
            return Lost(failed, needed=least, got=len(here.answers), alerts=tuple(here.alerts), why=why)
        seconds = {"wait": arrived - begin, "fold": time.perf_counter() - arrived}
        return Aggregate(parts, tuple(here.answers.values()), failed, seconds, tuple(here.alerts))

    def _settle(self, here: _Round, tensors: Path | None, least: int) -> Mapping[str, Part]:
        """Fold what is sound; the others leave ``here.answers``. Nothing where fewer than ``least`` remain."""
        with ExitStack() as stack:
            sent = None if tensors is None else opened(stack, "", tensors)
            members = _open_all(stack, here)
            here.reject(check_forms(members.values(), sent))
            group = Group([members[site] for site in here.answers], sent)
            if len(group.members) < least:
                return {}
            folded = self.combine(group)
            verdict = judge(group, folded.squares, self.clip)
            here.reject(verdict.rejected)
            here.alerts += verdict.alerts
            sound = [member for member in group.members if member.site not in verdict.rejected]
            here.alerts += contrary(replace(group, members=sound))
            if len(here.answers) < least or not (verdict.rejected or verdict.factors):
                return folded.parts
            return self.combine(_mended(group, verdict)).parts


def _mended(group: Group, verdict: Verdict) -> Group:
    members = [
        replace(member, factor=verdict.factors.get(member.site, 1.0))
        for member in group.members
        if member.site not in verdict.rejected
    ]
    return Group(members, group.sent, measured=True)


def _gather(ask: Ask, task: Task, tensors: Path | None, sites: Sequence[str]) -> _Round:
    """Everyone's answer or failure, in site order."""
    answers: dict[str, Answer] = {}
    failures: dict[str, SiteFailed] = {}
    for result in ask(task, tensors, sites):
        if isinstance(result, Answer):
            answers[result.reply.site] = result
        else:
            failures[result.site] = result
    return _Round(task, {site: answers[site] for site in sites if site in answers}, failures)


def _open_all(stack: ExitStack, here: _Round) -> dict[str, Contribution]:
    members: dict[str, Contribution] = {}
    faults: dict[str, str] = {}
    for site, answer in here.answers.items():
        try:
            if answer.tensors is None:
                raise WardRoundError("it sent no contribution")
            members[site] = opened(stack, site, answer.tensors)
        except WardRoundError as error:
            faults[site] = str(error)
    here.reject(faults)
    return members
