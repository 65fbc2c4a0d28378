"""The coordinator's server over real TLS: what the ASGI application cannot see, and what only a socket can do wrong."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from coordinator_line import HOST, Running, Site
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tiny import make_plan
from wardround.core.audit import read_entries
from wardround.core.errors import InputError, StorageError
from wardround.core.messages import Reply, SiteFailed, Task, TrainFacts
from wardround.runtimes.https import protocol
from wardround.runtimes.https.office import Office, found_office
from wardround.runtimes.https.server import Server, Serving
from wardround.runtimes.https.wire import PIECE, PROTOCOL, Consent, Next, Poll, Received, Work

MODEL = bytes(range(256)) * (96 << 10)  # 24 MiB: more than sockets hold
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = found_office(tmp_path / "c", f"https://{HOST}:8443")
    yield office
    office.close()


@pytest.fixture
def site(office: Office) -> Site:
    return Site(office)


@pytest.fixture
def task(office: Office, site: Site) -> Task:
    """Open at A, which approved."""
    plan = make_plan()
    office.store.add_run(plan, ["A"], "owner")
    office.store.set_standing(plan.digest(), "A", Consent(plan=plan.digest(), standing="approved"))
    office.store.set_run(plan.digest(), "running")
    task = Task(plan=plan.digest(), round=0, verb="train", tensors=SHA256)
    model = office.folder / "model"
    model.write_bytes(MODEL)
    office.store.open_task(task, model, ["A"])
    return task


@pytest.fixture
def running(office: Office, site: Site) -> Iterator[Running]:
    running = Running(office, metrics=f"{HOST}:0")
    site.connect(running.port)
    yield running
    site.line.close()
    running.stop()


def poll(task: Task, wait: float = 0) -> bytes:
    return Poll(protocol=PROTOCOL, software="0.1.0", wait=wait, knows=(task.plan,)).canonical().encode()


def closed(line: socket.socket) -> bool:
    """Whether the other side cuts the connection, without a word."""
    try:
        return line.recv(1) == b""
    except (ConnectionError, ssl.SSLError):
        return True


def place(task: Task) -> str:
    return f"/v1/tasks/{task.plan}/{task.round}/{task.verb}/{task.step}"


@pytest.mark.parametrize("piece", [len(MODEL), PIECE])
def test_an_exchange_in_one_request_and_in_pieces(
    running: Running, office: Office, site: Site, task: Task, piece: int
) -> None:
    work = Next.model_validate_json(site.ask("POST", "/v1/next", poll(task))[1]).do
    assert isinstance(work, Work)
    down = b""
    while len(down) < work.size:
        status, data = site.ask("GET", f"/v1/blobs/{SHA256}?offset={len(down)}&count={piece}")
        assert status == 200
        down += data
    assert down == MODEL
    tensors, up = f"{place(task)}/tensors?sha256={SHA256}&size={len(MODEL)}", 0
    while up < len(MODEL):
        status, data = site.ask("PUT", f"{tensors}&offset={up}", MODEL[up : up + piece])
        assert status == 200
        up = Received.model_validate_json(data).received
    facts = TrainFacts(cases=1, updates=1, samples=1, loss=0.5, rate=0.1)
    reply = Reply(task=task.id, site="A", facts=facts, tensors=SHA256, size=len(MODEL))
    assert site.ask("POST", f"{place(task)}/reply", reply.canonical().encode())[0] == 200
    assert office.store.blobs.given(SHA256, "A").read_bytes() == MODEL
    assert set(office.store.outcomes(task.id)) == {"A"}


def test_a_refused_body_is_passed_over_and_the_connection_goes_on(running: Running, site: Site, task: Task) -> None:
    target = f"{place(task)}/tensors?sha256={SHA256}&size={len(MODEL)}&offset=4096"
    status, data = site.ask("PUT", target, MODEL[4096 : 4096 + PIECE])
    assert (status, json.loads(data)["received"]) == (409, 0)
    assert site.ask("POST", "/v1/next", poll(task))[0] == 200


def test_stopping_ends_held_polls(running: Running, office: Office, site: Site, task: Task) -> None:
    office.store.decide(task.id, "A", SiteFailed(task=task.id, site="A", kind="late", reason="late"))
    held = threading.Event()
    look = office.store.views
    office.store.views = lambda name: (look(name), held.set())[0]  # type: ignore[method-assign]
    answers: list[tuple[int, bytes]] = []
    asking = threading.Thread(target=lambda: answers.append(site.ask("POST", "/v1/next", poll(task, 30))))
    asking.start()
    assert held.wait(30)
    running.stop()
    asking.join(30)
    assert [status for status, _ in answers] == [200]


def test_heads_that_drip_or_never_end_are_cut_off(
    running: Running, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunked = b"POST /v1/next HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    for begin in (b"GET / HTTP/1.1\r\n", chunked):
        endless = running.socket(office)
        endless.sendall(begin + b"x-a: ")
        with suppress(ConnectionError, ssl.SSLError):
            for _ in range(8):
                endless.sendall(b"b" * protocol.HEAD)
            while endless.recv(4096):  # a chunked request is answered before its trailer ends
                pass
        endless.close()
    monkeypatch.setattr(protocol.Connection, "patience", 0.5)
    for begin in (b"", b"POST /v1/next HTTP/1.1\r\nhost: x\r\n"):
        line = running.socket(office)
        line.sendall(begin)
        assert closed(line)
        line.close()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"\x16\x03\x01 what is this?\r\n\r\n", "not HTTP"),
        (b"GET / HTTP/1.1\r\nx-a: b\x00\r\n\r\n", "not HTTP"),
        (b"GET / HTTP/1.1\r\nx-a: " + b"b" * 4 * protocol.HEAD, "longer than"),
        (b"GET / HTTP/1.1\r\nx-a: " + b"b" * 2 * protocol.HEAD + b"\r\n\r\n", "longer than"),
    ],
    ids=["bytes", "header", "endless", "whole"],
)
def test_what_is_no_http_is_logged_once_with_the_address(
    running: Running, office: Office, site: Site, caplog: pytest.LogCaptureFixture, sent: bytes, why: str
) -> None:
    logged = threading.Event()
    note = running.server.app._note_refusal
    running.server.app._note_refusal = lambda facts: (note(facts), logged.set())[0]  # type: ignore[method-assign]
    with caplog.at_level(logging.WARNING):
        line = running.socket(office)
        with suppress(ConnectionError, ssl.SSLError):
            line.sendall(sent)
            line.sendall(b"and more of it\r\n\r\n")
            while line.recv(4096):
                pass
        line.close()
        assert logged.wait(30)
        site.line.close()
        running.stop()
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.getMessage(), record.levelname) for record in told] == [("refused", "WARNING")]
    (entry,) = [entry for entry in read_entries(office.audit.path) if entry["event"] == "refused"]
    assert (entry["code"], entry["address"]) == ("malformed", HOST)
    assert why in entry["message"]


def test_bodies_that_drip_are_refused_and_then_cut_off(
    running: Running, office: Office, site: Site, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.Connection, "patience", 0.5)
    running.server.app._pace = 0.5
    body = poll(task)
    site.line.putrequest("POST", "/v1/next")
    for name, value in {**site.headers("POST", "/v1/next", body), "content-length": str(len(body))}.items():
        site.line.putheader(name, value)
    site.line.endheaders()
    site.line.send(body[:3])
    response = site.line.getresponse()
    assert (response.status, json.loads(response.read())["code"]) == (408, "busy")
    unsigned = running.socket(office)
    unsigned.sendall(b"POST /v1/next HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n")
    assert unsigned.recv(12) == b"HTTP/1.1 401"
    while unsigned.recv(4096):  # the rest of the answer; then nobody waits for the rest of the body
        pass
    unsigned.close()


def test_who_does_not_read_is_cut_off(running: Running, site: Site, task: Task) -> None:
    running.server.app._pace = 0.05
    gone = threading.Event()
    running.server.app._quietly = lambda *_: gone.set()  # type: ignore[method-assign]
    target = f"/v1/blobs/{SHA256}?offset=0&count={len(MODEL)}"
    site.line.request("GET", target, headers=site.headers("GET", target))
    assert gone.wait(30)


def test_what_is_no_http_is_answered_and_the_server_lives(running: Running, office: Office, site: Site) -> None:
    plain = socket.create_connection((HOST, running.port), timeout=30)
    plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
    plain.close()
    line = running.socket(office)
    line.sendall(b"\x00\x01garbage\r\n\r\n")
    assert line.recv(12) == b"HTTP/1.1 400"
    line.close()
    assert site.ask("GET", "/healthz") == (200, b'{"healthy":true}')


def test_strangers_make_room_for_those_who_signed(
    running: Running, office: Office, site: Site, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert site.ask("POST", "/v1/next", poll(task))[0] == 200
    monkeypatch.setattr(protocol.Connection, "most", 1)
    stranger = running.socket(office)
    assert closed(stranger)
    stranger.close()
    assert site.ask("POST", "/v1/next", poll(task))[0] == 200


@pytest.mark.parametrize("shown", [False, True])
def test_client_certificates(office: Office, site: Site, task: Task, tmp_path: Path, shown: bool) -> None:
    if shown:
        (tmp_path / "c.pem").write_text(site.certificate)
        private = site.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (tmp_path / "k.pem").write_bytes(private)
        site.context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    running = Running(office, certificates="required")
    site.connect(running.port)
    assert site.ask("POST", "/v1/next", poll(task))[0] == (200 if shown else 403)
    assert site.ask("GET", "/v1/federation")[0] == 200
    site.line.close()
    running.stop()


def test_metrics_have_a_listener_of_their_own(running: Running, office: Office, site: Site, task: Task) -> None:
    site.ask("POST", "/v1/next", poll(task))
    site.ask("GET", "/v1/nothing")
    listener = running.server.app.metrics.listen(f"{HOST}:0")
    with urllib.request.urlopen(f"http://{HOST}:{listener.server_port}/metrics", timeout=30) as response:
        text = response.read().decode()
    listener.shutdown()
    listener.server_close()
    assert 'wardround_requests_total{endpoint="next",status="200"} 1.0' in text
    assert 'wardround_refusals_total{code="not_found"} 1.0' in text
    assert 'wardround_runs{state="running"} 1.0' in text
    assert "wardround_site_seen_seconds" in text
    assert site.ask("GET", "/metrics")[0] == 404


def test_what_cannot_be_served_is_told(running: Running, office: Office, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot listen"):
        Server(office, Serving(HOST, running.port))
    with pytest.raises(StorageError, match="another process"):
        Server(office, Serving(HOST, 0)).run()
    (tmp_path / "x.pem").write_text("nothing")
    with pytest.raises(StorageError, match="cannot be used"):
        Server(office, Serving(HOST, 0, certificate=tmp_path / "x.pem", key=tmp_path / "x.pem"))
    for address in ("9108", "h:x", ":1"):
        with pytest.raises(InputError):
            running.server.app.metrics.listen(address)
    with pytest.raises(StorageError):
        running.server.app.metrics.listen(f"{HOST}:{running.port}")


def test_chores_find_their_work(running: Running, office: Office, caplog: pytest.LogCaptureFixture) -> None:
    stale = office.store.blobs.partial("0" * 64, "A")
    stale.write_bytes(b"half")
    import os

    os.utime(stale, (0, 0))
    for _ in range(30):
        running.server.app.throttle.admit("flood")
    logging.getLogger("wardround.network").addHandler(caplog.handler)
    running.server._each_hour()
    running.server.app.tell_left_out()
    logging.getLogger("wardround.network").removeHandler(caplog.handler)
    assert not stale.exists()
    assert '"left_out":10' in office.audit.path.read_text()
