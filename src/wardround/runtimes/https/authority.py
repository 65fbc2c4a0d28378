"""The federation's own certificate authority: the server's certificate, and client certificates of sites.

Whom a site trusts is settled by the invitation (see `wire.Federation.fingerprint`), so that no hospital
needs a public certificate for its coordinator. ECDSA P-256 for authority and server, which every TLS
inspecting proxy can handle; a site's certificate carries the site's Ed25519 key.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardround.core.errors import StorageError
from wardround.core.weights import write_bytes
from wardround.runtimes.https.signing import public_from_hex

AUTHORITY_DAYS = 7300
SERVER_DAYS = 397
RENEW_DAYS = 30  # a server certificate is renewed when it has fewer left
EARLY = timedelta(days=1)  # certificates begin in the past: clocks differ

Public = ec.EllipticCurvePublicKey | Ed25519PublicKey


@dataclass(frozen=True)
class Authority:
    """Signs certificates. Its key is in ``authority-key.pem``."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        """The certificate that sites trust."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def client(self, name: str, key: str, end: int) -> str:
        """A client certificate (PEM) over a site's public key, until ``end`` (Unix time)."""
        until = min(datetime.fromtimestamp(end, UTC), self.certificate.not_valid_after_utc)
        builder = _builder(name, public_from_hex(key), until, self)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        signed = builder.add_extension(usage, critical=False).sign(self.key, hashes.SHA256())
        return signed.public_bytes(Encoding.PEM).decode()

    def server(self, hosts: Sequence[str]) -> tuple[bytes, bytes]:
        """A server certificate for host names and IP addresses, and its new private key (both PEM)."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = min(datetime.now(UTC) + timedelta(days=SERVER_DAYS), self.certificate.not_valid_after_utc)
        builder = _builder(hosts[0], key.public_key(), until, self)
        builder = builder.add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM), _private_pem(key)


def make_authority(folder: Path, name: str) -> Authority:
    """A new authority, kept in ``folder``."""
    key = ec.generate_private_key(ec.SECP256R1())
    until = datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS)
    builder = _builder(f"Ward Round {name}"[:64], key.public_key(), until, None)
    certificate = builder.sign(key, hashes.SHA256())
    write_secret(folder / "authority-key.pem", _private_pem(key))
    write_bytes(folder / "authority.pem", certificate.public_bytes(Encoding.PEM))
    return Authority(certificate, key)


def open_authority(folder: Path) -> Authority:
    """The authority in a coordinator's folder. Raises StorageError."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "authority.pem").read_bytes())
        key = load_pem_private_key((folder / "authority-key.pem").read_bytes(), None)
    except (OSError, ValueError) as error:
        raise StorageError(f"the certificate authority in {folder} cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise StorageError(f"authority-key.pem in {folder} is not the key of authority.pem")
    return Authority(certificate, key)


def server_files(folder: Path, authority: Authority, hosts: Sequence[str]) -> tuple[Path, Path]:
    """The server's certificate and key, made where they are missing, near their end, or for other hosts."""
    certificate, key = folder / "server.pem", folder / "server-key.pem"
    if not (key.is_file() and _still_good(certificate, authority, hosts)):
        pem, private = authority.server(hosts)
        certificate.unlink(missing_ok=True)  # never a certificate beside another one's key
        write_secret(key, private)
        write_bytes(certificate, pem)
    return certificate, key


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read, atomically."""
    scratch = path.with_name(path.name + ".part")
    scratch.unlink(missing_ok=True)
    os.close(os.open(scratch, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    write_bytes(path, data)


def _still_good(path: Path, authority: Authority, hosts: Sequence[str]) -> bool:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found.verify_directly_issued_by(authority.certificate)
    except Exception:  # noqa: BLE001 - whatever is wrong with it, another one is made
        return False
    left = found.not_valid_after_utc - datetime.now(UTC)
    return set(names) == set(_names(hosts)) and left > timedelta(days=RENEW_DAYS)


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _builder(name: str, key: Public, until: datetime, issuer: Authority | None) -> x509.CertificateBuilder:
    """What all certificates have; ``issuer`` is None for the authority's own."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    above = subject if issuer is None else issuer.certificate.subject
    signer = key if issuer is None else issuer.key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - EARLY)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(_usage(issuer is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
