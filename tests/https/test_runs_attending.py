"""Who is there, and who has been silent for how long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_kit import World

from wardround.core.messages import SiteFailed
from wardround.runtimes.https.attending import Roll, Silence, Stand, silent_before, told_before


@pytest.mark.parametrize(
    ("stand", "missing"),
    [
        (Stand("approved"), None),
        (Stand("approved", "whatever"), None),
        (Stand("pending"), ("pending", "waiting for approval")),
        (Stand("pending", "the dataset changed"), ("pending", "the dataset changed")),
        (Stand("refused"), ("refused", "refused the plan")),
        (Stand("revoked", "a patient asked"), ("refused", "revoked its approval: a patient asked")),
    ],
)
def test_how_a_site_that_has_not_approved_is_missing(stand: Stand, missing: tuple[str, str] | None) -> None:
    assert stand.missing == missing


@given(st.sampled_from(["pending", "refused", "revoked"]), st.text(max_size=500))
def test_any_reason_fits_into_a_failure(standing: Any, reason: str) -> None:
    kind, words = Stand(standing, reason).missing or ("error", "")
    SiteFailed(task="t", site="A", kind=kind, reason=words)


def test_a_change_of_standing_is_told_once_also_over_restarts(tmp_path: Any) -> None:
    world, told = World(tmp_path), list[dict[str, Any]]()
    world.submit(approved="A")
    roll = Roll(world.office.store, world.digest, {}, lambda event, facts: told.append({"event": event, **facts}))
    for _ in range(2):
        assert roll.look()["A"] == Stand("approved")
    world.stand("B", "refused", "no vote")
    world.office.store.revoke("C", "left")
    assert roll.look()["C"] == Stand("revoked", "the coordinator revoked the site's key: left")
    assert [(one["site"], one["standing"]) for one in told] == [("A", "approved"), ("B", "refused"), ("C", "revoked")]
    again = Roll(world.office.store, world.digest, told_before(told), lambda _, facts: told.append(facts))
    assert again.look() == roll.look()
    assert len(told) == 3


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_counted_from_the_last_change_that_was_seen() -> None:
    clock = Clock()
    silence = Silence(clock)
    silence.note({"A": 5.0, "B": 5.0}, {})
    clock.now += 59
    silence.note({"A": 6.0, "B": 5.0}, {})
    clock.now += 1
    assert (silence.late("A", 60), silence.late("B", 60)) == (False, True)
    silence.begin()
    assert not silence.late("B", 60)


def test_a_clock_that_is_set_back_or_forth_makes_nobody_late() -> None:
    clock = Clock()
    silence = Silence(clock)
    for sign in (1e9, 2e9, 3.0):
        silence.note({"A": sign}, {})
        clock.now += 50
        assert not silence.late("A", 60)


def test_a_site_that_is_gone_is_late_at_once_until_it_is_heard_of() -> None:
    clock = Clock()
    silence = Silence(clock)
    silence.note({"A": 1.0, "B": 1.0}, {"A": 1.0, "B": 1.0})
    for site in ("A", "B"):
        assert silence.missed(site) == (1.0,)
        assert silence.missed(site) is None
    silence.begin()
    silence.note({"A": 3.0, "B": 3.0}, {"A": 1.0, "B": 2.0})
    assert (silence.late("A", 600), silence.late("B", 600)) == (True, False)
    silence.note({}, {"A": 4.0})
    assert not silence.late("A", 600)


@given(st.sampled_from([None, 5.0]), st.sampled_from([None, 3.0, 5.0, 7.0]))
def test_who_is_gone_stays_so_over_restarts_unless_it_called_meanwhile(before: Any, after: Any) -> None:
    """Whatever the coordinator's clock was set to: only whether the sign is the same one counts."""
    first = Silence(Clock())
    first.note({}, {} if before is None else {"A": before})
    sign = first.missed("A")
    assert sign is not None
    events = [{"event": "site_silent", "site": "A", "heard": sign[0]}, {"event": "other"}]
    second = Silence(Clock(), silent_before(events))
    second.note({}, {} if after is None else {"A": after})
    assert second.late("A", 600) == (before == after)
