"""Who asks? Decided from a request's headers alone, before a byte of its body is read."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import (
    FEDERATION_HEADER,
    BadSignature,
    Signed,
    key_id,
    public_from_hex,
    verify_request,
)
from wardround.runtimes.https.store import KeyRow, Role, Store
from wardround.runtimes.https.wire import SKEW, Join

_NONCE = re.compile(r"[A-Za-z0-9_-]{16,64}\Z")
_KEY_ID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass(frozen=True)
class Caller:
    """Whose key signed a request, and the SHA-256 that its body must have."""

    name: str
    role: Role
    key_id: str
    key: str  # raw public key, hexadecimal
    body: bytes


class Guard:
    """Admits requests of one federation."""

    def __init__(self, store: Store, federation: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._federation, self._clock = store, federation, clock

    def admit(self, method: str, target: str, headers: Mapping[str, str]) -> Caller:
        """Who signed this, if nothing speaks against serving it. Its nonce is used up.

        Raises:
            Refusal: ``signature``, ``federation``, ``unknown_key``, ``revoked``, ``expired``, ``clock``, ``replayed``.
        """
        self._check_federation(headers)
        found: list[KeyRow] = []
        signed = _verified(method, target, headers, lambda name: self._public(name, found))
        row = found[0]
        self.check(row)
        self._check_time(signed)
        self._check_nonce(signed)
        return Caller(row.name, row.role, row.id, row.key, signed.digest)

    def admit_new(self, method: str, target: str, headers: Mapping[str, str], join: Join) -> Caller:
        """As `admit`, for a key that is not registered yet and comes in the body."""
        self._check_federation(headers)
        name = key_id(join.key)
        try:
            public = public_from_hex(join.key)
        except ValueError as error:
            raise Refusal("malformed", "this is not an Ed25519 public key") from error
        signed = _verified(method, target, headers, lambda said: public if said == name else None)
        self._check_time(signed)
        self._check_nonce(signed)
        return Caller(join.name, "site", name, join.key, signed.digest)

    def check(self, row: KeyRow | None) -> None:
        """Whether a key may be used now. Raises Refusal."""
        if row is None:
            raise Refusal("unknown_key", "this key is not registered here")
        if not row.active:
            raise Refusal("revoked", f"{row.name} was revoked: ask the coordinator's owner")
        if row.replaced:
            raise Refusal("revoked", "another key took the place of this one")
        if row.expires < self._clock():
            raise Refusal("expired", "this key has expired: ask the coordinator's owner for an invitation to re-key")

    def _public(self, name: str, found: list[KeyRow]) -> Ed25519PublicKey:
        row = self._store.key(name) if _KEY_ID.match(name) else None
        if row is None:
            raise Refusal("unknown_key", "this key is not registered here")
        found.append(row)
        return public_from_hex(row.key)

    def _check_federation(self, headers: Mapping[str, str]) -> None:
        if FEDERATION_HEADER not in headers:
            raise Refusal("signature", "the request is not signed")
        if headers[FEDERATION_HEADER] != self._federation:
            raise Refusal("federation", "this is another federation's coordinator")

    def _check_time(self, signed: Signed) -> None:
        if abs(signed.created - self._clock()) > SKEW:
            raise Refusal("clock", f"the clocks differ by more than {SKEW} seconds, or the request is old")

    def _check_nonce(self, signed: Signed) -> None:
        if _NONCE.match(signed.nonce) is None:
            raise Refusal("signature", "the request has no nonce as it must be")
        if not self._store.fresh(signed.key_id, signed.nonce, signed.created):
            raise Refusal("replayed", "this request was received before")


def _verified(
    method: str, target: str, headers: Mapping[str, str], public: Callable[[str], Ed25519PublicKey | None]
) -> Signed:
    unknown: list[Refusal] = []

    def known(name: str) -> Ed25519PublicKey | None:
        try:
            return public(name)
        except Refusal as refusal:
            unknown.append(refusal)
            return None

    try:
        return verify_request(method, target, headers, known)
    except BadSignature as error:
        if unknown:
            raise unknown[0] from None
        raise Refusal("signature", str(error)) from None
