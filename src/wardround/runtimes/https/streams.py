"""Requests that take their time: long polls, and pieces of tensors up and down. Memory does not grow with size."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable
from dataclasses import replace
from typing import TYPE_CHECKING

from wardround.runtimes.https.asgi import Exchange, Gone, Headers, check_body, check_digest
from wardround.runtimes.https.duties import next_for
from wardround.runtimes.https.endpoints import Call, arrived
from wardround.runtimes.https.forms import read_json, read_query
from wardround.runtimes.https.logs import say
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.routes import Route
from wardround.runtimes.https.uploads import Piece
from wardround.runtimes.https.wire import PIECE, WHOLE, Next, Nothing, Poll, Received, Work

if TYPE_CHECKING:
    from wardround.runtimes.https.app import App

CHUNK = 256 << 10  # bytes of a file that are in memory at once
PULSE = 1.0  # seconds between notes that bytes are moving
SAID = 60.0  # seconds between notes of which software a site runs
PIECE_TYPE = (b"content-type", b"application/octet-stream")


async def serve(app: App, exchange: Exchange, route: Route, call: Call, size: int) -> None:
    """Answer an admitted request whose body, of ``size`` bytes, has not been read."""
    if route.kind == "upload":
        await take_piece(app, exchange, call, size)
        return
    if route.kind == "drain":
        total = hashlib.sha256()
        await exchange.read(size, total.update)
        check_digest(total.digest(), call.caller.body)
    else:
        body = await exchange.body(size)
        check_body(body, call.caller.body)
        call = replace(call, body=body)
    if route.kind == "poll":
        await hold(app, exchange, call)
    elif route.kind == "download":
        await give_piece(app, exchange, call)
    else:
        await app.answer(exchange, lambda: route.answers(app.office, call), quick=route.method == "GET")


async def hold(app: App, exchange: Exchange, call: Call) -> None:
    """Answer a poll as soon as there is something to do, or when its time is over."""
    poll, first = read_json(call.body, Poll), None
    end = time.monotonic() + poll.wait
    with app.metrics.polls.track_inprogress():
        while True:
            rung = app.bell.next()  # before looking: no ring is missed between the two
            found = await app.quick(_look, app, call, poll)
            first, left = first or found, end - time.monotonic()
            if not isinstance(found.do, Nothing) or found.stopped != first.stopped or left <= 0 or app.bell.closed:
                break
            await _until(exchange, rung, left)
    await app.answer(exchange, lambda: _told(app, call, found), quick=True)


async def take_piece(app: App, exchange: Exchange, call: Call, size: int) -> None:
    """Stream a piece of tensors to the disk."""
    query = read_query(call.query, "sha256", "size", "offset")
    piece = await app.slow(_begin, app, call, query, size)
    if isinstance(piece, Received):  # all of it came before: this piece is not even read
        there = piece
        await app.answer(exchange, lambda: there)
        return

    def take(data: bytes) -> Awaitable[None] | None:
        if app.beats.due(PULSE, "up", call.task, call.caller.name):
            app.submit(lambda: app.office.store.touch(call.task, call.caller.name))
        return piece.take(data)

    try:
        await exchange.read(size, take)
        await piece.check(call.caller.body)
    finally:
        piece.close()
    app.metrics.received.inc(size)
    await app.answer(exchange, lambda: _taken(app, call, query, piece))


async def give_piece(app: App, exchange: Exchange, call: Call) -> None:
    """Stream a range of a blob from the disk."""
    query = read_query(call.query, "offset", "count")
    sha256, offset = call.parts["sha256"], int(query["offset"])
    headers, count, size = await app.quick(_offer, app, exchange, call, query)
    store, site = app.office.store, call.caller.name
    await exchange.begin(200, [*headers, PIECE_TYPE], count)
    handle, end = os.open(store.blobs.offered(sha256), os.O_RDONLY), offset + count
    try:
        while True:
            data = os.pread(handle, min(CHUNK, end - offset), offset)
            offset += len(data)
            if not data and offset < end:
                exchange.drop()
                raise Gone
            await exchange.write(data, more=offset < end)
            if app.beats.due(PULSE, "down", sha256, site):
                app.submit(lambda: store.touch_fetching(sha256, site))
            if offset >= end:
                break
    finally:
        os.close(handle)
    app.metrics.sent.inc(count)
    if end == size:
        await app.slow(_sent, app, site, sha256, size)


def _look(app: App, call: Call, poll: Poll) -> Next:
    store = app.office.store
    if app.beats.due(SAID, "said", call.caller.name, poll.software):
        store.saw(call.caller.name, poll.software)
    app.guard.check(store.key(call.caller.key_id))  # while a poll is held open, its key can be revoked
    return next_for(poll, store.views(call.caller.name), app.office.federation.software)


def _told(app: App, call: Call, found: Next) -> Next:
    if isinstance(found.do, Work):
        app.office.store.take(found.do.task.id, call.caller.name)
    return found


async def _until(exchange: Exchange, rung: asyncio.Event, seconds: float) -> None:
    ring, gone = asyncio.create_task(rung.wait()), asyncio.create_task(exchange.hung_up())
    try:
        await asyncio.wait((ring, gone), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            raise Gone
    finally:
        for task in (ring, gone):
            task.cancel()
        await asyncio.gather(ring, gone, return_exceptions=True)


def _begin(app: App, call: Call, query: dict[str, str], count: int) -> Piece | Received:
    """The piece to write, or that all is there."""
    store, site = app.office.store, call.caller.name
    size, offset = int(query["size"]), int(query["offset"])
    limit = store.check_wanted(call.task, site)
    if size > limit:
        raise Refusal("too_large", f"at most {limit} bytes are taken for this task")
    _check_piece(offset, count, size)
    if count < 1 or offset + count > size:
        raise Refusal("malformed", "the piece lies outside of what was announced")
    there = arrived(app.office, site, query["sha256"], size)
    return there if there.whole else app.uploads.begin(query["sha256"], site, size, offset, count)


def _check_piece(offset: int, count: int, size: int) -> None:
    if count > PIECE and not (offset == 0 and count == size <= WHOLE):
        raise Refusal("too_large", f"at most {PIECE} bytes at once, or all at most {WHOLE}")


def _taken(app: App, call: Call, query: dict[str, str], piece: Piece) -> Received:
    store, site, size = app.office.store, call.caller.name, int(query["size"])
    if app.beats.due(PULSE, "up", call.task, site):
        store.touch(call.task, site)
    if piece.end == size:
        app.uploads.finish(query["sha256"], site, size)
    return Received(received=piece.end, whole=piece.end == size)


def _offer(app: App, exchange: Exchange, call: Call, query: dict[str, str]) -> tuple[Headers, int, int]:
    """Headers of the response, its bytes, and those of the blob."""
    store, sha256 = app.office.store, call.parts["sha256"]
    offset, count = int(query["offset"]), int(query["count"])
    if not store.may_read_blob(sha256, call.caller.name):
        raise Refusal("not_found", "there is no such blob for this site")
    size = store.blobs.offered(sha256).stat().st_size
    _check_piece(offset, min(count, size) if offset == 0 else count, size)
    if offset > size:
        raise Refusal("malformed", "the blob ends before")
    count = min(count, size - offset)
    digest = bytes.fromhex(sha256) if count == size else store.blobs.piece_digest(sha256, offset, count)
    return app.signature(exchange, 200, digest), count, size


def _sent(app: App, site: str, sha256: str, size: int) -> None:
    app.office.audit.append("sent", site=site, sha256=sha256, bytes=size)
    say("sent", site=site, sha256=sha256, bytes=size)
