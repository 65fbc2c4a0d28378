"""Sound requests to a coordinator, whose answers are verified."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from desk import Desk, Response

from wardround.core.frozen import Frozen
from wardround.core.messages import Reply, SiteFailed, TrainFacts
from wardround.runtimes.https.wire import (
    Next,
    Poll,
    Received,
)

DATA = bytes(range(256)) * 64
SHA256 = hashlib.sha256(DATA).hexdigest()
FACTS = TrainFacts(cases=2, updates=3, samples=6, loss=0.5, rate=0.1)


def at(folder: Path, test: Callable[[Desk], Awaitable[None]], **options: Any) -> None:
    async def run() -> None:
        async with Desk(folder, **options) as desk:
            await test(desk)
            assert not desk.log.traces, desk.log.traces[0]

    asyncio.run(run())


async def ask(desk: Desk, who: str, path: str, body: Frozen | bytes = b"", method: str = "POST") -> Response:
    """A sound request whose answer is verified."""
    data = body if isinstance(body, bytes) else body.canonical().encode()
    headers = desk.signed(who, method, path, data)
    response = await desk.ask(method, path, headers, data)
    assert desk.verified(method, path, headers, response)
    return response


def poll(desk: Desk, wait: float = 0.0, knows: bool = True, **changes: Any) -> Poll:
    software = desk.office.federation.software
    return Poll(protocol=1, software=software, wait=wait, knows=(desk.digest,) if knows else (), **changes)


async def next_of(desk: Desk, who: str, said: Poll) -> Next:
    return Next.model_validate_json((await ask(desk, who, "/v1/next", said)).body)


def reply(desk: Desk, site: str) -> Reply:
    return Reply(task=desk.task.id, site=site, facts=FACTS, tensors=SHA256, size=len(DATA))


async def upload(desk: Desk, site: str) -> None:
    place = f"{desk.place}/tensors?sha256={SHA256}&size={len(DATA)}"
    response = await ask(desk, site, f"{place}&offset=0", DATA, "PUT")
    assert Received.model_validate_json(response.body) == Received(received=len(DATA), whole=True)


def idle(desk: Desk) -> None:
    """B has nothing to do."""
    desk.store.decide(desk.task.id, "B", SiteFailed(task=desk.task.id, site="B", kind="late", reason="late"))
