"""Only who holds a site's NVFlare certificate can be that site, and doing it again changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from flare_kit import Federation, make_root

from wardround.core.audit import read_entries
from wardround.core.errors import WardRoundError
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.wire import Refused
from wardround.runtimes.nvflare.enrolment import hold_places, register


def said(body: bytes) -> Refused:
    return Refused.model_validate_json(body)


def test_a_site_is_made_and_its_key_counts(federation: Federation) -> None:
    home = federation.enrol("A")
    settings = home.settings()
    assert (settings.name, settings.carrier) == ("A", "nvflare")
    assert settings.federation.fingerprint == federation.office.federation.fingerprint
    assert federation.office.store.keys_of("A") == [public_hex(home.key())]
    assert home.policy.is_file()
    assert home.key_file.stat().st_mode & 0o077 == 0


def test_again_changes_nothing(federation: Federation) -> None:
    home = federation.enrol("A")
    before = home.settings(), home.key_file.read_bytes()
    federation.enrol("A")
    assert (home.settings(), home.key_file.read_bytes()) == before
    assert len(federation.office.store.keys_of("A")) == 1


def test_killed_after_the_server_took_the_key_and_before_the_site_did(federation: Federation) -> None:
    class Killed(BaseException):
        pass

    def cut(body: bytes) -> bytes:
        register(federation.office, federation.root.pem, body)
        raise Killed

    with pytest.raises(Killed):
        federation.enrol("A", cut)
    home = federation.enrol("A")
    assert federation.office.store.keys_of("A")[-1] == public_hex(home.key())


def test_a_key_near_its_end_is_renewed(federation: Federation) -> None:
    home = federation.enrol("A")
    home.write_settings(home.settings().model_copy(update={"expires": 0}))
    old = public_hex(home.key())
    federation.enrol("A")
    new = public_hex(home.key())
    assert federation.office.store.keys_of("A") == [old, new]
    assert old != new
    assert home.settings().expires > 0


def test_a_replaced_key_is_given_up_for_a_new_one(federation: Federation) -> None:
    home = federation.enrol("A")
    old = home.key_file.read_bytes()
    home.write_settings(home.settings().model_copy(update={"expires": 0}))
    federation.enrol("A")
    home.key_file.write_bytes(old)  # as if it was killed before the new one was written
    federation.enrol("A")
    assert federation.office.store.keys_of("A")[-1] == public_hex(home.key())


def forged(federation: Federation, tmp_path: Path, kit: Path, name: str = "A", **changes: str) -> Refused:
    """What the server says to the enrolment of ``name`` with another kit, or with changes."""
    bodies: list[bytes] = []

    def catch(body: bytes) -> bytes:
        bodies.append(body)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        federation.enrol(name, catch, kit)
    body = json.dumps({**json.loads(bodies[0]), **changes}).encode()
    return said(register(federation.office, federation.root.pem, body))


def test_another_sites_certificate_is_refused(federation: Federation, tmp_path: Path) -> None:
    refused = forged(federation, tmp_path, federation.kit("B"))
    assert refused.code == "forbidden"
    assert federation.office.store.principal("A") is None


def test_another_federations_certificate_is_refused(federation: Federation, tmp_path: Path) -> None:
    assert forged(federation, tmp_path, make_root().kit(tmp_path / "alien", "A")).code == "forbidden"


def test_a_certificate_that_ended_is_refused(federation: Federation, tmp_path: Path) -> None:
    assert forged(federation, tmp_path, federation.root.kit(tmp_path / "old", "A", days=-1)).code == "expired"


def test_a_key_that_the_certificates_owner_did_not_sign_is_refused(federation: Federation, tmp_path: Path) -> None:
    assert forged(federation, tmp_path, federation.kit("A"), key="0" * 64).code == "signature"


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"name":"A"}', b"\xff"])
def test_what_is_no_enrolment_is_refused(federation: Federation, body: bytes) -> None:
    assert said(register(federation.office, federation.root.pem, body)).code == "malformed"


def test_a_certificate_that_is_none_is_refused(federation: Federation, tmp_path: Path) -> None:
    assert forged(federation, tmp_path, federation.kit("A"), certificate="nothing").code == "malformed"


def test_a_revoked_site_stays_out(federation: Federation) -> None:
    federation.enrol("A")
    federation.office.store.revoke("A", "laptop stolen")
    with pytest.raises(WardRoundError, match="revoked"):
        federation.enrol("A")


def test_a_site_does_not_change_its_federation(federation: Federation, tmp_path: Path) -> None:
    federation.enrol("A")
    other = Federation(tmp_path / "other", federation.root)
    with pytest.raises(WardRoundError, match="another federation"):
        federation.enrol("A", lambda body: register(other.office, federation.root.pem, body))
    other.close()
    assert [e for e in read_entries(Home(federation.home("A").root).audit) if e["event"] == "other_federation"]


def test_a_place_is_held_for_a_site_that_never_came(federation: Federation) -> None:
    hold_places(federation.office, ("A", "B"))
    hold_places(federation.office, ("A", "B"))
    assert len(federation.office.store.keys_of("A")) == 1
    home = federation.enrol("A")
    assert federation.office.store.keys_of("A")[-1] == public_hex(home.key())
