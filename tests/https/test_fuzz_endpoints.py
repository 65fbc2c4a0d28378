"""Random and spoiled requests at every endpoint: nothing served, nothing crashed, nothing lost, each logged once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from attacks import STRETCH, Attacker
from desk import Desk

TIMES = int(os.environ.get("WARDROUND_FUZZ", "600"))


async def besiege(folder: Path, times: int, seed: int) -> Attacker:
    async with Desk(folder, bad=-(-times // STRETCH)) as desk:
        attacker = Attacker(desk, seed)
        before = desk.state()
        for _ in range(times):
            await attacker.one()
        assert not desk.log.traces, desk.log.traces[0]
        check_nothing_lost(desk, before)
        refused = desk.log.count("refused")
        told = refused + desk.log.count("gone") + desk.app.throttle.left_out()
        assert told == attacker.refused + attacker.gone
        written = desk.office.audit.path.read_text()
        assert written.count('"event":"refused"') == refused
        assert desk.office.verify_log().clean
        await check_still_works(desk)
    return attacker


def check_nothing_lost(desk: Desk, before: dict) -> None:
    """What a bad site does to itself is its affair; all else is as it was."""
    after = desk.state()
    for name in ("runs", "keys", "principals", "invitations", "tasks"):
        assert after[name] == before[name], name
    for name in ("members", "asked"):
        assert [row for row in after[name] if "B" in row] == [row for row in before[name] if "B" in row]
    kept = {name: digest for name, digest in after["files"].items() if not name.rpartition(".")[2].startswith("A")}
    assert kept == before["files"]


async def check_still_works(desk: Desk) -> None:
    response = await desk.call("B", "POST", "/v1/next", b'{"protocol":1,"software":"0.1.0","wait":0}')
    assert response.status == 200, response.body


def test_a_siege(tmp_path: Path) -> None:
    attacker = asyncio.run(besiege(tmp_path, TIMES, seed=0))
    assert attacker.refused > TIMES / 2
