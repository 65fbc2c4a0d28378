"""HTTP Message Signatures (RFC 9421) with Ed25519 over every request and response.

A request's signature covers method, path, query, body digest (RFC 9530) and federation, and carries
the time, a nonce, and the key's id. A response's covers its status and body digest and, of the request
that it answers, method, path, query and signature: an old response cannot be given to a new request.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    algorithms,
)

from wardround.core.errors import WardRoundError

FEDERATION_HEADER = "wardround-federation"
REQUEST_PARTS = ("@method", "@path", "@query", "content-digest", "wardround-federation")
RESPONSE_PARTS = (
    "@status",
    "content-digest",
    '"@method";req',
    '"@path";req',
    '"@query";req',
    '"signature";req',
)
TAG = "wardround"
LONG = timedelta(days=36500)
AUTHORITY = "https://wardround.invalid"  # what is signed is the path: hosts may be renamed on the way by a proxy


class BadSignature(WardRoundError):
    """A message is not signed as it must be."""


@dataclass
class Message:
    """What the signature library wants of a request; ``target`` is the path with its query."""

    method: str
    target: str
    headers: dict[str, str]  # names in lower case

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str]) -> Message:
        """A request as it was sent or received; an unsigned one gets an empty signature to refer to."""
        return cls(method, target, {"signature": "", **{name.lower(): value for name, value in headers.items()}})

    @property
    def url(self) -> str:
        """An absolute URL: only its path and query are covered."""
        return AUTHORITY + self.target


@dataclass
class Answered:
    """What the signature library wants of a response."""

    status_code: int
    headers: dict[str, str]
    request: Message


@dataclass(frozen=True)
class Signed:
    """What a verified signature says."""

    key_id: str
    created: int
    nonce: str
    digest: bytes  # SHA-256 of the body, still to be compared with it


class _One(HTTPSignatureKeyResolver):
    def __init__(self, private: Ed25519PrivateKey | None, public: Callable[[str], Ed25519PublicKey | None]) -> None:
        self._private, self._public = private, public

    def resolve_private_key(self, key_id: str) -> Ed25519PrivateKey:  # noqa: ARG002 - the library's signature
        assert self._private is not None  # noqa: S101 - only signers ask
        return self._private

    def resolve_public_key(self, key_id: str) -> Ed25519PublicKey | None:
        return self._public(key_id)


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The raw public key as 64 hexadecimal digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def public_from_hex(text: str) -> Ed25519PublicKey:
    """See `public_hex`. Raises ValueError."""
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))


def key_id(public: str) -> str:
    """The id of a public key given as hexadecimal digits: half of its SHA-256."""
    return hashlib.sha256(bytes.fromhex(public)).hexdigest()[:32]


def signature_fits(public: str, signature: str, text: bytes) -> bool:
    """Whether a plain Ed25519 signature (hexadecimal) over ``text`` is by the key given as hexadecimal digits."""
    try:
        public_from_hex(public).verify(bytes.fromhex(signature), text)
    except (InvalidSignature, ValueError):
        return False
    return True


def digest_header(sha256: bytes) -> str:
    """A Content-Digest field (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def sign_request(
    key: Ed25519PrivateKey, method: str, target: str, federation: str, sha256: bytes, created: int | None = None
) -> dict[str, str]:
    """Headers that sign a request whose body has this SHA-256."""
    message = Message(method, target, {"content-digest": digest_header(sha256), FEDERATION_HEADER: federation})
    _signer(key).sign(
        message,
        key_id=key_id(public_hex(key)),
        created=None if created is None else datetime.fromtimestamp(created, UTC),
        nonce=secrets.token_urlsafe(18),
        tag=TAG,
        label=TAG,
        covered_component_ids=REQUEST_PARTS,
        use_existing_digest=True,
    )
    return message.headers


def verify_request(
    method: str, target: str, headers: Mapping[str, str], public: Callable[[str], Ed25519PublicKey | None]
) -> Signed:
    """Check a request's signature before its body is read.

    The caller still compares time, nonce, federation and body.

    Raises:
        BadSignature: it is missing, malformed, does not cover what it must, or is not by that key.
    """
    message = Message(method, target, {name.lower(): value for name, value in headers.items()})
    return _verified(message, public, REQUEST_PARTS)


def sign_response(key: Ed25519PrivateKey, status: int, sha256: bytes, request: Message) -> dict[str, str]:
    """Headers that sign a response to ``request`` (see `Message.of`)."""
    answer = Answered(status, {"content-digest": digest_header(sha256)}, request)
    _signer(key).sign(
        answer,
        key_id=key_id(public_hex(key)),
        tag=TAG,
        label=TAG,
        covered_component_ids=RESPONSE_PARTS,
        use_existing_digest=True,
    )
    return answer.headers


def verify_response(status: int, headers: Mapping[str, str], request: Message, coordinator: Ed25519PublicKey) -> Signed:
    """Check that the coordinator gave this response to this request.

    Raises:
        BadSignature: it did not.
    """
    wanted = key_id(public_hex(coordinator))
    answer = Answered(status, {name.lower(): value for name, value in headers.items()}, request)
    return _verified(answer, lambda name: coordinator if name == wanted else None, RESPONSE_PARTS)


def _signer(key: Ed25519PrivateKey) -> HTTPMessageSigner:
    return HTTPMessageSigner(signature_algorithm=algorithms.ED25519, key_resolver=_One(key, lambda _: None))


def _verified(message: Any, public: Callable[[str], Ed25519PublicKey | None], parts: tuple[str, ...]) -> Signed:
    verifier = HTTPMessageVerifier(signature_algorithm=algorithms.ED25519, key_resolver=_One(None, public))
    verifier.max_clock_skew = LONG
    try:
        # Time is the caller's to judge: against a stored nonce, and with a telling answer.
        results = verifier.verify(message, max_age=LONG, expect_tag=TAG, require_components=parts)
        if len(results) != 1:
            raise BadSignature("more than one signature")
        said: dict[str, Any] = dict(results[0].parameters)
        digest = _sha256(message.headers["content-digest"])
        return Signed(said["keyid"], said["created"], said.get("nonce", ""), digest)
    except BadSignature:
        raise
    except Exception as error:  # whatever a hostile header does to the parsers, it is no signature
        raise BadSignature(f"not signed as it must be ({type(error).__name__})") from error


def _sha256(field: str) -> bytes:
    if not (field.startswith("sha-256=:") and field.endswith(":")):
        raise BadSignature("the body digest is not SHA-256 alone")
    try:
        value = base64.b64decode(field[9:-1], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadSignature("the body digest is not base64") from error
    if len(value) != 32:
        raise BadSignature("the body digest has the wrong length")
    return value
