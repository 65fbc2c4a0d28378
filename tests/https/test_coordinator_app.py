"""The coordinator's endpoints, asked through ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from desk import Desk, Response

from tiny import make_plan
from wardround.core.audit import read_entries
from wardround.core.frozen import Frozen
from wardround.core.messages import Reply, SiteFailed, TrainFacts
from wardround.runtimes.https import app as application
from wardround.runtimes.https import people, signing, streams
from wardround.runtimes.https.app import App
from wardround.runtimes.https.store import Store
from wardround.runtimes.https.wire import (
    PIECE,
    Consent,
    Done,
    Federation,
    Going,
    Head,
    Heads,
    Join,
    Joined,
    Moved,
    Next,
    OwnHead,
    Poll,
    Received,
    Rekey,
    Results,
    Seen,
    Work,
    head_text,
    rekey_proof,
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


# long polls


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


def idle(desk: Desk) -> None:
    """B has nothing to do."""
    desk.store.decide(desk.task.id, "B", SiteFailed(task=desk.task.id, site="B", kind="late", reason="late"))


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


# pieces


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


# keys, logs, people


def test_joining_and_another_key_over_the_network(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        text = (await desk.ask("GET", "/v1/federation", {})).body
        assert Federation.model_validate_json(text) == desk.office.federation
        invitation = desk.office.invite("C")
        assert Federation.model_validate_json(text).fingerprint == invitation.fingerprint
        desk.keys["C"] = key = Ed25519PrivateKey.generate()
        software = desk.office.federation.software
        asked = Join(token=invitation.token, name="C", key=signing.public_hex(key), software=software, protocol=1)
        first = Joined.model_validate_json((await ask(desk, "C", "/v1/join", asked)).body)
        assert Joined.model_validate_json((await ask(desk, "C", "/v1/join", asked)).body) == first
        new = Ed25519PrivateKey.generate()
        wanted = Rekey(key=signing.public_hex(new), proof="0" * 128)
        assert (await ask(desk, "C", "/v1/rekey", wanted)).refused.code == "signature"
        proof = new.sign(rekey_proof(desk.federation, signing.public_hex(key), wanted.key)).hex()
        wanted = wanted.model_copy(update={"proof": proof})
        assert Joined.model_validate_json((await ask(desk, "C", "/v1/rekey", wanted)).body).name == "C"
        assert (await ask(desk, "C", "/v1/next", poll(desk))).refused.code == "revoked"
        desk.keys["C"] = new
        assert (await next_of(desk, "C", poll(desk))).do.kind == "nothing"

    at(tmp_path, test)


def test_an_incompatible_site_does_not_use_its_invitation_up(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        invitation = desk.office.invite("C")
        desk.keys["C"] = Ed25519PrivateKey.generate()
        public = signing.public_hex(desk.keys["C"])
        old = Join(token=invitation.token, name="C", key=public, software="99.0.0", protocol=1)
        assert (await ask(desk, "C", "/v1/join", old)).refused.code == "incompatible"
        right = old.model_copy(update={"software": desk.office.federation.software})
        assert (await ask(desk, "C", "/v1/join", right)).status == 200

    at(tmp_path, test)


def test_the_two_sides_sign_each_others_logs(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        first, second = Head(length=1, hash="1" * 64), Head(length=5, hash="2" * 64)
        answer = Heads.model_validate_json((await ask(desk, "B", "/v1/heads", first)).body)
        text = head_text(desk.federation, "B", first, answer.time)
        assert signing.signature_fits(signing.public_hex(desk.office.key), answer.signature, text)
        desk.office.audit.append("something")
        own = desk.keys["B"].sign(head_text(desk.federation, "", answer.own, 7)).hex()
        said = OwnHead(**second.model_dump(), seen=Seen(head=answer.own, time=7, signature=own))
        assert (await ask(desk, "B", "/v1/heads", said)).status == 200
        kept = desk.store.last_head("B")
        assert kept is not None
        assert (kept.length, kept.hash) == (5, "2" * 64)
        assert [site for site, _ in desk.store.own_heads()] == ["B"]
        assert desk.office.verify_log().clean
        for wrong in (first, Head(length=5, hash="3" * 64)):
            assert (await ask(desk, "B", "/v1/heads", wrong)).refused.code == "conflict"
        forged = said.model_copy(update={"length": 6, "seen": Seen(head=answer.own, time=8, signature=own)})
        assert (await ask(desk, "B", "/v1/heads", forged)).refused.code == "signature"
        lines = desk.office.audit.path.read_text().splitlines(keepends=True)
        desk.office.audit.path.write_text("".join(lines[:-3]).replace("something", "nothing"))
        assert not desk.office.verify_log().clean

    at(tmp_path, test)


def test_people_and_sites_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(desk: Desk) -> None:
        asked: list[tuple[str, str]] = []
        monkeypatch.setattr(
            people, "handle", lambda _, person, action, __: asked.append((person.name, action)) or Done()
        )
        assert (await ask(desk, "V", "/v1/people/status", b"{}")).status == 200
        assert asked == [("V", "status")]
        assert (await ask(desk, "B", "/v1/people/status", b"{}")).refused.code == "forbidden"
        for path in ("/v1/next", "/v1/consent", f"{desk.place}/reply"):
            assert (await ask(desk, "V", path, b"{}")).refused.code == "forbidden"
        assert (
            await ask(desk, "V", f"/v1/blobs/{desk.sha256}?offset=0&count=1", method="GET")
        ).refused.code == "forbidden"

    at(tmp_path, test)


def test_one_key_has_so_many_requests_at_once(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        idle(desk)
        polls = [asyncio.create_task(ask(desk, "B", "/v1/next", poll(desk, 30))) for _ in range(application.AT_ONCE)]
        while sum(desk.app._busy.values()) < application.AT_ONCE:
            await asyncio.sleep(0)
        assert (await ask(desk, "B", "/v1/next", poll(desk))).refused.code == "busy"
        assert (await next_of(desk, "A0", poll(desk))).do.kind == "work"
        await desk.app.stop()
        assert {response.status for response in await asyncio.gather(*polls)} == {200}
        assert (await ask(desk, "B", "/v1/next", poll(desk))).status == 200

    at(tmp_path, test)


def test_health(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        assert (await desk.ask("GET", "/healthz", {})).status == 200
        desk.store.close()
        for name in ("state", "recent"):
            path = desk.office.folder / f"{name}.sqlite"
            path.rename(path.with_suffix(".away"))
            path.mkdir()
        response = await desk.ask("GET", "/healthz", {})
        assert (response.status, response.refused.code) == (503, "busy")

    at(tmp_path, test)


def test_a_client_certificate_must_be_that_of_the_key(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        def der(who: str) -> bytes:
            pem = desk.office.certify(who, signing.public_hex(desk.keys[who]), 2_000_000_000)
            return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)

        async def status(app: App, shown: bytes | None) -> str:
            desk.app = app
            before, app._http = (
                app._http,
                lambda exchange: before(  # type: ignore[method-assign]
                    setattr(exchange, "state", {"peer_certificate": shown}) or exchange
                ),
            )
            response = await ask(desk, "B", "/v1/next", poll(desk))
            app._http = before  # type: ignore[method-assign]
            return json.loads(response.body).get("code", "served")

        mine, others = der("B"), der("A0")
        for certificates, expected in (
            ("off", ("served", "served", "served")),
            ("optional", ("served", "forbidden", "served")),
            ("required", ("served", "forbidden", "forbidden")),
        ):
            app = App(desk.office, certificates)  # type: ignore[arg-type]
            assert tuple([await status(app, shown) for shown in (mine, others, None)]) == expected

    at(tmp_path, test)


def test_strange_requests_are_refused_in_words(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        for method, target in (
            ("GET", "/"), ("PATCH", "/v1/next"), ("GET", "/v1/blobs/../../identity.pem"), ("GET", "/v1/plans/%2e%2e"),
            ("GET", "//v1/next"), ("GET", f"/v1/plans/{'A' * 64}"), ("POST", "/v1/people/x/../status"),
            ("GET", f"/v1/tasks/{desk.digest}/01/train/0/tensors"), ("GET", "/v1/blobs/\x00"), ("GET", "/\xff"),
        ):  # fmt: skip
            response = await desk.ask(method, target, {})
            assert response.refused.code in ("not_found", "malformed"), target
        for body in (
            b"",
            b"[" * 60_000,
            b'{"a":' + b"9" * 5000 + b"}",
            b'{"protocol":1e999}',
            b"\xff",
            b"null",
            b"{}",
        ):
            assert (await ask(desk, "B", "/v1/next", body)).refused.code == "malformed"
        twice = [(b"content-digest", b"sha-256=:AA==:"), (b"content-digest", b"sha-256=:AA==:")]
        assert (await desk.ask("GET", "/v1/federation", twice)).refused.code == "malformed"

    at(tmp_path, test)
