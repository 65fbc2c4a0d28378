"""Becoming a site, and changing its key: nothing is burnt by a crash, and nothing is told to a stranger."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from site_kit import QUICK, Coordinator, FakePool, agent_of, approve, coordinating, joined

from tiny import write_site
from wardround.core.errors import DatasetError, InputError, StorageError
from wardround.faces.cli.site import keep_batch
from wardround.runtimes.https import joining
from wardround.runtimes.https.client import Rejected, client_of
from wardround.runtimes.https.home import Home, coordinator_url
from wardround.runtimes.https.invitations import read_invitation
from wardround.runtimes.https.patience import Unreachable, Untrusted
from wardround.runtimes.https.signing import key_id, public_hex
from wardround.runtimes.https.wire import PROTOCOL, Next, Poll
from wardround.runtimes.worker_process import setting_from_json


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_STORE", str(tmp_path / "store"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "WARDROUND_SITE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with coordinating(tmp_path) as found:
        yield found


def works(home: Home) -> Next:
    with closing(client_of(home, home.settings(), patience=QUICK)) as client:
        return client.call("POST", "/v1/next", Poll(protocol=PROTOCOL, software="0.1.0"), Next)


def test_a_site_joins_and_keeps_its_key_to_itself(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    settings = home.settings()
    assert (settings.name, settings.threads, settings.federation.name) == ("A", 1, "Trial")
    assert Path(settings.data) == tmp_path / "data-A"
    assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert home.policy.is_file()
    assert "BEGIN CERTIFICATE" in home.certificate.read_text()
    assert settings.expires > time.time() + joining.RENEW
    assert not joining.due(settings)
    assert works(home).do.kind == "nothing"
    row = coordinator.store.key(key_id(public_hex(home.key())))
    assert row is not None
    assert row.name == "A"


def test_little_memory_is_kept_in_the_folder_and_told_to_the_worker(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path, largest_batch=2)
    assert home.settings().largest_batch == 2
    coordinator.submit()
    pool = FakePool()
    agent = agent_of(home, pool)
    agent.step()
    approve(home)
    coordinator.ask("describe")
    agent.step()
    agent.step()
    assert [message["setting"]["largest_batch"] for message in pool.asked] == [2]
    assert setting_from_json(pool.asked[0]["setting"]).largest_batch == 2


def test_serve_takes_up_another_largest_batch(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path, largest_batch=2)
    for wanted, kept in ((None, 2), (3, 3), (None, 3), (0, None)):
        keep_batch(home, wanted)
        assert home.settings().largest_batch == kept


def test_a_crash_after_registering_does_not_burn_the_invitation(coordinator: Coordinator, tmp_path: Path) -> None:
    write_site(tmp_path / "data")
    text = coordinator.invitation()
    first = joining.join(text, tmp_path / "data", tmp_path / "site", {}, QUICK)
    key = first.key_file.read_bytes()
    first.settings_file.unlink()
    again = joining.join(text, tmp_path / "data", tmp_path / "site", {}, QUICK)
    assert again.key_file.read_bytes() == key
    assert works(again).do.kind == "nothing"
    with pytest.raises(Rejected, match="invitation"):
        joining.join(text, tmp_path / "data", tmp_path / "other", {}, QUICK)


@pytest.mark.parametrize("kept", [False, True], ids=["new", "there before"])
def test_a_refused_invitation_leaves_nothing_behind(coordinator: Coordinator, tmp_path: Path, kept: bool) -> None:
    write_site(tmp_path / "data")
    used = coordinator.invitation()
    joining.join(used, tmp_path / "data", tmp_path / "site", {}, QUICK)
    place = tmp_path / "far" / "away"
    if kept:
        place.parent.mkdir()
    with pytest.raises(Rejected, match="invitation"):
        joining.join(used, tmp_path / "data", place, {}, QUICK)
    assert place.parent.exists() == kept
    assert not place.exists()
    with pytest.raises(Rejected, match="invitation"):
        joining.join(used, tmp_path / "data", place, {}, QUICK)
    void = coordinator.invitation("A", rekey=True)
    coordinator.invitation("A", rekey=True)
    with pytest.raises(Rejected, match="invitation"):
        joining.rekey(Home(tmp_path / "site"), void, QUICK)
    assert not (tmp_path / "site" / joining.NEXT_KEY).exists()


def test_a_refused_invitation_takes_no_key_that_was_there_before(coordinator: Coordinator, tmp_path: Path) -> None:
    """It may be registered: the answer to an earlier attempt may have been lost."""
    write_site(tmp_path / "data")
    used = coordinator.invitation()
    home = joining.join(used, tmp_path / "data", tmp_path / "site", {}, QUICK)
    home.settings_file.unlink()
    other = coordinator.invitation("B")
    joining.join(other, tmp_path / "data", tmp_path / "other", {}, QUICK)
    with pytest.raises(Rejected, match="invitation"):
        joining.join(other, tmp_path / "data", home.root, {}, QUICK)
    assert works(joining.join(used, tmp_path / "data", home.root, {}, QUICK)).do.kind == "nothing"


def test_what_is_wrong_at_the_site_is_said_before_anything_is_sent(coordinator: Coordinator, tmp_path: Path) -> None:
    text = coordinator.invitation()
    with pytest.raises(DatasetError):
        joining.join(text, tmp_path / "nowhere", tmp_path / "site", {}, QUICK)
    write_site(tmp_path / "data")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        joining.join(text, tmp_path / "data", tmp_path / "full", {}, QUICK)
    with pytest.raises(InputError, match="whole invitation"):
        joining.join(text[:-9], tmp_path / "data", tmp_path / "site", {}, QUICK)
    assert not (tmp_path / "site").exists()
    assert joining.join(text, tmp_path / "data", tmp_path / "site", {}, QUICK).settings().name == "A"
    with pytest.raises(InputError, match="belongs to the site A"):
        joining.join(text, tmp_path / "data", tmp_path / "site", {}, QUICK)


def test_invitations_of_people_and_of_new_keys_are_for_other_commands(coordinator: Coordinator, tmp_path: Path) -> None:
    write_site(tmp_path / "data")
    with pytest.raises(InputError, match="coordinator join"):
        joining.join(coordinator.invitation("V", role="viewer"), tmp_path / "data", tmp_path / "site", {}, QUICK)
    joined(coordinator, tmp_path)
    with pytest.raises(InputError, match="rekey"):
        joining.join(coordinator.invitation("A", rekey=True), tmp_path / "data", tmp_path / "site", {}, QUICK)


def test_another_coordinator_at_the_address_is_not_trusted(coordinator: Coordinator, tmp_path: Path) -> None:
    write_site(tmp_path / "data")
    invitation = read_invitation(coordinator.invitation())
    forged = invitation.model_copy(update={"fingerprint": "0" * 64}).text()
    with pytest.raises(Untrusted, match="fingerprint"):
        joining.join(forged, tmp_path / "data", tmp_path / "site", {}, QUICK)
    away = invitation.model_copy(update={"url": "https://127.0.0.1:1"}).text()
    with pytest.raises(Unreachable):
        joining.join(away, tmp_path / "data", tmp_path / "site", {}, QUICK)
    home = joining.join(invitation.text(), tmp_path / "data", tmp_path / "site", {}, QUICK)
    assert home.settings().name == "A"


def test_a_new_key_takes_the_place_of_the_old_one(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    old = client_of(home, home.settings(), patience=QUICK)
    before = home.key_file.read_bytes()
    joining.rekey(home, patience=QUICK)
    assert home.key_file.read_bytes() != before
    assert works(home).do.kind == "nothing"
    with pytest.raises(Rejected), closing(old):
        old.call("POST", "/v1/next", Poll(protocol=PROTOCOL, software="0.1.0"), Next)
    assert not (home.root / joining.NEXT_KEY).exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_while_renewing_leaves_a_site_that_works(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    home = joined(coordinator, tmp_path)
    with monkeypatch.context() as patch:
        if when == "before":
            patch.setattr("wardround.runtimes.https.client.Client.insist", _die)
        else:
            patch.setattr(joining, "_adopt", _die)
        with pytest.raises(KeyboardInterrupt):
            joining.rekey(home, patience=QUICK)
    assert (home.root / joining.NEXT_KEY).is_file()
    settings = joining.rekey(home, patience=QUICK)
    assert settings.expires > time.time() + joining.RENEW
    assert works(home).do.kind == "nothing"


def test_a_revoked_site_comes_back_by_an_invitation(coordinator: Coordinator, tmp_path: Path) -> None:
    home = joined(coordinator, tmp_path)
    joined(coordinator, tmp_path, "B")
    coordinator.store.revoke("A", "lost laptop")
    with pytest.raises(Rejected, match="revoked"):
        works(home)
    with pytest.raises(InputError, match="not one that gives the site A"):
        joining.rekey(home, coordinator.invitation("B", rekey=True), QUICK)
    joining.rekey(home, coordinator.invitation("A", rekey=True), QUICK)
    assert works(home).do.kind == "nothing"


def test_an_agent_renews_in_time_and_takes_up_what_another_process_renewed(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    home = joined(coordinator, tmp_path)
    agent = agent_of(home)
    agent.step()
    joining.rekey(home, patience=QUICK)
    agent.step()
    home.write_settings(home.settings().model_copy(update={"expires": int(time.time()) + 86_400}))
    key = home.key_file.read_bytes()
    agent = agent_of(home)
    agent.step()
    assert home.key_file.read_bytes() != key
    assert not joining.due(home.settings())
    agent.step()
    assert coordinator.store.last_head("A") is None


def test_a_key_that_others_can_read_is_closed_or_refused(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = joined(coordinator, tmp_path)
    home.key_file.chmod(0o644)
    home.key()
    assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600
    home.key_file.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(StorageError, match="read by others"):
        home.key()


def _die(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@given(st.one_of(st.text(max_size=40), st.from_regex(r"https://[^/]{0,20}(:[0-9]{0,6})?/?", fullmatch=True)))
def test_an_address_is_https_host_and_port_or_refused(text: str) -> None:
    try:
        url = coordinator_url(text)
    except ValueError:
        return
    parts = urlsplit(url)
    assert parts.scheme == "https"
    assert parts.hostname
    assert (parts.path, parts.query, parts.fragment, parts.username) == ("", "", "", None)
    assert coordinator_url(f"{url}/") == url
