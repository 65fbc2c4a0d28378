"""What a site should do next follows from the state alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.messages import Task
from wardround.runtimes.https.duties import incompatible, next_for
from wardround.runtimes.https.state_runs import View
from wardround.runtimes.https.wire import PROTOCOL, Incompatible, Next, Nothing, Offer, Poll, Results, Work

OLD, NEW = "a" * 64, "b" * 64
MODEL = "c" * 64


def view(digest: str = OLD, **changes: Any) -> View:
    """A running run that the site approved and has a task of."""
    work = Task(plan=digest, round=3, verb="train")
    fields = {"site": "A", "digest": digest, "state": "running", "plan_size": 10, "standing": "approved", "work": work}
    return View(**{**fields, **changes})


def ended(digest: str = OLD, **changes: Any) -> View:
    fields = {"state": "ended", "work": None, "answered": True, "model": MODEL, "size": 5}
    return view(digest, **{**fields, **changes})


def poll(**changes: Any) -> Poll:
    return Poll(**{"protocol": PROTOCOL, "software": "1.2.3", "knows": (OLD, NEW), **changes})


def do(*views: View, **changes: Any) -> Any:
    return next_for(poll(**changes), views, "1.2.0").do


def test_work_of_the_oldest_run_comes_first() -> None:
    assert do(view(OLD), view(NEW)).task.plan == OLD
    assert do(view(OLD, work=None), view(NEW)).task.plan == NEW


def test_an_unknown_plan_comes_before_work() -> None:
    found = do(view(OLD), view(NEW), knows=(OLD,))
    assert found == Offer(plan=NEW, size=10)
    assert isinstance(do(view(NEW, state="waiting", work=None), knows=()), Offer)
    assert isinstance(do(view(NEW, state="failed", work=None), knows=()), Nothing)


@pytest.mark.parametrize("standing", [None, "pending", "refused", "revoked"])
def test_who_has_not_approved_gets_neither_work_nor_results(standing: Any) -> None:
    assert isinstance(do(view(standing=standing)), Nothing)
    assert isinstance(do(ended(standing=standing)), Nothing)


def test_results_go_to_who_took_part_and_once() -> None:
    found = do(ended(outcome='{"rounds": 2, "own": {"A": 1, "B": 2}}'))
    assert found == Results(plan=OLD, model=MODEL, size=5, outcome={"rounds": 2, "own": {"A": 1}})
    assert isinstance(do(ended(answered=False)), Nothing)
    assert isinstance(do(ended(), fetched=(OLD,)), Nothing)
    assert do(ended(OLD), view(NEW)).task.plan == NEW


def test_aborted_runs_are_named_to_who_knows_them() -> None:
    runs = [view(OLD, state="aborted", work=None), view(NEW, state="aborted", work=None)]
    assert next_for(poll(knows=(NEW,)), runs, "1.2.0").stopped == (NEW,)


@pytest.mark.parametrize(("software", "fits"), [("1.2.0", True), ("1.2.9+local", True), ("1.3.0", False), ("2", False)])
def test_patch_versions_go_together(software: str, fits: bool) -> None:
    assert (incompatible(poll(software=software), "1.2.3") is None) == fits
    assert isinstance(do(view(), software=software), Work if fits else Incompatible)


def test_who_speaks_another_protocol_is_told_who_is_behind() -> None:
    assert "the site must" in (incompatible(poll(protocol=0), "1.2.3") or "")
    assert "the coordinator must" in (incompatible(poll(protocol=PROTOCOL + 1), "1.2.3") or "")


STATES = st.sampled_from(["waiting", "running", "ended", "failed", "aborted"])
STANDINGS = st.sampled_from([None, "pending", "approved", "refused", "revoked"])
VIEWS = st.builds(view, state=STATES, standing=STANDINGS, answered=st.booleans(), model=st.sampled_from([None, MODEL]))


@given(st.lists(VIEWS, max_size=4), st.booleans(), st.booleans())
def test_nothing_leaves_for_a_site_that_has_not_approved(views: list[View], knows: bool, fetched: bool) -> None:
    said = poll(knows=(OLD,) if knows else (), fetched=(OLD,) if fetched else ())
    found: Next = next_for(said, views, "1.2.0")
    assert found == next_for(said, views, "1.2.0")
    if isinstance(found.do, Work):
        assert any(one.standing == "approved" and one.state == "running" for one in views)
    if isinstance(found.do, Results):
        assert any(one.standing == "approved" and one.state == "ended" and one.answered for one in views)
        assert not fetched
    if not any(one.standing == "approved" for one in views):
        assert isinstance(found.do, Offer | Nothing)
