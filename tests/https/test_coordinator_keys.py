"""Keys, certificates, roles, signed logs, limits, and requests that are none."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from coordinator_asks import ask, at, idle, next_of, poll
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from desk import Desk

from wardround.runtimes.https import app as application
from wardround.runtimes.https import people, signing
from wardround.runtimes.https.app import App
from wardround.runtimes.https.wire import (
    Done,
    Federation,
    Head,
    Heads,
    Join,
    Joined,
    OwnHead,
    Rekey,
    Seen,
    head_text,
    rekey_proof,
)


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
