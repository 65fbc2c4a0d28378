"""A site's key is vouched for by its NVFlare certificate, in the place of an invitation.

The site signs its Ed25519 key with the private key of its startup kit; the server holds that against the
certificate and the certificate against the federation's root. So no site can enrol as another, whatever its
messages say.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificate, load_pem_x509_certificates
from cryptography.x509.oid import NameOID
from pydantic import Field, NonNegativeInt, ValidationError

from wardround import __version__
from wardround.core.audit import AuditLog
from wardround.core.errors import StorageError, WardRoundError
from wardround.core.frozen import Frozen
from wardround.core.messages import SiteName
from wardround.runtimes.https.home import Home, SiteSettings, write_key, write_private
from wardround.runtimes.https.joining import due
from wardround.runtimes.https.office import Office
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import key_id, public_hex
from wardround.runtimes.https.wire import PROTOCOL, Federation, Join, Key, Refused, Version
from wardround.runtimes.nvflare.places import URL, SitePlace
from wardround.site.policy import default_policy


class Enrol(Frozen):
    """A site brings its key."""

    name: SiteName
    key: Key
    certificate: Annotated[str, Field(max_length=16384)]  # of the startup kit, PEM
    proof: Annotated[str, Field(pattern=r"^[0-9a-f]{64,2048}$")]  # over `enrol_text`
    software: Version
    protocol: int


class Enrolled(Frozen):
    """The key counts."""

    kind: Literal["enrolled"] = "enrolled"
    federation: Federation
    expires: NonNegativeInt  # Unix time


def enrol_text(name: str, key: str) -> bytes:
    """What is signed with the startup kit's private key."""
    return f"wardround enrol {name} {key}".encode()


def enrol(home: Home, place: SitePlace, kit: Path, name: str, ask: Callable[[bytes], bytes]) -> SiteSettings:
    """Make the site folder where there is none, and have its key registered; safe to do at every start.

    Args:
        home: the site folder.
        place: what stands in ``local/wardround.json``.
        kit: the startup kit's ``startup`` folder, with client.crt and client.key.
        name: of the site in the NVFlare federation.
        ask: carries an `Enrol` to the server; raises OSError.

    Raises:
        WardRoundError: the server refuses, or is another federation's than the one that this site knows.
        StorageError: the folder cannot be written, or the kit not read.
        OSError: of ``ask``.
    """
    home.make()
    if not home.policy.exists():
        write_private(home.policy, default_policy().encode())
    before = home.settings() if home.settings_file.is_file() else None
    fresh = before is not None and due(before)
    key = Ed25519PrivateKey.generate() if fresh or not home.key_file.is_file() else home.key()
    try:
        said = _said(ask(_request(kit, name, key)))
    except _Known:  # cut off in the middle of the last renewal
        key = Ed25519PrivateKey.generate()
        said = _said(ask(_request(kit, name, key)))
    if before is not None and (before.name, before.federation.fingerprint) != (name, said.federation.fingerprint):
        AuditLog(home.audit).append("other_federation", name=name, fingerprint=said.federation.fingerprint)
        raise WardRoundError(
            f"{home.root} is the site {before.name} of {before.federation.name}, and what answers is another "
            "federation: give local/wardround.json another folder"
        )
    write_key(home.key_file, key)
    now = int(time.time())
    kept = {"joined": now if before is None else before.joined, "expires": said.expires, "software": __version__}
    who = {"carrier": "nvflare", "name": name, "url": URL, "federation": said.federation}
    options = place.model_dump(exclude={"wardround", "folder"})
    settings = SiteSettings.model_validate({**options, **who, **kept})
    if before is None or fresh:
        AuditLog(home.audit).append("enrolled", federation=said.federation.fingerprint, expires=said.expires)
    home.write_settings(settings)
    return settings


def register(office: Office, roots: bytes, body: bytes) -> bytes:
    """The server's half: an `Enrolled` or a `Refused`, as JSON.

    Args:
        office: the coordinator's.
        roots: the federation's root certificate, PEM.
        body: an `Enrol` as it came.
    """
    try:
        asked = Enrol.model_validate_json(body)
        _check(asked, roots)
        expires = _registered(office, asked)
    except (ValidationError, ValueError) as error:
        what = "not understood: is its software of another version?" if isinstance(error, ValidationError) else error
        return _json(Refused(code="malformed", message=f"the enrolment: {what}"))
    except Refusal as refusal:
        return _json(refusal.value())
    return _json(Enrolled(federation=office.federation, expires=expires))


class _Known(WardRoundError):
    """The key was replaced before."""


def _request(kit: Path, name: str, key: Ed25519PrivateKey) -> bytes:
    public = public_hex(key)
    try:
        certificate = (kit / "client.crt").read_text(encoding="ascii")
        private = load_pem_private_key((kit / "client.key").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise StorageError(f"client.crt or client.key in {kit} cannot be read: is it a startup kit?") from error
    text = enrol_text(name, public)
    if isinstance(private, rsa.RSAPrivateKey):
        proof = private.sign(text, padding.PKCS1v15(), SHA256())
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        proof = private.sign(text, ec.ECDSA(SHA256()))
    else:
        raise StorageError(f"client.key in {kit} is neither an RSA nor an elliptic curve key")
    return _json(
        Enrol(
            name=name, key=public, certificate=certificate, proof=proof.hex(), software=__version__, protocol=PROTOCOL
        )
    )


def _said(body: bytes) -> Enrolled:
    try:
        return Enrolled.model_validate_json(body)
    except ValidationError:
        pass
    try:
        refused = Refused.model_validate_json(body)
    except ValidationError as error:
        raise WardRoundError("the server's answer is not understood: is its software of another version?") from error
    if refused.code == "conflict":
        raise _Known(refused.message)
    raise WardRoundError(f"the coordinator refused: {refused.message}")


def _check(asked: Enrol, roots: bytes) -> None:
    """Raises Refusal, ValueError."""
    certificate = load_pem_x509_certificate(asked.certificate.encode())
    names = [str(one.value) for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if names != [asked.name]:
        raise Refusal("forbidden", "the certificate is of another site")
    now = datetime.now(UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise Refusal("expired", "the site's NVFlare certificate is not valid now")
    if not any(_issued(certificate, root) for root in load_pem_x509_certificates(roots)):
        raise Refusal("forbidden", "the certificate is of another NVFlare federation")
    public, text, proof = certificate.public_key(), enrol_text(asked.name, asked.key), bytes.fromhex(asked.proof)
    try:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(proof, text, padding.PKCS1v15(), SHA256())
        elif isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(proof, text, ec.ECDSA(SHA256()))
        else:
            raise Refusal("forbidden", "the certificate's key is of a kind that is not known")
    except InvalidSignature as error:
        raise Refusal("signature", "the certificate's owner did not sign this") from error


def _issued(certificate: Certificate, root: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _registered(office: Office, asked: Enrol) -> int:
    """Unix time when the key ends. Raises Refusal."""
    store, row = office.store, office.store.key(key_id(asked.key))
    known = store.principal(asked.name)
    if known is not None and not known.active:
        raise Refusal("revoked", f"{asked.name} was revoked: ask the coordinator's owner")
    if row is not None and (row.name != asked.name or row.replaced):
        raise Refusal("conflict", "this key was replaced, or is another's: bring another")
    if row is not None and row.expires > time.time():
        return row.expires
    token = office.invite(asked.name, rekey=known is not None).token
    join = Join(token=token, name=asked.name, key=asked.key, software=asked.software, protocol=asked.protocol)
    return store.join(join, office.certify).expires


def hold_places(office: Office, sites: tuple[str, ...]) -> None:
    """Sites of the roster that never enrolled are known from now on, by a key that nobody has."""
    for name in sites:
        if office.store.principal(name) is None:
            token, key = office.invite(name).token, public_hex(Ed25519PrivateKey.generate())
            join = Join(token=token, name=name, key=key, software=__version__, protocol=PROTOCOL)
            office.store.join(join, office.certify)


def _json(value: Frozen) -> bytes:
    return value.model_dump_json().encode()
