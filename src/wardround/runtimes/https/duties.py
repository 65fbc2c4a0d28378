"""What a site should do next: a pure function of the coordinator's durable state and of what the site says."""

from __future__ import annotations

import json
from collections.abc import Sequence

from wardround.runtimes.https.networked import outcome_for
from wardround.runtimes.https.state_runs import View
from wardround.runtimes.https.wire import PROTOCOL, Incompatible, Next, Nothing, Offer, Poll, Results, Work

STOPPED = 200  # aborted runs that are named at most
ALIVE = ("waiting", "running")
Do = Offer | Work | Results | Nothing | Incompatible


def next_for(poll: Poll, views: Sequence[View], software: str) -> Next:
    """The first that applies: incompatible, an unknown plan, work (oldest run first), results, nothing.

    Args:
        poll: what the site says of itself.
        views: the runs that concern it, oldest first.
        software: the coordinator's version.
    """
    stopped = tuple(view.digest for view in views if view.state == "aborted" and view.digest in poll.knows)
    return Next(do=_do(poll, views, software), stopped=stopped[-STOPPED:])


def incompatible(poll: Poll, software: str) -> str | None:
    """Why a site's software cannot take part; None where it can. Patch versions go together."""
    if poll.protocol != PROTOCOL:
        newer = "the site" if poll.protocol < PROTOCOL else "the coordinator"
        return (
            f"this site speaks protocol {poll.protocol}, the coordinator {PROTOCOL}: {newer} must be brought up to date"
        )
    if _series(poll.software) != _series(software):
        series = ".".join(_series(software))
        return f"this site runs Ward Round {poll.software}, the federation {software}: install wardround {series}.*"
    return None


def _do(poll: Poll, views: Sequence[View], software: str) -> Do:
    if (reason := incompatible(poll, software)) is not None:
        return Incompatible(reason=reason)
    for view in views:
        if view.state in ALIVE and view.digest not in poll.knows:
            return Offer(plan=view.digest, size=view.plan_size)
    for view in views:
        if view.state == "running" and view.standing == "approved" and view.work is not None:
            return Work(task=view.work, size=view.work_size)
    for view in views:
        if _may_have_results(view) and view.model is not None and view.digest not in poll.fetched:
            outcome = outcome_for(json.loads(view.outcome), view.site)
            return Results(plan=view.digest, model=view.model, size=view.size, outcome=outcome)
    return Nothing()


def _may_have_results(view: View) -> bool:
    """It took part, and has not taken its approval back."""
    return view.state == "ended" and view.answered and view.standing == "approved"


def _series(version: str) -> list[str]:
    return version.partition("+")[0].split(".")[:2]
