"""Becoming a site of a federation, and changing its key. The private key is made here and never leaves."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from urllib3.exceptions import InsecureRequestWarning

from wardround import __version__
from wardround.core.errors import InputError, StorageError
from wardround.data.dataset import open_dataset
from wardround.data.store import default_root
from wardround.runtimes.https import connection
from wardround.runtimes.https.client import Client, Rejected, client_of, stranger
from wardround.runtimes.https.connection import connect, tls
from wardround.runtimes.https.home import (
    Home,
    SiteSettings,
    coordinator_url,
    load_key,
    sync_folder,
    write_key,
    write_private,
)
from wardround.runtimes.https.invitations import Invitation, read_invitation
from wardround.runtimes.https.patience import BRIEF, Patience, Unreachable, Untrusted
from wardround.runtimes.https.signing import BadSignature, Message, public_from_hex, public_hex, verify_response
from wardround.runtimes.https.wire import (
    MESSAGE,
    PROTOCOL,
    Federation,
    Join,
    Joined,
    Next,
    Poll,
    Rekey,
    rekey_proof,
)
from wardround.site.policy import default_policy
from wardround.site.private_files import alone

RENEW = 30 * 86_400  # seconds before its end in which a key is renewed
FEDERATION = "/v1/federation"
REFUSED = ("invitation", "conflict", "incompatible", "federation")  # the key that was sent is not registered
NEXT_KEY = "key-next.pem"


def join(text: str, data: Path, root: Path, options: dict[str, Any], patience: Patience = BRIEF) -> Home:
    """Make a site folder and register its key.

    Interrupted anywhere, the same command goes on: the key is written before it is sent, and the
    coordinator answers the same key with the same token again.

    Args:
        text: the invitation.
        data: the dataset's folder; opened first, so that a wrong one does not use the invitation up.
        root: the site folder to make.
        options: of `SiteSettings`: what is used of this machine or cluster, ``spec``, ``largest_piece``.
        patience: with the coordinator.

    Raises:
        InputError: no invitation of a site, or the folder belongs to a site already.
        DatasetError: no dataset is there.
        Rejected: the coordinator does not accept the invitation.
        Unreachable: there is no way to the coordinator, or what answers is not the invitation's.
        StorageError: the folder cannot be written.
    """
    invitation = read_invitation(text)
    if invitation.role != "site":
        raise InputError(f"this invitation is for a {invitation.role}: use `wardround coordinator join` with it")
    if invitation.rekey:
        raise InputError("this invitation gives a site another key: use `wardround site rekey INVITATION --dir DIR`")
    home = Home(root.resolve())
    _check_free(home, invitation)
    open_dataset(data, options.get("spec"))
    federation = introduce(invitation, patience)
    with leaving_nothing(home.key_file, home.requests, home.approvals, home.root / "runs", home.root / "results"):
        home.make()
        joined = _register(invitation, federation, _made(home.key_file), patience)
    write_private(home.certificate, joined.certificate.encode())
    if not home.policy.exists():
        write_private(home.policy, default_policy().encode())
    now = int(time.time())
    settled = {"name": joined.name, "url": coordinator_url(invitation.url), "federation": federation}
    places = {"data": str(data.resolve()), "store": str(default_root().resolve())}
    times = {"joined": now, "expires": joined.expires, "software": __version__}
    home.write_settings(SiteSettings.model_validate({"threads": cores(), **options, **settled, **places, **times}))
    return home


def introduce(invitation: Invitation, patience: Patience = BRIEF) -> Federation:
    """The federation that an invitation means, asked of its coordinator. TLS is not trusted; the fingerprint is.

    Raises:
        Untrusted: something else answers there.
        Unreachable: nothing does.
    """
    return patience.persist(lambda: _introduce(invitation))


@contextmanager
def leaving_nothing(*paths: Path) -> Iterator[None]:
    """Where an invitation is refused, remove which of these files and empty folders were made meanwhile, and above.

    Nothing is removed after other faults: a key whose registration got no answer may count.
    """
    chain = [*paths, *dict.fromkeys(folder for path in paths for folder in path.parents)]
    chain.sort(key=lambda path: -len(path.parts))
    made = [path for path in chain if not path.exists()]
    try:
        yield
    except Rejected as error:
        if error.code in REFUSED:
            with suppress(OSError):  # not empty: somebody else's by now
                for path in made:
                    if path.is_dir():
                        path.rmdir()
                    else:
                        path.unlink(missing_ok=True)
        raise


def rekey(home: Home, invitation: str | None = None, patience: Patience = BRIEF) -> SiteSettings:
    """Give the site a new key; everything else stays. The old key stands for nobody from then on.

    Interrupted anywhere, the same call goes on: the new key is kept in ``key-next.pem`` until it counts.

    Args:
        home: the site folder.
        invitation: where the present key is lost, revoked or expired.
        patience: with the coordinator.

    Raises:
        InputError: the invitation is not this site's.
        Rejected, Unreachable: see `Client.call`.
    """
    with alone(home.root / ".rekey.lock"):
        return _rekey(home, invitation, patience)


def due(settings: SiteSettings) -> bool:
    """Whether it is time to renew the key."""
    return time.time() > settings.expires - RENEW


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check_free(home: Home, invitation: Invitation) -> None:
    if home.settings_file.exists():
        raise InputError(f"{home.root} belongs to the site {home.settings().name} already: choose another --dir")
    known = {
        "key.pem",
        "certificate.pem",
        "policy.yaml",
        "requests",
        "approvals",
        "runs",
        "results",
    }  # of an attempt that was interrupted
    try:
        others = [] if not home.root.exists() else [p.name for p in home.root.iterdir() if p.name not in known]
    except OSError as error:
        raise StorageError(f"cannot use {home.root} as the site folder: {error.strerror or error}") from error
    if [name for name in others if not name.endswith(".part")]:
        raise InputError(f"{home.root} is not empty: choose another --dir for the site {invitation.name}")


def _made(path: Path) -> Ed25519PrivateKey:
    if path.is_file():
        return load_key(path)
    key = Ed25519PrivateKey.generate()
    write_key(path, key)
    return key


def _introduce(invitation: Invitation) -> Federation:
    link = connect(coordinator_url(invitation.url), tls(None))
    headers = {"cache-control": "no-store, no-transform", "user-agent": "wardround"}
    with closing(link):
        try:
            with warnings.catch_warnings():  # urllib3 warns that TLS is not verified: the fingerprint is, below
                warnings.simplefilter("ignore", InsecureRequestWarning)
                raw = link.send("GET", FEDERATION, headers, None, connection.READ)
            body = raw.read(MESSAGE + 1)
            raw.close()
        except connection.ERRORS as error:
            raise Unreachable(link.in_words(error)) from error
    try:
        federation = Federation.model_validate_json(body)
        if federation.fingerprint != invitation.fingerprint:
            raise BadSignature("its fingerprint is not the invitation's")
        request, key = Message.of("GET", FEDERATION, headers), public_from_hex(federation.key)
        if verify_response(raw.status, dict(raw.headers), request, key).digest != hashlib.sha256(body).digest():
            raise BadSignature("its body is not the one that was signed")
    except ValidationError as error:
        raise Untrusted(stranger(link, raw, "it says nothing that is known"), raw.status) from error
    except BadSignature as error:
        raise Untrusted(stranger(link, raw, error), raw.status) from error
    _check_protocol(federation)
    return federation


def _check_protocol(federation: Federation) -> None:
    if federation.protocol != PROTOCOL:
        raise InputError(
            f"the coordinator speaks protocol {federation.protocol} (Ward Round {federation.software}), this software "
            f"{PROTOCOL} (Ward Round {__version__}): install the other's version"
        )


def _register(invitation: Invitation, federation: Federation, key: Ed25519PrivateKey, patience: Patience) -> Joined:
    link = connect(coordinator_url(invitation.url), tls(federation.authority))
    request = Join(
        token=invitation.token, name=invitation.name, key=public_hex(key), software=__version__, protocol=PROTOCOL
    )
    with closing(Client(link, key, federation, patience=patience)) as client:
        return client.insist("POST", "/v1/join", request, Joined, "join")


def _rekey(home: Home, invitation: str | None, patience: Patience) -> SiteSettings:
    settings, waiting = home.settings(), home.root / NEXT_KEY
    begun = waiting.is_file()
    if invitation is not None:
        invited = _invited(settings, invitation)
        with leaving_nothing(waiting):
            joined = _register(invited, settings.federation, _made(waiting), patience)
        return _adopt(home, settings, joined)
    key = _made(waiting)
    old = home.key()
    proof = key.sign(rekey_proof(settings.federation.id, public_hex(old), public_hex(key))).hex()
    request = Rekey(key=public_hex(key), proof=proof)
    try:
        with closing(client_of(home, settings, patience=patience)) as client:
            joined = client.insist("POST", "/v1/rekey", request, Joined, "rekey")
    except Rejected as error:
        # Cut off after the coordinator took the new key and before this folder did: the new one counts already.
        if not begun or not _counts(settings, key, patience):
            raise error
        _adopt(home, settings, None)
        return _rekey(home, None, patience)
    return _adopt(home, settings, joined)


def _invited(settings: SiteSettings, text: str) -> Invitation:
    invited = read_invitation(text)
    if not invited.rekey or invited.name != settings.name:
        raise InputError(f"this invitation is not one that gives the site {settings.name} another key")
    if invited.fingerprint != settings.federation.fingerprint:
        raise InputError("this invitation is of another federation than the one that this site is in")
    return invited


def _counts(settings: SiteSettings, key: Ed25519PrivateKey, patience: Patience) -> bool:
    """Whether the coordinator knows a key."""
    link = connect(settings.url, tls(settings.federation.authority))
    poll = Poll(protocol=PROTOCOL, software=__version__)
    try:
        with closing(Client(link, key, settings.federation, patience=patience)) as client:
            client.insist("POST", "/v1/next", poll, Next, "poll")
    except Rejected:
        return False
    return True


def _adopt(home: Home, settings: SiteSettings, joined: Joined | None) -> SiteSettings:
    """The waiting key is the site's key from now on; without ``joined`` its end is not known, and it is due."""
    if joined is not None:
        write_private(home.certificate, joined.certificate.encode())
    (home.root / NEXT_KEY).replace(home.key_file)
    sync_folder(home.root)
    settled = settings.model_copy(update={"expires": 0 if joined is None else joined.expires})
    home.write_settings(settled)
    return settled
