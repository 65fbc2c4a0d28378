"""Tensors on their way up and down, in pieces."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from coordinator_asks import DATA, SHA256, ask, at
from desk import Desk

from wardround.runtimes.https import app as application
from wardround.runtimes.https.wire import (
    PIECE,
    Received,
)


def test_pieces_go_on_where_they_broke_off_also_after_a_restart(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        place = f"{desk.place}/tensors?sha256={SHA256}&size={len(DATA)}"
        assert Received.model_validate_json((await ask(desk, "B", place, method="GET")).body).received == 0
        first = await ask(desk, "B", f"{place}&offset=0", DATA[:5000], "PUT")
        assert Received.model_validate_json(first.body) == Received(received=5000)
        again = await ask(desk, "B", f"{place}&offset=0", DATA[:5000], "PUT")
        assert (again.refused.code, again.refused.received) == ("conflict", 5000)
        desk.app.uploads.close()
        desk.app.uploads = type(desk.app.uploads)(desk.store.blobs)  # nothing is remembered
        second = await ask(desk, "B", f"{place}&offset=5000", DATA[5000:9000], "PUT")
        assert Received.model_validate_json(second.body).received == 9000
        last = await ask(desk, "B", f"{place}&offset=9000", DATA[9000:], "PUT")
        assert Received.model_validate_json(last.body).whole
        assert desk.store.blobs.given(SHA256, "B").read_bytes() == DATA
        there = Received.model_validate_json((await ask(desk, "B", place, method="GET")).body)
        assert there == Received(received=len(DATA), whole=True)
        once_more = await ask(desk, "B", f"{place}&offset=0", DATA, "PUT")
        assert Received.model_validate_json(once_more.body).whole

    at(tmp_path, test)


def test_what_came_before_a_break_is_kept_and_what_was_not_signed_is_cut_off(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        place = f"{desk.place}/tensors?sha256={SHA256}&size={len(DATA)}"
        await ask(desk, "B", f"{place}&offset=0", DATA[:4000], "PUT")
        target = f"{place}&offset=4000"
        headers = desk.signed("B", "PUT", target, DATA[4000:])
        changed = await desk.ask("PUT", target, headers, DATA[4000:-1] + b"?")
        assert (changed.refused.code, changed.refused.received) == ("signature", 4000)
        assert desk.store.blobs.partial(SHA256, "B").stat().st_size == 4000
        assert Received.model_validate_json((await ask(desk, "B", target, DATA[4000:], "PUT")).body).whole

    at(tmp_path, test)


def test_a_newer_request_takes_an_upload_over(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        uploads, size = desk.app.uploads, len(DATA)
        old = uploads.begin(SHA256, "B", size, 0, size)
        new = uploads.begin(SHA256, "B", size, 0, size)
        for piece in (old, new):
            piece.take(DATA)
        with pytest.raises(application.Refusal) as caught:
            await old.check(hashlib.sha256(DATA).digest())
        assert caught.value.code == "busy"
        await new.check(hashlib.sha256(DATA).digest())
        uploads.finish(SHA256, "B", size)
        for piece in (old, new):
            piece.close()
        assert desk.store.blobs.given(SHA256, "B").read_bytes() == DATA

    at(tmp_path, test)


def test_a_site_has_few_uploads_on_their_way(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for number in range(12):
            place = f"{desk.place}/tensors?sha256={number:064x}&size=100&offset=0"
            assert (await ask(desk, "B", place, b"x" * 50, "PUT")).status == 200
        assert len(desk.store.blobs.partials("B")) == 8

    at(tmp_path, test)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(desk: Desk) -> None:
        place = f"{desk.place}/tensors?sha256={SHA256}&size={len(DATA)}"
        await ask(desk, "B", f"{place}&offset=0", DATA[:4000], "PUT")
        monkeypatch.setattr(type(desk.store.blobs), "free", lambda _: 0)
        full = await ask(desk, "B", f"{place}&offset=4000", DATA[4000:], "PUT")
        assert (full.status, full.refused.code) == (503, "busy")
        monkeypatch.undo()
        assert Received.model_validate_json(
            (await ask(desk, "B", f"{place}&offset=4000", DATA[4000:], "PUT")).body
        ).whole

    at(tmp_path, test)


def test_ranges_of_a_blob(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        whole = desk.model.read_bytes()
        for offset, count in ((0, 1), (1000, 700), (0, len(whole)), (5, PIECE), (len(whole) - 1, 9), (len(whole), 9)):
            target = f"/v1/blobs/{desk.sha256}?offset={offset}&count={count}"
            assert (await ask(desk, "B", target, method="GET")).body == whole[offset : offset + count]
        for query in ("offset=0", "offset=0&count=0", "offset=01&count=1", "offset=-1&count=1", "offset=0&count=1&x=1"):
            target = f"/v1/blobs/{desk.sha256}?{query}"
            assert (await ask(desk, "B", target, method="GET")).refused.code == "malformed"
        beyond = f"/v1/blobs/{desk.sha256}?offset={len(whole) + 1}&count=1"
        assert (await ask(desk, "B", beyond, method="GET")).refused.code == "malformed"
        much = f"/v1/blobs/{desk.sha256}?offset=1&count={PIECE + 1}"
        assert (await ask(desk, "B", much, method="GET")).refused.code == "too_large"

    at(tmp_path, test)
