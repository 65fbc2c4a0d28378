"""The federation's certificates, and the coordinator's folder."""

from __future__ import annotations

import ssl
import stat
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from wardround.core.errors import InputError, StorageError
from wardround.runtimes.https import authority as authorities
from wardround.runtimes.https.authority import make_authority, open_authority, server_files
from wardround.runtimes.https.office import found_office, open_office
from wardround.runtimes.https.signing import public_hex


def talk(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> ssl.SSLObject:
    """A handshake in memory; returns the server's side."""
    inward, outward = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = server.wrap_bio(inward, outward, server_side=True)
    there = client.wrap_bio(outward, inward, server_hostname=host)
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (there, here):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
        if len(done) == 2:
            break
    with suppress(ssl.SSLWantReadError):
        here.read()  # of TLS 1.3, the client's certificate may be judged here
    return here


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "coordinator.example.org"])
def test_tls_with_nothing_but_the_federations_authority(tmp_path: Path, host: str) -> None:
    authority = make_authority(tmp_path, "a study")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*server_files(tmp_path, authority, [host]))
    client = ssl.create_default_context(cadata=authority.pem)
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 does
    talk(server, client, host)
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, client, "elsewhere.example.org")
    with pytest.raises(ssl.SSLCertVerificationError):
        talk(server, ssl.create_default_context(cadata=make_authority(tmp_path, "other").pem), host)


def test_a_sites_certificate_carries_its_own_key(tmp_path: Path) -> None:
    authority, key = make_authority(tmp_path, "a study"), Ed25519PrivateKey.generate()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*server_files(tmp_path, authority, ["localhost"]))
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_verify_locations(cadata=authority.pem)
    client = ssl.create_default_context(cadata=authority.pem)
    pem = authority.client("Utrecht", public_hex(key), int(time.time()) + 1000)
    (tmp_path / "c.pem").write_text(pem)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "k.pem").write_bytes(private)
    client.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    seen = talk(server, client, "localhost").getpeercert(True)
    assert seen is not None
    assert public_hex(x509.load_der_x509_certificate(seen).public_key()) == public_hex(key)  # type: ignore[arg-type]


def test_a_client_certificate_ends_when_the_key_does(tmp_path: Path) -> None:
    authority, end = make_authority(tmp_path, "a study"), int(time.time()) + 1000
    pem = authority.client("Utrecht", public_hex(Ed25519PrivateKey.generate()), end)
    certificate = x509.load_pem_x509_certificate(pem.encode())
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(end, UTC)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not constraints.ca


def test_the_server_certificate_is_renewed_when_it_must_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = make_authority(tmp_path, "a study")

    def read() -> bytes:
        return server_files(tmp_path, authority, ["h"])[0].read_bytes()

    first = read()
    assert read() == first
    assert server_files(tmp_path, authority, ["h", "g"])[0].read_bytes() != first
    monkeypatch.setattr(authorities, "RENEW_DAYS", authorities.SERVER_DAYS + 1)
    assert read() != read()
    monkeypatch.undo()
    (tmp_path / "server.pem").write_text("not a certificate")
    read()
    other = make_authority(tmp_path, "other")
    assert server_files(tmp_path, other, ["h"])[0].read_bytes() != first


def test_a_key_that_is_not_the_authoritys_is_noticed(tmp_path: Path) -> None:
    make_authority(tmp_path, "a study")
    (tmp_path / "b").mkdir()
    make_authority(tmp_path / "b", "other")
    (tmp_path / "authority-key.pem").write_bytes((tmp_path / "b" / "authority-key.pem").read_bytes())
    with pytest.raises(StorageError, match="not the key"):
        open_authority(tmp_path)
    (tmp_path / "authority.pem").unlink()
    with pytest.raises(StorageError, match="cannot be read"):
        open_authority(tmp_path)


def test_a_folder_is_its_owners_alone(tmp_path: Path) -> None:
    office = found_office(tmp_path / "c", "https://localhost:8443", "A study")
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    for name in ("identity.pem", "authority-key.pem", "federation.json"):
        assert stat.S_IMODE((tmp_path / "c" / name).stat().st_mode) == 0o600
    fingerprint = office.federation.fingerprint
    invitation = office.invite("Utrecht")
    assert (invitation.url, invitation.fingerprint) == ("https://localhost:8443", fingerprint)
    office.close()
    again = open_office(tmp_path / "c")
    assert again.federation.fingerprint == fingerprint
    assert invitation.token not in (tmp_path / "c" / "audit.jsonl").read_text()
    again.close()


@pytest.mark.parametrize(
    "url", ["http://h", "https://", "https://h:99999", "https://h/path", "https://u@h", "h:443", "https://h:0x1"]
)
def test_addresses_that_are_none(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError):
        found_office(tmp_path / "c", url)
    assert not (tmp_path / "c").exists()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match="not empty"):
        found_office(tmp_path, "https://h")
    with pytest.raises(StorageError, match="no coordinator's folder"):
        open_office(tmp_path)


def test_a_damaged_folder_does_not_show_what_is_in_it(tmp_path: Path) -> None:
    found_office(tmp_path / "c", "https://h").close()
    path = tmp_path / "c" / "federation.json"
    path.write_text(path.read_text().replace('"database": null', '"database": "postgresql://u:secret@h", "x": 1'))
    with pytest.raises(StorageError) as caught:
        open_office(tmp_path / "c")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_one_server_at_a_time(tmp_path: Path) -> None:
    office = found_office(tmp_path / "c", "https://h")
    with office.lock(), pytest.raises(StorageError, match="another process"), office.lock():
        pass
    with office.lock():
        pass
    office.close()


def test_a_server_certificate_outlives_no_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authorities, "AUTHORITY_DAYS", 5)
    authority = make_authority(tmp_path, "short")
    pem, _ = authority.server(["h"])
    assert x509.load_pem_x509_certificate(pem).not_valid_after_utc <= datetime.now(UTC) + timedelta(days=5)
