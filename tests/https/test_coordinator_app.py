"""The coordinator's endpoints, asked through ASGI: tasks from the poll to the results, and polls that are held."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator_asks import ask, at, idle, next_of, poll, reply, upload
from desk import Desk, Response

from tiny import make_plan
from wardround.core.audit import read_entries
from wardround.core.messages import SiteFailed
from wardround.runtimes.https import streams
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import (
    PIECE,
    Consent,
    Done,
    Going,
    Moved,
    Next,
    Poll,
    Results,
    Work,
)


def test_a_task_from_the_poll_to_the_results(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        work = (await next_of(desk, "B", poll(desk))).do
        assert isinstance(work, Work)
        assert (work.task, work.size) == (desk.task, desk.size)
        blob = f"/v1/blobs/{desk.sha256}?offset=0&count={PIECE}"
        assert (await ask(desk, "B", blob, method="GET")).body == desk.model.read_bytes()
        moved = await ask(desk, "B", f"{desk.place}/moved", Moved(what="step", done=1, total=2))
        assert Going.model_validate_json(moved.body).wanted
        await upload(desk, "B")
        for _ in range(2):  # once more, as after a lost answer
            response = await ask(desk, "B", f"{desk.place}/reply", reply(desk, "B"))
            assert Done.model_validate_json(response.body) == Done()
        assert (await next_of(desk, "B", poll(desk))).do.kind == "nothing"
        desk.store.finish_run(desk.digest, desk.model, {"rounds": 1, "own": {"B": {}, "A0": {}}})
        results = (await next_of(desk, "B", poll(desk))).do
        assert results == Results(
            plan=desk.digest, model=desk.sha256, size=desk.size, outcome={"rounds": 1, "own": {"B": {}}}
        )
        assert (await ask(desk, "B", blob, method="GET")).body == desk.model.read_bytes()
        events = [entry["event"] for entry in read_entries(desk.office.audit.path)]
        assert events.count("answered") == 1
        assert events.count("sent") == 2

    at(tmp_path, test)


def test_a_failure_is_taken_once(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        failed = SiteFailed(task=desk.task.id, site="B", kind="error", reason="no memory")
        for _ in range(2):
            assert (await ask(desk, "B", f"{desk.place}/failure", failed)).status == 200
        other = failed.model_copy(update={"reason": "another"})
        assert (await ask(desk, "B", f"{desk.place}/failure", other)).refused.code == "closed"
        moved = await ask(desk, "B", f"{desk.place}/moved", Moved(what="step", done=1, total=2))
        assert not Going.model_validate_json(moved.body).wanted
        assert desk.store.outcomes(desk.task.id) == {"B": failed}

    at(tmp_path, test)


def test_an_offer_is_fetched_and_answered(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        offer = (await next_of(desk, "B", poll(desk, knows=False))).do
        text = (await ask(desk, "B", f"/v1/plans/{desk.digest}", method="GET")).body
        assert (offer.kind, offer.size) == ("offer", len(text))
        assert hashlib.sha256(text).hexdigest() == desk.digest
        said = Consent(plan=desk.digest, standing="revoked", reason="the ethics vote ended")
        for _ in range(2):
            assert (await ask(desk, "B", "/v1/consent", said)).status == 200
        assert desk.store.standings(desk.digest)["B"] == "revoked"
        assert (await next_of(desk, "B", poll(desk))).do.kind == "nothing"
        assert (await ask(desk, "B", f"/v1/plans/{'0' * 64}", method="GET")).refused.code == "not_found"
        assert [e["event"] for e in read_entries(desk.office.audit.path)].count("standing") == 1

    at(tmp_path, test)


async def held(desk: Desk, said: Poll, change: Callable[[], Any]) -> Response:
    """The answer to a poll that is held open while ``change`` happens in another thread."""
    looking = asyncio.Event()
    look = streams._look

    def looked(*arguments: Any) -> Next:
        found = look(*arguments)
        loop.call_soon_threadsafe(looking.set)
        return found

    loop = asyncio.get_running_loop()
    streams._look = looked
    try:
        asking = asyncio.create_task(ask(desk, "B", "/v1/next", said))
        await looking.wait()
        await asyncio.to_thread(change)
        return await asyncio.wait_for(asking, 20)
    finally:
        streams._look = look


def test_a_held_poll_ends_when_there_is_work(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        task = desk.task.model_copy(update={"round": 2})
        response = await held(desk, poll(desk, 30), lambda: desk.store.open_task(task, desk.model, ["B"]))
        assert Next.model_validate_json(response.body).do == Work(task=task, size=desk.size)

    at(tmp_path, test)


def test_a_held_poll_notices_another_process(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        other = Store.open(desk.office.folder)  # its writes ring no bell here
        plan = make_plan(seed=7)
        response = await held(desk, poll(desk, 30), lambda: other.add_run(plan, ["B"], "owner"))
        assert Next.model_validate_json(response.body).do.plan == plan.digest()
        other.close()

    at(tmp_path, test)


def test_a_held_poll_tells_of_an_abort_and_ends_with_the_key(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        response = await held(desk, poll(desk, 30), lambda: desk.store.set_run(desk.digest, "aborted"))
        assert Next.model_validate_json(response.body).stopped == (desk.digest,)
        response = await held(desk, poll(desk, 30), lambda: desk.store.revoke("B", "left"))
        assert response.refused.code == "revoked"

    at(tmp_path, test)


def test_a_held_poll_ends_with_the_server(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        loop = asyncio.get_running_loop()
        stop = lambda: asyncio.run_coroutine_threadsafe(desk.app.stop(), loop).result()  # noqa: E731
        response = await held(desk, poll(desk, 30), stop)
        assert Next.model_validate_json(response.body).do.kind == "nothing"

    at(tmp_path, test)


def test_a_held_poll_ends_when_its_caller_hangs_up(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        body = poll(desk, 30).canonical().encode()
        headers = desk.signed("B", "POST", "/v1/next", body)
        events = [{"type": "http.request", "body": body, "more_body": False}, {"type": "http.disconnect"}]
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return events.pop(0)

        async def send(event: Any) -> None:
            sent.append(event)

        rows = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/next", "raw_path": b"/v1/next", "headers": rows}
        await asyncio.wait_for(desk.app(scope, receive, send), 20)
        assert sent == []
        assert desk.log.count("gone") == 1

    at(tmp_path, test)
