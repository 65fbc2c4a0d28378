"""Invitations: one line of text that can be pasted, with a token that is good once.

What is in it: where the coordinator is, who is invited as what, the token, and the fingerprint of the
federation, by which whoever joins knows the coordinator again whatever lies between the two.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from wardround.core.errors import InputError
from wardround.core.frozen import Frozen
from wardround.core.messages import Digest, SiteName
from wardround.runtimes.https.wire import Token

PREFIX = "wardround-"
LONGEST = 2000  # characters


class Invitation(Frozen):
    """What the line says."""

    url: Annotated[str, Field(pattern=r"^https://[A-Za-z0-9.\[\]:_-]{1,253}/?$")]
    name: SiteName
    role: Literal["site", "viewer", "researcher", "owner"] = "site"
    rekey: bool = False  # another key for somebody who joined before
    token: Token
    fingerprint: Digest

    def text(self) -> str:
        """One line: a prefix and base64url. Whoever reads it can join: it is shown once and kept nowhere."""
        body = self.canonical().encode()
        packed = hashlib.sha256(body).digest()[:6] + body
        return PREFIX + base64.urlsafe_b64encode(packed).decode().rstrip("=")


def read_invitation(text: str) -> Invitation:
    """An invitation as it was pasted: white space and line breaks in it do no harm.

    Raises:
        InputError: it is not an invitation, or not a whole one.
    """
    line = re.sub(r"\s", "", text)
    try:
        if not line.startswith(PREFIX) or len(line) > LONGEST:
            raise ValueError
        packed = base64.b64decode(_padded(line.removeprefix(PREFIX)), altchars=b"-_", validate=True)
        if hashlib.sha256(packed[6:]).digest()[:6] != packed[:6]:
            raise ValueError
        return Invitation.model_validate_json(packed[6:])
    except (ValueError, binascii.Error, ValidationError):
        # Not chained: the cause would show the token.
        raise InputError(
            f"this is not a whole invitation: it begins with {PREFIX} and is one line; paste all of it"
        ) from None


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is kept of a token. It is random and long: no salt or slow hash would add anything."""
    return hashlib.sha256(token.encode()).hexdigest()


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
