"""Who may ask: sites and people, their keys, and invitations."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from wardround.core.errors import Fault, InputError
from wardround.runtimes.https.invitations import new_token, token_hash
from wardround.runtimes.https.refusals import Refusal
from wardround.runtimes.https.signing import key_id
from wardround.runtimes.https.state_base import Base
from wardround.runtimes.https.tables import invitations, keys, principals
from wardround.runtimes.https.wire import Join, Joined

Role = Literal["site", "viewer", "researcher", "owner"]
ROLES: tuple[Role, ...] = ("site", "viewer", "researcher", "owner")
KEY_DAYS = 365
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
DAY = 86_400

_KEY = select(keys, principals.c.role, principals.c.standing).join(principals).where(keys.c.id == bindparam("k"))

Certify = Callable[[str, str, int], str]  # name, public key, end (Unix time) -> certificate (PEM)


@dataclass(frozen=True)
class Principal:
    """A site or a person that joined."""

    name: str
    role: Role
    active: bool
    joined: float  # Unix time
    reason: str  # of a revocation
    expires: int  # Unix time at which the newest key ends


@dataclass(frozen=True)
class KeyRow:
    """A registered key and whose it is."""

    id: str
    key: str
    name: str
    role: Role
    active: bool  # its owner was not revoked
    expires: int
    replaced: bool


class Principals(Base):
    """See `wardround.runtimes.https.store.Store`."""

    def invite(self, name: str, role: Role, days: float, rekey: bool = False) -> str:
        """A new one-time token for ``name``; it takes the place of an unused one.

        ``rekey``: for somebody who joined and lost the key, or was revoked: the state stays.

        Raises:
            InputError: the name cannot be used, or is (or, to re-key, is not) somebody's.
        """
        if _NAME.match(name) is None or name.lower() == "pooled" or role not in ROLES or not 0 < days <= 366:
            fault = "letters, digits, _ and -, at most 64, not 'pooled'; a known role; at most 366 days"
            raise InputError("this cannot be invited", [Fault("name", fault)])
        token = new_token()
        with self._write(duties=False) as connection:
            known = _by_name(connection, name)
            if rekey and (known is None or known.name != name or known.role != role):
                raise InputError(f"there is no {role} {name} to give another key")
            if known is not None and not rekey:
                raise InputError(f"{known.name} joined already: choose another name, or give it another key (rekey)")
            _cancel(connection, name)
            end = int(time.time() + days * DAY)
            values = {"token": token_hash(token), "name": name, "role": role, "rekey": int(rekey), "expires": end}
            connection.execute(insert(invitations).values(values))
        return token

    def join(self, request: Join, certify: Certify, days: int = KEY_DAYS) -> Joined:
        """Use an invitation up. The same request again gets the same answer, so that a lost one does no harm.

        Raises:
            Refusal: ``invitation`` (unknown, used, expired, another's name) or ``conflict`` (the key is known).
        """
        now, new = int(time.time()), key_id(request.key)
        with self._write() as connection:
            found = connection.execute(
                select(invitations).where(invitations.c.token == token_hash(request.token))
            ).one_or_none()
            if found is None or found.name != request.name or found.used not in {None, new}:
                raise Refusal("invitation", "this invitation is not known, was used, or is another's: ask for one")
            if found.used == new:
                return _joined(_key(connection, new))
            if found.expires < now:
                raise Refusal("invitation", "this invitation has expired: ask for another")
            if _key(connection, new) is not None:
                raise Refusal("conflict", "this key is registered already")
            if not found.rekey and _by_name(connection, request.name) is not None:
                raise Refusal("invitation", "somebody joined under this name already")
            connection.execute(update(invitations).where(invitations.c.token == found.token).values(used=new))
            _become(connection, found)
            end = now + days * DAY
            return _register(connection, request.name, request.key, certify(request.name, request.key, end), end)

    def rekey(self, old: str, key: str, certify: Certify, days: int = KEY_DAYS) -> Joined:
        """Another key for the owner of key ``old`` (an id), which stands for nobody from now on."""
        with self._write() as connection:
            known = _key(connection, old)
            if known is None or known.replaced is not None:
                raise Refusal("unknown_key", "this key stands for nobody")
            if _key(connection, key_id(key)) is not None:
                raise Refusal("conflict", "this key is registered already")
            end = int(time.time()) + days * DAY
            return _register(connection, known.name, key, certify(known.name, key, end), end)

    def revoke(self, name: str, reason: str) -> None:
        """Nothing is served to ``name`` from now on, and its unused invitations are void. Raises InputError."""
        with self._write() as connection:
            _cancel(connection, name)
            here = principals.c.name == name
            values = {"standing": "revoked", "reason": reason[:500]}
            known = connection.execute(update(principals).where(here).values(values)).rowcount
        if not known:  # told when the invitation is void for good
            raise InputError(f"nobody called {name} has joined (an open invitation is void now)")

    def key(self, id: str) -> KeyRow | None:
        """A registered key, whether or not it may still be used."""
        with self._state.read() as connection:
            row = _key(connection, id)
        if row is None:
            return None
        active = row.standing == "active"
        return KeyRow(row.id, row.key, row.name, row.role, active, row.expires, row.replaced is not None)

    def keys_of(self, name: str) -> list[str]:
        """All public keys that somebody ever had (hexadecimal), oldest first."""
        with self._state.read() as connection:
            return list(connection.scalars(select(keys.c.key).where(keys.c.name == name).order_by(keys.c.created)))

    def principals(self) -> list[Principal]:
        """Everybody who joined, by name."""
        valid = keys.c.replaced.is_(None)
        with self._state.read() as connection:
            rows = connection.execute(
                select(principals, keys.c.expires)
                .join(keys, (keys.c.name == principals.c.name) & valid)
                .order_by(principals.c.name)
            ).all()
        return [Principal(r.name, r.role, r.standing == "active", r.joined, r.reason, r.expires) for r in rows]

    def sites(self) -> list[Principal]:
        """All sites, by name."""
        return [one for one in self.principals() if one.role == "site"]

    def people(self) -> list[Principal]:
        """All people, by name."""
        return [one for one in self.principals() if one.role != "site"]

    def principal(self, name: str) -> Principal | None:
        """One of `principals`."""
        return next((one for one in self.principals() if one.name == name), None)


def _by_name(connection: Connection, name: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(select(principals).where(principals.c.lower == name.lower())).one_or_none()


def _key(connection: Connection, id: str) -> Row[tuple[object, ...]] | None:
    return connection.execute(_KEY, {"k": id}).one_or_none()


def _cancel(connection: Connection, name: str) -> None:
    unused = (invitations.c.name == name) & invitations.c.used.is_(None)
    connection.execute(delete(invitations).where(unused))


def _become(connection: Connection, invited: Row[tuple[object, ...]]) -> None:
    if invited.rekey:
        values = {"standing": "active", "reason": ""}
        connection.execute(update(principals).where(principals.c.name == invited.name).values(values))
        return
    values = {"name": invited.name, "lower": str(invited.name).lower(), "role": invited.role, "standing": "active"}
    connection.execute(insert(principals).values({**values, "joined": time.time(), "reason": ""}))


def _register(connection: Connection, name: str, key: str, certificate: str, end: int) -> Joined:
    now = int(time.time())
    old = (keys.c.name == name) & keys.c.replaced.is_(None)
    connection.execute(update(keys).where(old).values(replaced=now))
    values = {"id": key_id(key), "key": key, "name": name, "created": now, "expires": end, "certificate": certificate}
    connection.execute(insert(keys).values(values))
    return Joined(name=name, certificate=certificate, expires=end)


def _joined(row: Row[tuple[object, ...]] | None) -> Joined:
    if row is None or row.replaced is not None:
        raise Refusal("invitation", "this invitation was used, and its key was replaced since")
    return Joined(name=row.name, certificate=row.certificate, expires=row.expires)
