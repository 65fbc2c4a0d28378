"""A coordinator's folder: who it is, its keys, its state.

::

    federation.json                     id, name, address, database
    identity.pem                        Ed25519: signs every response
    authority.pem, authority-key.pem    certificate authority
    server.pem, server-key.pem          TLS; renewed by the server
    state.sqlite, recent.sqlite, blobs/ see `store`
    runs/<first 12 of the plan's digest>/   ordinary run directories
    audit.jsonl                         append-only, hash-chained
    .lock                               one server at a time
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field, ValidationError

from wardround import __version__
from wardround.core.audit import AuditLog, Findings, SignedHead, verify
from wardround.core.errors import Fault, InputError, StorageError
from wardround.core.frozen import Frozen
from wardround.runtimes.https.authority import Authority, make_authority, open_authority, write_secret
from wardround.runtimes.https.invitations import Invitation
from wardround.runtimes.https.signing import public_hex, signature_fits
from wardround.runtimes.https.store import Role, Store
from wardround.runtimes.https.wire import Federation, FederationId, Head, Words, head_text

LOOKS, LOOK = 5, 0.1  # how often the lock is tried, and seconds in between
Url = Annotated[str, Field(pattern=r"^https://([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?$")]


class Settings(Frozen):
    """``federation.json``."""

    id: FederationId
    name: Words
    url: Url
    database: str | None = None  # SQLAlchemy's name of it; null: state.sqlite

    @property
    def host(self) -> str:
        """The host name or address at which sites find the coordinator."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The port at which sites find it."""
        return urlsplit(self.url).port or 443


@dataclass(frozen=True)
class Office:
    """An opened coordinator's folder."""

    folder: Path
    settings: Settings
    key: Ed25519PrivateKey
    authority: Authority
    store: Store
    audit: AuditLog

    @cached_property
    def federation(self) -> Federation:
        """What a site needs to know before it joins."""
        return Federation(
            id=self.settings.id,
            name=self.settings.name,
            software=__version__,
            key=public_hex(self.key),
            authority=self.authority.pem,
        )

    def invite(
        self, name: str, role: Role = "site", days: float = 14, rekey: bool = False, by: str = "owner"
    ) -> Invitation:
        """A one-time invitation, made ``by`` somebody. It is shown once and kept nowhere.

        Raises:
            InputError: see `Store.invite`.
        """
        token = self.store.invite(name, role, days, rekey)
        self.audit.append("invited", name=name, role=role, rekey=rekey, days=days, by=by)
        fingerprint = self.federation.fingerprint
        return Invitation(
            url=self.settings.url, name=name, role=role, rekey=rekey, token=token, fingerprint=fingerprint
        )

    def certify(self, name: str, key: str, end: int) -> str:
        """A client certificate over a public key. See `Authority.client`."""
        return self.authority.client(name, key, end)

    def verify_log(self) -> Findings:
        """Hold the audit log against itself and against the heads of it that sites signed."""
        heads = self.store.own_heads()
        by = {(head.length, head.signature): site for site, head in heads}
        return verify(self.audit.path, [head for _, head in heads], lambda head: self._is_of(by, head))

    def _is_of(self, by: dict[tuple[int, str], str], head: SignedHead) -> bool:
        text = head_text(self.settings.id, "", Head(length=head.length, hash=head.hash), head.time)
        keys = self.store.keys_of(by[head.length, head.signature])
        return any(signature_fits(key, head.signature, text) for key in keys)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one server of this folder. Raises StorageError where another one runs."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            for left in reversed(range(LOOKS)):
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if not left:
                        raise StorageError(f"{self.folder} is being served by another process") from error
                    time.sleep(LOOK)  # somebody may only be looking: see `served`
            yield
        finally:
            os.close(handle)

    def served(self) -> bool:
        """Whether a server of this folder runs on this machine: its lock ends with it, however it ends."""
        try:
            handle = os.open(self.folder / ".lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def close(self) -> None:
        """Give the databases back."""
        self.store.close()


def found_office(folder: Path, url: str, name: str = "", database: str | None = None) -> Office:
    """Begin a federation in a new or empty folder.

    Args:
        folder: gets mode 0700.
        url: ``https://host[:port]`` at which sites find the coordinator.
        name: for people; the host where empty.
        database: see `Store.open`.

    Raises:
        InputError: not such an address.
        StorageError: the folder is in use or cannot be written.
    """
    try:
        host = urlsplit(url).hostname or ""
        settings = Settings(id=secrets.token_hex(16), name=name or host, url=url.rstrip("/"), database=database)
        if not 0 < settings.port < 65536:
            raise ValueError
    except (ValidationError, ValueError) as error:
        raise InputError("not an address", [Fault("--url", "must be https://host or https://host:port")]) from error
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise StorageError(f"{folder} is not empty: a federation is begun in a folder of its own")
        folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror}") from error
    key = Ed25519PrivateKey.generate()
    write_secret(folder / "identity.pem", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    make_authority(folder, settings.name)
    Store.open(folder, settings.database).close()
    write_secret(folder / "federation.json", (settings.model_dump_json(indent=2) + "\n").encode())  # last: it is whole
    return open_office(folder)


def open_office(folder: Path) -> Office:
    """A coordinator's folder. Raises StorageError where it is none, or not whole."""
    try:
        settings = Settings.model_validate_json((folder / "federation.json").read_bytes())
        key = load_pem_private_key((folder / "identity.pem").read_bytes(), None)
    except FileNotFoundError as error:
        raise StorageError(f"{folder} is no coordinator's folder: `wardround coordinator init` makes one") from error
    except (OSError, ValueError):
        # Not chained: the cause may show the database's password.
        raise StorageError(f"federation.json or identity.pem in {folder} cannot be read") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise StorageError(f"identity.pem in {folder} is not an Ed25519 key")
    store = Store.open(folder, settings.database)
    return Office(folder, settings, key, open_authority(folder), store, AuditLog(folder / "audit.jsonl"))
