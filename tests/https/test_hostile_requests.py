"""The ways in which somebody may try to be let in, one by one. What is random is in test_fuzz_endpoints."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from desk import Desk, Response

from wardround.core.audit import read_entries
from wardround.core.errors import InputError
from wardround.core.messages import Reply, TrainFacts
from wardround.runtimes.https import signing
from wardround.runtimes.https.app import App
from wardround.runtimes.https.office import open_office
from wardround.runtimes.https.wire import PIECE, SKEW, Join

POLL = b'{"protocol":1,"software":"0.1.0","wait":0}'
DATA = bytes(range(256)) * 16
SHA = hashlib.sha256(DATA).hexdigest()


def at(folder: Path, test: Callable[[Desk], Awaitable[None]], **options: Any) -> None:
    """Run a test at a coordinator; whatever was refused must have been logged and audited exactly once."""

    async def run() -> None:
        async with Desk(folder, **options) as desk:
            await test(desk)
            assert not desk.log.traces, desk.log.traces[0]
            assert desk.app.throttle.left_out() == 0
            audited = [entry for entry in read_entries(desk.office.audit.path) if entry["event"] == "refused"]
            assert len(audited) == desk.log.count("refused")

    asyncio.run(run())


def refusal(desk: Desk, response: Response, code: str) -> None:
    assert response.status >= 400
    assert response.refused.code == code, response.body
    last = [facts for event, facts in desk.log.events if event == "refused"][-1]
    assert last["code"] == code


def test_who_is_not_let_in(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        length = {"content-length": str(len(POLL))}
        refusal(desk, await desk.ask("POST", "/v1/next", length, POLL), "signature")
        headers = desk.signed("A0", "POST", "/v1/next", POLL)
        spoiled = {**headers, "Signature": headers["Signature"].replace("A", "B").replace("a", "b")}
        refusal(desk, await desk.ask("POST", "/v1/next", spoiled, POLL), "signature")
        stolen = desk.signed(desk.keys["B"], "POST", "/v1/next", POLL)
        mixed = {**stolen, "Signature-Input": headers["Signature-Input"]}
        refusal(desk, await desk.ask("POST", "/v1/next", mixed, POLL), "signature")
        stranger = desk.signed(Ed25519PrivateKey.generate(), "POST", "/v1/next", POLL)
        refusal(desk, await desk.ask("POST", "/v1/next", stranger, POLL), "unknown_key")
        refusal(desk, await desk.call("A0", "POST", "/v1/next", POLL, federation="0" * 32), "federation")
        for created in (int(time.time()) - SKEW - 5, int(time.time()) + SKEW + 5):
            response = await desk.call("A0", "POST", "/v1/next", POLL, created=created)
            refusal(desk, response, "clock")
            assert abs(response.refused.now - time.time()) < 60
        refusal(desk, await desk.ask("POST", "/v1/next", headers, POLL + b" "), "malformed")
        headers = desk.signed("A0", "POST", "/v1/next", POLL)
        refusal(desk, await desk.ask("POST", "/v1/next", headers, POLL.replace(b"0", b"1")), "signature")
        assert (await desk.call("A0", "POST", "/v1/next", POLL)).status == 200

    at(tmp_path, test)


def test_revoked_and_expired_keys(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.store.revoke("A0", "left the study")
        refusal(desk, await desk.call("A0", "POST", "/v1/next", POLL), "revoked")
        later = time.time() + 400 * 86_400
        desk.app.guard._clock = lambda: later
        response = await desk.call("B", "POST", "/v1/next", POLL, created=int(later))
        refusal(desk, response, "expired")

    at(tmp_path, test)


def test_a_request_is_served_once_also_after_a_restart(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        headers = desk.signed("A0", "POST", "/v1/next", POLL)
        assert (await desk.ask("POST", "/v1/next", headers, POLL)).status == 200
        refusal(desk, await desk.ask("POST", "/v1/next", headers, POLL), "replayed")
        before = desk.app
        desk.app = App(open_office(desk.office.folder))
        refusal(desk, await desk.ask("POST", "/v1/next", headers, POLL), "replayed")
        desk.app.office.close()
        desk.app = before

    at(tmp_path, test)


def test_an_invitation_is_good_once_and_for_one_name(tmp_path: Path) -> None:
    async def join(desk: Desk, token: str, name: str, key: Ed25519PrivateKey, who: Any = None) -> Response:
        request = Join(token=token, name=name, key=signing.public_hex(key), software="0.1.0", protocol=1)
        body = request.canonical().encode()
        return await desk.ask("POST", "/v1/join", desk.signed(who or key, "POST", "/v1/join", body), body)

    async def test(desk: Desk) -> None:
        from wardround import __version__

        assert __version__.startswith("0.1")
        token, mine, other = desk.store.invite("C", "site", 1), Ed25519PrivateKey.generate(), desk.keys["B"]
        refusal(desk, await join(desk, token, "D", mine), "invitation")
        refusal(desk, await join(desk, token, "C", mine, who=other), "signature")
        first = await join(desk, token, "C", mine)
        assert first.status == 200, first.body
        assert (await join(desk, token, "C", mine)).body == first.body  # its answer may have been lost
        refusal(desk, await join(desk, token, "C", Ed25519PrivateKey.generate()), "invitation")
        expired = desk.store.invite("E", "site", 1e-9)
        time.sleep(1.1)
        refusal(desk, await join(desk, expired, "E", Ed25519PrivateKey.generate()), "invitation")
        refusal(desk, await join(desk, "t" * 43, "E", Ed25519PrivateKey.generate()), "invitation")
        taken = desk.store.invite("F", "site", 1)
        refusal(desk, await join(desk, taken, "F", desk.keys["A0"]), "conflict")
        for secret in (token, taken):
            everything = [p.read_bytes() for p in desk.office.folder.rglob("*") if p.is_file()]
            assert not any(secret.encode() in data for data in everything)
            assert secret not in repr(desk.log.events)

    at(tmp_path, test)


def test_names_that_would_climb_out_of_their_folder(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for name in ("../A", "a/b", "..", "", ".hidden", "a\x00", "a" * 65, "pooled", "é"):
            with pytest.raises(InputError):
                desk.store.invite(name, "site", 1)
        sha = "a" * 64
        names = ["../state.sqlite", f"{sha}/..", "%2e%2e%2fstate.sqlite", f"partial/{sha}.B", f"given/{sha}.B"]
        targets = [f"/v1/blobs/{name}?offset=0&count=9" for name in names]
        for target in (*targets, "/v1/plans/../../etc/passwd", f"{desk.place}/../tensors?sha256={sha}&size=9"):
            response = await desk.call("A0", "GET", target)
            assert response.status in (400, 404), target
        body = Reply(task=desk.task.id, site="B", facts=facts()).canonical().encode().replace(b'"B"', b'"../B"')
        refusal(desk, await desk.call("A0", "POST", f"{desk.place}/reply", body), "malformed")

    at(tmp_path, test)


def facts() -> TrainFacts:
    return TrainFacts(cases=3, updates=4, samples=8, loss=0.5, rate=0.01)


async def give(desk: Desk, who: str, data: bytes = DATA) -> Response:
    sha = hashlib.sha256(data).hexdigest()
    target = f"{desk.place}/tensors?sha256={sha}&size={len(data)}&offset=0"
    return await desk.call(who, "PUT", target, data)


def test_a_site_cannot_touch_what_is_another_sites(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert (await give(desk, "B")).status == 200
        reply = Reply(task=desk.task.id, site="B", facts=facts(), tensors=SHA, size=len(DATA))
        body = reply.canonical().encode()
        refusal(desk, await desk.call("A0", "POST", f"{desk.place}/reply", body), "malformed")  # in B's name
        mine = reply.model_copy(update={"site": "A0"}).canonical().encode()
        refusal(desk, await desk.call("A0", "POST", f"{desk.place}/reply", mine), "conflict")  # with B's bytes
        response = await desk.call("A0", "GET", f"{desk.place}/tensors?sha256={SHA}&size={len(DATA)}")
        assert json.loads(response.body) == {"received": 0, "whole": False}  # cannot even learn that B has them
        assert (await desk.call("A0", "GET", f"/v1/blobs/{SHA}?offset=0&count=9")).status in (403, 404)
        assert (await desk.call("B", "GET", f"/v1/blobs/{SHA}?offset=0&count=9")).status in (403, 404)
        assert (await desk.call("B", "POST", f"{desk.place}/reply", body)).status == 200
        assert (await desk.call("B", "POST", f"{desk.place}/reply", body)).status == 200  # the same again: no harm
        other = reply.model_copy(update={"size": 5}).canonical().encode()
        refusal(desk, await desk.call("B", "POST", f"{desk.place}/reply", other), "conflict")
        for action in ("status", "submit", "abort", "invite", "revoke"):
            refusal(desk, await desk.call("B", "POST", f"/v1/people/{action}", b"{}"), "forbidden")
        for target in ("/v1/next", f"{desk.place}/reply", "/v1/consent", "/v1/heads"):
            refusal(desk, await desk.call("V", "POST", target, POLL), "forbidden")

    at(tmp_path, test)


def test_a_site_without_approval_is_given_nothing(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        pending = json.dumps({"plan": desk.digest, "standing": "pending", "reason": ""}).encode()
        assert (await desk.call("A0", "POST", "/v1/consent", pending)).status == 200
        assert (await desk.call("A0", "GET", f"/v1/plans/{desk.digest}")).status == 200
        assert (await desk.call("A0", "GET", f"/v1/blobs/{desk.sha256}?offset=0&count=9")).status in (403, 404)
        refusal(desk, await give(desk, "A0"), "forbidden")
        body = Reply(task=desk.task.id, site="A0", facts=facts()).canonical().encode()
        refusal(desk, await desk.call("A0", "POST", f"{desk.place}/reply", body), "forbidden")
        knows = json.dumps({"protocol": 1, "software": "0.1.0", "wait": 0, "knows": [desk.digest]}).encode()
        answer = json.loads((await desk.call("A0", "POST", "/v1/next", knows)).body)
        assert answer["do"] == {"kind": "nothing"}

    at(tmp_path, test)


def test_bodies_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        target = f"{desk.place}/tensors?sha256={SHA}&size={len(DATA)}&offset=0"
        partial = desk.store.blobs.partial(SHA, "A0")

        def headers(**changes: str) -> dict[str, str]:
            return {**desk.signed("A0", "PUT", target, DATA), **changes}

        changed = bytes([DATA[0] ^ 1]) + DATA[1:]
        refusal(desk, await desk.ask("PUT", target, headers(), changed), "signature")
        assert not partial.exists() or partial.stat().st_size == 0
        refusal(desk, await desk.ask("PUT", target, headers(), DATA + b"x"), "malformed")
        too_long = {"content-length": str(PIECE + 1)}
        refusal(desk, await desk.ask("PUT", target, headers(**too_long), DATA), "too_large")
        chunked = {"transfer-encoding": "chunked"}
        refusal(desk, await desk.ask("PUT", target, headers(**chunked), DATA), "malformed")
        cut = await desk.ask("PUT", target, headers(), [DATA[:1000]], hang_up=True)
        assert cut.status == 0
        received = json.loads((await desk.call("A0", "GET", target.partition("&offset")[0])).body)["received"]
        assert received in (0, 1000)
        rest = f"{target.partition('&offset')[0]}&offset={received}"
        answer = await desk.call("A0", "PUT", rest, DATA[received:])
        assert json.loads(answer.body) == {"received": len(DATA), "whole": True}
        wrong = f"{desk.place}/tensors?sha256={'c' * 64}&size={len(DATA)}&offset=0"
        refusal(desk, await desk.call("A0", "PUT", wrong, DATA), "conflict")  # soundly signed, but not what it says
        assert not desk.store.blobs.partial("c" * 64, "A0").exists()
        assert not desk.store.blobs.given("c" * 64, "A0").exists()

    at(tmp_path, test)


def test_a_body_that_drips_is_cut_off(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        headers = desk.signed("A0", "POST", "/v1/next", POLL)
        never = asyncio.Event()

        async def receive() -> Any:
            if not started:
                started.append(True)
                return {"type": "http.request", "body": POLL[:3], "more_body": True}
            await never.wait()
            raise AssertionError

        started: list[bool] = []
        sent: list[Any] = []

        async def send(event: Any) -> None:
            sent.append(event)

        rows = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/next", "raw_path": b"/v1/next", "query_string": b"",
                 "headers": rows, "client": ("127.0.0.1", 1), "state": {}}  # fmt: skip
        await desk.app(scope, receive, send)
        assert sent[0]["status"] == 408

    at(tmp_path, test, pace=0.05)


def test_replies_are_signed_for_one_request(tmp_path: Path) -> None:
    """An answer given to one request does not verify for another one, not even for the same request sent again."""

    async def test(desk: Desk) -> None:
        given = []
        for _ in range(2):
            headers = desk.signed("A0", "POST", "/v1/next", POLL)
            given.append((headers, await desk.ask("POST", "/v1/next", headers, POLL)))
        (first, one), (second, two) = given
        assert desk.verified("POST", "/v1/next", first, one)
        assert desk.verified("POST", "/v1/next", second, two)
        assert not desk.verified("POST", "/v1/next", second, one)  # replayed
        assert not desk.verified("POST", "/v1/next", first, two)  # reordered
        assert not desk.verified("POST", "/v1/consent", first, one)
        one.body += b" "
        assert not desk.verified("POST", "/v1/next", first, one)
        one.body, one.status = one.body[:-1], 201
        assert not desk.verified("POST", "/v1/next", first, one)

    at(tmp_path, test)
