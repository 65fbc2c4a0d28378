"""Where people of the coordinator's side give their commands: its own folder, or a person's folder elsewhere.

A person's folder, mode 0700::

    person.json       who this is, and of which federation
    key.pem           Ed25519, mode 0600; never leaves
    certificate.pem   client certificate over the same key
"""

from __future__ import annotations

import getpass
import re
import time
from pathlib import Path
from typing import Annotated, Literal, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, NonNegativeInt

from wardround import __version__
from wardround.core.documents import load_document
from wardround.core.errors import InputError, StorageError
from wardround.core.frozen import Frozen
from wardround.core.messages import SiteName
from wardround.runtimes.https.client import Client, Rejected
from wardround.runtimes.https.connection import connect, tls
from wardround.runtimes.https.home import coordinator_url, load_key, write_key, write_private
from wardround.runtimes.https.invitations import Invitation, read_invitation
from wardround.runtimes.https.joining import introduce, leaving_nothing
from wardround.runtimes.https.office import Office, open_office
from wardround.runtimes.https.patience import BRIEF, Patience
from wardround.runtimes.https.people import Person, act
from wardround.runtimes.https.people_wire import Asked, AskStatus
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.wire import PROTOCOL, Federation, Join, Joined, PersonRole, Version

M = TypeVar("M", bound=Frozen)


class PersonSettings(Frozen):
    """``person.json``."""

    format: Literal[1] = 1
    name: SiteName
    role: PersonRole
    url: Annotated[str, Field(max_length=300)]
    federation: Federation
    joined: NonNegativeInt  # Unix time
    expires: NonNegativeInt  # Unix time at which the key ends
    software: Version


class Desk(Protocol):
    """Takes a person's requests."""

    @property
    def here(self) -> Office | None:
        """The coordinator's folder, where this is its own machine."""
        ...

    def ask(self, asked: Asked, answer: type[M]) -> M:
        """Do it. Raises InputError with every fault, or the client's errors."""
        ...


class OwnDesk:
    """On the coordinator's machine: whoever can write the folder is an owner. The server may run or not."""

    def __init__(self, office: Office) -> None:
        self.here: Office | None = office
        self._office = office

    def ask(self, asked: Asked, answer: type[M]) -> M:
        """See `Desk`."""
        try:
            found = act(self._office, Person(_user(), "owner"), asked)
        except Refusal as error:
            raise InputError(error.message) from error
        assert isinstance(found, answer)  # noqa: S101 - each request has one kind of answer
        return found


class FarDesk:
    """Over HTTPS, signed with the person's key."""

    here: Office | None = None

    def __init__(self, client: Client, settings: PersonSettings) -> None:
        self._client, self._settings = client, settings

    def ask(self, asked: Asked, answer: type[M]) -> M:
        """See `Desk`."""
        target = f"/v1/people/{asked.action}"
        # Only questions are repeated: whether a command that got no answer was done, a look at the status tells.
        send = self._client.insist if isinstance(asked, AskStatus) else self._client.call
        try:
            return send("POST", target, asked, answer)
        except Rejected as error:
            if error.code in ("expired", "unknown_key", "revoked"):
                raise InputError(
                    f"{error}. An owner can give you another key with `wardround coordinator invite DIR "
                    f"{self._settings.name} --role {self._settings.role} --rekey`"
                ) from error
            raise


def open_desk(folder: Path, patience: Patience = BRIEF) -> Desk:
    """The desk of a folder: a coordinator's or a person's.

    Raises:
        InputError: it is neither.
    """
    if (folder / "federation.json").is_file():
        return OwnDesk(open_office(folder))
    if (folder / "person.json").is_file():
        settings = load_document(folder / "person.json", PersonSettings)
        link = connect(settings.url, tls(settings.federation.authority, folder / "certificate.pem", folder / "key.pem"))
        return FarDesk(Client(link, load_key(folder / "key.pem"), settings.federation, patience=patience), settings)
    if (folder / "site.json").is_file():
        raise InputError(f"{folder} is a site's folder: its commands are under `wardround site`")
    raise InputError(
        f"{folder} is neither a coordinator's folder (`wardround coordinator init DIR --url https://host` makes one) "
        "nor a person's (`wardround coordinator join INVITATION --dir DIR`)"
    )


def join_as_person(text: str, folder: Path, patience: Patience = BRIEF) -> PersonSettings:
    """Make a person's folder and register its key. Interrupted anywhere, the same call goes on.

    Args:
        text: the invitation.
        folder: to make; of a person with an invitation for another key, the one that is there.
        patience: with the coordinator.

    Raises:
        InputError: no invitation of a person, or the folder belongs to somebody else.
        Rejected, Unreachable: see `Client.call`.
        StorageError: the folder cannot be written.
    """
    invitation = read_invitation(text)
    if invitation.role == "site":
        raise InputError("this invitation is for a site: use `wardround site join INVITATION --data DATASET --dir DIR`")
    _check_free(folder, invitation)
    federation = introduce(invitation, patience)
    waiting = folder / "key-next.pem"
    with leaving_nothing(waiting):
        _make(folder)
        if not waiting.is_file():
            write_key(waiting, Ed25519PrivateKey.generate())
        key = load_key(waiting)
        link = connect(coordinator_url(invitation.url), tls(federation.authority))
        request = Join(
            token=invitation.token, name=invitation.name, key=public_hex(key), software=__version__, protocol=PROTOCOL
        )
        joined = Client(link, key, federation, patience=patience).insist("POST", "/v1/join", request, Joined)
    settings = PersonSettings(
        name=joined.name,
        role=invitation.role,
        url=coordinator_url(invitation.url),
        federation=federation,
        joined=int(time.time()),
        expires=joined.expires,
        software=__version__,
    )
    write_private(folder / "certificate.pem", joined.certificate.encode())
    write_key(folder / "key.pem", key)
    write_private(folder / "person.json", (settings.model_dump_json(indent=2) + "\n").encode())
    waiting.unlink()  # last: until then the same key would be sent again, which does no harm
    return settings


def _make(folder: Path) -> None:
    """Raises StorageError where the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error


def _check_free(folder: Path, invitation: Invitation) -> None:
    """Raises InputError where the folder is not free for this person, StorageError where it cannot be looked at."""
    try:
        there = {path.name for path in folder.iterdir()} if folder.exists() else set()
        names = there - {"key-next.pem", "key.pem", "certificate.pem"}
    except OSError as error:
        raise StorageError(f"cannot use {folder}: {error.strerror or error}") from error
    if names == {"person.json"}:
        known = load_document(folder / "person.json", PersonSettings)
        if not (invitation.rekey and known.name == invitation.name):
            raise InputError(f"{folder} belongs to {known.name} already: choose another --dir")
    elif names:
        raise InputError(f"{folder} is not empty: choose another --dir")


def _user() -> str:
    """Who is at this machine, as a name that fits everywhere."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        name = "owner"
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[:64].lstrip("_-") or "owner"
