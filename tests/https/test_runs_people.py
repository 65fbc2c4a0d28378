"""What people may do, by role, and what they are told."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_kit import World

from tiny import make_plan
from wardround.core.errors import InputError
from wardround.core.frozen import Frozen
from wardround.runtimes.https.invitations import read_invitation
from wardround.runtimes.https.networked import run_dir
from wardround.runtimes.https.people import Person, act, handle
from wardround.runtimes.https.people_wire import (
    ASKED,
    Abort,
    AskStatus,
    Invite,
    Invited,
    Resume,
    Revoke,
    Revoked,
    Status,
    Submit,
    Submitted,
)
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.store import Principal

OWNER, ANNA, VERA = Person("otto", "owner"), Person("anna", "researcher"), Person("vera", "viewer")
REQUESTS: dict[str, Frozen] = {
    "status": AskStatus(),
    "submit": Submit(plan=make_plan(seed=7).canonical()),
    "abort": Abort(run="a" * 6),
    "resume": Resume(run="a" * 6),
    "invite": Invite(name="D"),
    "revoke": Revoke(name="C"),
}
ALLOWED = {"viewer": {"status"}, "researcher": {"status", "submit", "abort", "resume"}, "owner": set(REQUESTS)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def submit(world: World, person: Person = OWNER, **changes: object) -> Submitted:
    text = json.dumps(json.loads(make_plan(rounds={"limit": 2, "stall": 60}).canonical()) | changes)
    answer = act(world.office, person, Submit(plan=text))
    assert isinstance(answer, Submitted)
    return answer


def status(world: World, run: str | None = None) -> Status:
    answer = act(world.office, VERA, AskStatus(run=run))
    assert isinstance(answer, Status)
    return answer


def test_every_action_is_known() -> None:
    assert set(REQUESTS) == set(ASKED)


@pytest.mark.parametrize("action", REQUESTS)
@pytest.mark.parametrize("role", ALLOWED)
def test_a_role_may_do_its_own_things_and_no_other(world: World, role: str, action: str) -> None:
    try:
        act(world.office, Person("x", role), REQUESTS[action])  # type: ignore[arg-type]
        refused = ""
    except Refusal as error:
        refused = error.code
    assert (refused == "forbidden") == (action not in ALLOWED[role])


def test_a_submitted_plan_waits_with_its_text_beside_it(world: World) -> None:
    submitted = submit(world, ANNA)
    row = world.office.store.run(submitted.plan)
    assert (row.state, row.owner, row.roster) == ("waiting", "anna", ("A", "B", "C"))
    assert (run_dir(world.office.folder, submitted.plan).root / "plan.yaml").is_file()
    assert [(entry["by"], entry["run"]) for entry in world.audited("submitted")] == [("anna", submitted.plan)]
    assert len(submitted.notes) == 3
    assert "has not called yet" in submitted.notes[0]


def test_a_plan_is_submitted_once(world: World) -> None:
    submit(world)
    with pytest.raises(InputError, match="another seed"):
        submit(world)
    submit(world, seed=1)


def test_every_fault_is_told_at_once(world: World) -> None:
    ended = (date.today() - timedelta(days=3)).isoformat()
    plan = json.loads(make_plan(rounds={"limit": 2, "quorum": 4}).canonical())
    plan["study"]["ends"] = ended
    with pytest.raises(InputError) as told:
        act(world.office, OWNER, Submit(plan=json.dumps(plan), sites=("A", "A", "Z")))
    assert len(told.value.faults) == 4
    for words in ("Z is not an active site (active: A, B, C)", "A is named twice", "asks for 4 sites", "ended on"):
        assert words in str(told.value)
    assert world.office.store.runs() == []


def test_a_plan_with_faults_is_refused_with_their_lines(world: World) -> None:
    with pytest.raises(InputError, match=r"line 2: network\.name"):
        act(world.office, OWNER, Submit(plan="wardround: 1\nnetwork: {name: nonet}\n"))


def test_a_rule_that_needs_more_sites_than_there_are_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="aggregation"):
        submit(world, aggregation={"name": "trimmed", "trim": 2, "clip": None})


def test_researchers_end_their_own_runs_alone(world: World) -> None:
    run = submit(world, OWNER).plan
    with pytest.raises(Refusal, match="submitted by otto"):
        act(world.office, ANNA, Abort(run=run[:8], reason="mine?"))
    act(world.office, OWNER, Abort(run=run[:8], reason="a mistake"))
    row = world.office.store.run(run)
    assert (row.state, row.note) == ("aborted", "aborted by otto: a mistake")
    with pytest.raises(InputError, match="over already"):
        act(world.office, OWNER, Abort(run=run[:8]))
    with pytest.raises(InputError, match="did not fail"):
        act(world.office, OWNER, Resume(run=run[:8]))


def test_a_run_is_named_by_the_beginning_of_its_digest(world: World) -> None:
    runs = [submit(world, seed=seed).plan for seed in range(3)]
    assert [one.plan for one in status(world, runs[1][:6]).runs] == [runs[1]]
    with pytest.raises(Refusal, match="no run"):
        status(world, "0" * 64)
    assert [one.plan for one in status(world).runs] == runs


def test_a_failed_run_is_resumed_from_the_task_that_was_lost(world: World) -> None:
    world.submit()
    world.hospitals.failing = {("B", 1): "no memory", ("C", 1): "no disk"}
    world.conduct()
    assert status(world).runs[0].state == "failed"
    world.hospitals.failing = {("B", 1): "still none"}
    world.restart()
    act(world.office, OWNER, Resume(run=world.digest[:6]))
    assert world.state == "waiting"
    world.conduct()
    assert world.state == "ended"
    assert world.weights() == [4 + 3.5] * 2  # A and C
    assert world.events("round_started")[0]["round"] == 0
    assert [entry["by"] for entry in world.audited("resumed")] == ["otto"]


def test_status_tells_who_does_what(world: World) -> None:
    world.submit(approved="AB")
    world.asleep = {"B"}
    seen: list[Status] = []

    def look() -> None:
        opened = world.events("task_opened")
        if opened and opened[-1]["task"] == f"{world.digest}:0:train:0" and world.now > 5 and not seen:
            seen.append(status(world))
            world.asleep = set()

    def wake() -> None:
        opened = world.events("task_opened")
        training = bool(opened) and opened[-1]["task"] == f"{world.digest}:0:train:0"
        if not seen:
            world.asleep = {"B"} if training else set()

    world.hooks += [wake, look]
    world.office.store.saw("A", "0.1.0")
    world.conduct()
    (told,) = seen
    assert told.federation == "localhost"
    assert {one.name: one.software for one in told.members} == {"A": "0.1.0", "B": "", "C": ""}
    (run,) = told.runs
    assert (run.state, run.round, run.limit, run.needed, run.task) == ("running", 0, 2, 2, "train, round 1")
    assert {one.site: one.doing for one in run.sites} == {"A": "answered", "B": "working", "C": ""}
    assert {one.site: one.standing for one in run.sites} == {"A": "approved", "B": "approved", "C": "pending"}
    (after,) = status(world).runs
    assert (after.state, after.task, after.round, after.best_round) == ("ended", "", 2, 2)
    assert {one.site: one.counted for one in after.sites} == {"A": 2, "B": 2, "C": None}


def test_models_with_revoked_contributions_are_listed(world: World) -> None:
    world.submit()
    world.conduct()
    assert status(world).runs[0].revoked == ()
    world.stand("A", "revoked", "a patient asked")
    assert status(world).runs[0].revoked == ("A",)
    answer = act(world.office, OWNER, Revoke(name="B", reason="stolen"))
    assert answer == Revoked(runs=(world.digest,))
    assert status(world).runs[0].revoked == ("A", "B")
    assert {one.name: one.active for one in status(world).members} == {"A": True, "B": False, "C": True}
    assert [entry["name"] for entry in world.audited("revoked")] == ["B"]
    with pytest.raises(InputError, match="nobody called D"):
        act(world.office, OWNER, Revoke(name="D"))


def test_an_invitation_is_shown_and_not_written_down(world: World) -> None:
    answer = act(world.office, OWNER, Invite(name="anna", role="researcher", days=1))
    assert isinstance(answer, Invited)
    invitation = read_invitation(answer.invitation)
    assert (invitation.name, invitation.role, invitation.url) == ("anna", "researcher", "https://localhost:8443")
    for path in world.office.folder.rglob("*"):
        assert not path.is_file() or invitation.token.encode() not in path.read_bytes()


def test_what_cannot_be_done_is_a_refusal_over_the_network(world: World) -> None:
    owner = Principal("otto", "owner", True, 0.0, "", 2**31)
    codes = []
    for action, body in (
        ("nothing", b"{}"),
        ("submit", b"{}"),
        ("submit", b'{"plan":"wardround: 2"}'),
        ("abort", b'{"run":"abcdef"}'),
        ("invite", b'{"name":"A"}'),
        ("invite", b'{"name":"../A"}'),
    ):
        with pytest.raises(Refusal) as told:
            handle(world.office, owner, action, body)
        codes.append(told.value.code)
    assert codes == ["not_found", "malformed", "conflict", "not_found", "conflict", "malformed"]
    assert isinstance(handle(world.office, owner, "status", b""), Status)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("shared"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*ASKED, "x"]), st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.text(max_size=20) | st.integers() | st.floats(),
    lambda inner: st.dictionaries(st.sampled_from(["run", "plan", "sites", "name", "role", "days", "x"]), inner),
    max_leaves=6).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_request_is_answered_or_refused(shared: World, action: str, body: bytes) -> None:
    owner = Principal("otto", "owner", True, 0.0, "", 2**31)
    try:
        assert isinstance(handle(shared.office, owner, action, body), Frozen)
    except Refusal as error:
        assert error.value().code in ("malformed", "not_found", "conflict")
