"""A coordinator behind a reverse proxy that ends TLS: signatures hold, and callers' addresses are the callers'."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import urllib3
from coordinator_line import HOST, Running
from hypothesis import given
from hypothesis import strategies as st
from proxies import Interceptor
from site_kit import QUICK, free_port

from tiny import write_site
from wardround.core.audit import read_entries
from wardround.core.errors import InputError
from wardround.faces.cli.coordinator_serve import EVERYWHERE
from wardround.runtimes.https import joining
from wardround.runtimes.https.client import client_of
from wardround.runtimes.https.forwarded import caller_address, near
from wardround.runtimes.https.office import Office, found_office
from wardround.runtimes.https.server import Server, Serving
from wardround.runtimes.https.wire import PIECE, PROTOCOL, Done, Next, Poll

HOSPITAL = "203.0.113.7"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(tmp_path / "store"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def office(tmp_path: Path, proxy: Interceptor) -> Iterator[Office]:
    office = found_office(tmp_path / "c", f"https://{HOST}:{proxy.port}")
    yield office
    office.close()


@pytest.fixture
def port() -> int:
    """At which the coordinator serves plain HTTP."""
    return free_port()


@pytest.fixture
def proxy(port: int) -> Iterator[Interceptor]:
    with Interceptor(target=(HOST, port), forwarded=HOSPITAL) as proxy:
        yield proxy


@pytest.fixture
def running(office: Office, port: int) -> Iterator[Running]:
    running = Running(office, port, behind_proxy=True, plain=True)
    yield running
    running.stop()


def addresses(office: Office) -> list[str]:
    return [entry["address"] for entry in read_entries(office.audit.path) if entry["event"] == "refused"]


def unsigned(url: str, ca: Path, forwarded: str) -> int:
    with urllib3.PoolManager(ca_certs=str(ca)) as pool:
        return pool.request("GET", f"{url}/v1/heads", headers={"X-Forwarded-For": forwarded}, timeout=30).status


def test_a_site_joins_and_asks_through_a_proxy_that_ends_tls(
    running: Running, office: Office, proxy: Interceptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(proxy.ca))
    write_site(tmp_path / "data")
    home = joining.join(office.invite("A").text(), tmp_path / "data", tmp_path / "site", {}, QUICK)
    body = bytes(range(256)) * (PIECE // 256)
    with closing(client_of(home, home.settings(), patience=QUICK)) as client:
        poll = Poll(protocol=PROTOCOL, software=office.federation.software)
        assert client.call("POST", "/v1/next", poll, Next).do.kind == "nothing"
        assert client.call("POST", "/v1/probe", body, Done) == Done()
    assert proxy.seen[-1].status == 200
    assert addresses(office) == []
    assert unsigned(office.settings.url, proxy.ca, "198.51.100.1") == 401
    assert addresses(office) == [HOSPITAL], "the last one, which the proxy wrote, not what the caller claims"


def test_a_claim_is_not_believed_where_no_proxy_was_named(office: Office) -> None:
    running = Running(office)
    with closing(running.socket(office)) as line:
        line.sendall(b"GET /v1/heads HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 203.0.113.7\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 401"
    running.stop()
    assert addresses(office) == [HOST]


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        ({"plain": True}, "--behind-proxy"),
        ({"plain": True, "behind_proxy": True, "host": EVERYWHERE}, "loopback or private"),
        ({"plain": True, "behind_proxy": True, "host": "198.41.0.4"}, "loopback or private"),
        ({"plain": True, "behind_proxy": True, "certificate": Path("c"), "key": Path("k")}, "to the proxy"),
        ({"behind_proxy": True, "certificates": "required"}, "end at a reverse proxy"),
    ],
)
def test_what_does_not_go_together_is_refused(office: Office, serving: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Server(office, Serving(**{"host": HOST, "port": 0, **serving}))  # type: ignore[arg-type] # as in the table


@given(st.text(max_size=60) | st.ip_addresses().map(str))
def test_a_stranger_is_whoever_opened_the_connection(claim: str) -> None:
    for peer in ("8.8.8.8", "2001:4860:4860::8888", "?"):
        assert caller_address(peer, {"x-forwarded-for": claim}) == peer


@given(st.text(max_size=60))
def test_only_an_address_is_taken_for_one(claim: str) -> None:
    found = caller_address("127.0.0.1", {"x-forwarded-for": claim})
    assert found == "127.0.0.1" or found in claim


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("172.16.0.9", True), ("192.168.1.1", True), ("::1", True),
        ("fd00::1", True), ("::ffff:10.0.0.1", True), ("localhost", True), (EVERYWHERE, False), ("::", False),
        ("8.8.8.8", False), ("ward.example.org", False), ("", False), ("?", False),
    ],
)  # fmt: skip
def test_which_addresses_are_near(host: str, expected: bool) -> None:
    assert near(host) == expected


def test_addresses_of_either_kind_are_told_as_they_are() -> None:
    for claim, expected in (
        (" 203.0.113.7", HOSPITAL),
        ("a, 2001:DB8::1", "2001:db8::1"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
    ):
        assert caller_address("::1", {"x-forwarded-for": claim}) == expected
