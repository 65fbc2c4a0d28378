"""Invitations: one line that survives being pasted, and nothing else that looks like one."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import InputError
from wardround.runtimes.https.invitations import Invitation, new_token, read_invitation, token_hash

INVITATION = Invitation(
    url="https://coordinator.example.org:8443", name="Utrecht", token="t" * 43, fingerprint="f" * 64
)
TEXT = INVITATION.text()


def test_it_survives_being_pasted() -> None:
    broken = "\n".join(TEXT[place : place + 40] for place in range(0, len(TEXT), 40))
    for text in (TEXT, f"  {TEXT}\n", broken, TEXT.replace("wardround-", "wardround-\r\n")):
        assert read_invitation(text) == INVITATION
    assert "\n" not in TEXT
    assert TEXT.isascii()


@pytest.mark.parametrize("url", ["https://h", "https://192.0.2.7:444", "https://[2001:db8::1]:443/"])
def test_addresses(url: str) -> None:
    invitation = INVITATION.model_copy(update={"url": url})
    assert read_invitation(invitation.text()).url == url


@pytest.mark.parametrize("text", ["", "wardround-", "wardround-AAAA", TEXT[:-1], TEXT[10:], TEXT + "AA", "ä", TEXT * 9])
def test_what_is_not_whole_is_told_without_repeating_it(text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_invitation(text)
    assert "t" * 8 not in str(caught.value)
    assert caught.value.__cause__ is None


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("AZaz09-_=+/ .\x00é"))
def test_one_wrong_character_is_noticed(place: int, character: str) -> None:
    changed = TEXT[:place] + character + TEXT[place + 1 :]
    with suppress(InputError):
        assert read_invitation(changed) == INVITATION  # the character was right, or in unused bits of the last one


@given(st.text(max_size=300))
def test_any_text_is_an_invitation_or_refused(text: str) -> None:
    with pytest.raises(InputError):
        read_invitation("wardround-" + text)


def test_tokens_differ_and_their_hash_is_kept() -> None:
    assert new_token() != new_token()
    assert len(token_hash(new_token())) == 64
