"""The endpoint with which a site tries its way: for registered keys alone, bounded, verified, kept nowhere."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from desk import Desk, Response

from wardround.runtimes.https.wire import PIECE, Done

BODY = b"\0\xff" * 5000


def asked(folder: Path, who: str | Ed25519PrivateKey, method: str, target: str, body: bytes, sent: bytes) -> Response:
    """The answer to ``sent`` where ``body`` was signed."""

    async def ask() -> Response:
        async with Desk(folder) as desk:
            headers = {**desk.signed(who, method, target, body), "content-length": str(len(sent))}
            return await desk.ask(method, target, headers, sent)

    return asyncio.run(ask())


@pytest.mark.parametrize("who", ["B", "V"])
def test_a_registered_key_may_send_and_receive(tmp_path: Path, who: str) -> None:
    up = asked(tmp_path / "up", who, "POST", "/v1/probe", BODY, BODY)
    assert (up.status, Done.model_validate_json(up.body)) == (200, Done())
    down = asked(tmp_path / "down", who, "GET", "/v1/probe?count=70000", b"", b"")
    assert (down.status, len(down.body)) == (200, 70_000)
    assert len(set(down.body)) > 200  # nothing on the way can make it smaller


@pytest.mark.parametrize(
    ("method", "target", "body", "sent", "code"),
    [
        ("POST", "/v1/probe", BODY, BODY[::-1], "signature"),
        ("POST", "/v1/probe?x=1", BODY, BODY, "malformed"),
        ("GET", f"/v1/probe?count={PIECE + 1}", b"", b"", "too_large"),
        ("GET", "/v1/probe?count=-1", b"", b"", "malformed"),
        ("GET", "/v1/probe", b"", b"", "malformed"),
    ],
)
def test_what_is_not_as_it_must_be_is_refused(
    tmp_path: Path, method: str, target: str, body: bytes, sent: bytes, code: str
) -> None:
    said = asked(tmp_path, "B", method, target, body, sent)
    assert said.refused.code == code


def test_a_body_beyond_a_piece_and_a_stranger_are_refused(tmp_path: Path) -> None:
    async def ask() -> list[str]:
        async with Desk(tmp_path) as desk:
            headers = desk.signed("B", "POST", "/v1/probe", b"x")
            large = await desk.ask("POST", "/v1/probe", {**headers, "content-length": str(PIECE + 1)}, b"x")
            stranger = desk.signed(Ed25519PrivateKey.generate(), "POST", "/v1/probe", BODY)
            return [large.refused.code, (await desk.ask("POST", "/v1/probe", stranger, BODY)).refused.code]

    assert asyncio.run(ask()) == ["too_large", "unknown_key"]
