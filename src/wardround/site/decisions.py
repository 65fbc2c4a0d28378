"""What people at the site decided about plans, as files, and the plans themselves as they arrived.

::

    requests/<digest>.json          the plan, canonical JSON
    approvals/<digest>.json         the last decision about it
    approvals/<digest>.cases.json   keyed digests of the cases as they were approved
    approvals/<digest>.ended        the round after which the site was asked for what comes last
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from wardround.core.errors import Fault, InputError, StorageError
from wardround.core.faults import faults_of
from wardround.core.frozen import Frozen, canonical_json
from wardround.core.messages import Digest
from wardround.planning.plan import Plan
from wardround.site.identity import Identity
from wardround.site.private_files import private_folder, write_private

Standing = Literal["pending", "approved", "refused", "revoked"]
Person = Annotated[str, Field(min_length=1, max_length=200, pattern=r"\S")]
MOST_BYTES = 1 << 20  # of a plan
MOST_PLANS = 1000
SHORTEST = 6  # digits of a digest that are enough for people, where they are unique
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Decision(Frozen):
    """What somebody decided, and about what exactly."""

    format: Literal[1] = 1
    plan: Digest
    standing: Literal["approved", "refused", "revoked"]
    person: Person
    reason: Annotated[str, Field(max_length=500)] = ""
    time: Annotated[str, Field(max_length=40)]  # ISO 8601, UTC
    software: Annotated[str, Field(max_length=40)]
    dataset: Digest | None = None
    cases: NonNegativeInt = 0


class Desk:
    """The files. Whatever is read from them is checked as if a stranger had written it."""

    def __init__(self, folder: Path) -> None:
        self._requests = private_folder(folder / "requests")
        self._approvals = private_folder(folder / "approvals")

    @property
    def lock(self) -> Path:
        """Held while a decision is made."""
        return self._approvals / ".lock"

    def digests(self) -> list[str]:
        """Every plan that arrived, oldest first."""
        found = [path for path in self._requests.iterdir() if _DIGEST.fullmatch(path.stem) and path.suffix == ".json"]
        return [path.stem for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))]

    def find(self, prefix: str) -> str:
        """The one digest that begins so. Raises InputError."""
        if len(prefix) < SHORTEST:
            raise InputError(f"'{prefix}' is too short: give at least {SHORTEST} digits of the plan's digest")
        fitting = [digest for digest in self.digests() if digest.startswith(prefix.lower())]
        if len(fitting) == 1:
            return fitting[0]
        if not fitting:
            raise InputError(f"no plan that was asked for begins with {prefix!r}: `wardround site requests` lists them")
        raise InputError(
            f"several plans begin with {prefix!r}: give more digits", [Fault("", digest) for digest in fitting]
        )

    def store(self, text: bytes) -> tuple[Plan, bool]:
        """Keep a plan; False where it was there before. Raises InputError as `parse_plan`, StorageError."""
        plan = parse_plan(text, "the plan that was sent")
        path = self._request(hashlib.sha256(text).hexdigest())
        if path.is_file() and path.read_bytes() == text:
            return plan, False
        if not path.is_file() and len(self.digests()) >= MOST_PLANS:
            raise StorageError(f"{self._requests} holds {MOST_PLANS} plans: remove old ones to make room")
        write_private(path, text)
        return plan, True

    def holds(self, digest: str) -> bool:
        """Whether a plan arrived."""
        return self._request(digest).is_file()

    def plan(self, digest: str) -> Plan:
        """A stored plan; its digest is computed anew.

        Raises:
            InputError: it is not there, was changed after it arrived, or is no plan.
        """
        path = self._request(digest)
        try:
            with path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(text).hexdigest() != digest:
            raise InputError(
                f"{path} was changed after it arrived: it is not the plan {digest[:12]} any more. Find out who changed "
                "it, then remove the file: `wardround site serve` fetches the plan anew"
            )
        return parse_plan(text, str(path))

    def since(self, digest: str) -> float:
        """When a plan arrived, Unix time."""
        return self._request(digest).stat().st_mtime

    def decision(self, digest: str) -> Decision | None:
        """The last decision about a plan. Raises InputError where the file is not one of ours."""
        path = self._approval(digest, ".json")
        try:
            found = Decision.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise InputError(f"{path} is damaged or was changed by hand: decide again") from error
        if found.plan != digest:
            raise InputError(f"{path} is about another plan: decide again")
        return found

    def decide(self, decision: Decision, identity: Identity | None) -> None:
        """Write a decision, and the cases that it was about."""
        if identity is not None:
            cases = {"dataset": identity.digest, "spec": identity.spec, "cases": dict(identity.cases)}
            write_private(self._approval(decision.plan, ".cases.json"), canonical_json(cases).encode())
        write_private(self._approval(decision.plan, ".json"), decision.canonical().encode())

    def approved_identity(self, decision: Decision) -> Identity | None:
        """The dataset as it was approved, where its cases are still known."""
        try:
            found = json.loads(self._approval(decision.plan, ".cases.json").read_bytes())
            identity = Identity(str(found["dataset"]), str(found["spec"]), dict(found["cases"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return identity if identity.digest == decision.dataset else None

    def ended(self, digest: str) -> int | None:
        """The last round of a plan's run; None while nothing was asked that comes after it."""
        path = self._approval(digest, ".ended")
        try:
            return int(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged: it said which round was the last") from error

    def end(self, digest: str, number: int) -> None:
        """Remember the last round; there is one."""
        write_private(self._approval(digest, ".ended"), str(number).encode())

    def _request(self, digest: str) -> Path:
        return self._requests / f"{_named(digest)}.json"

    def _approval(self, digest: str, ending: str) -> Path:
        return self._approvals / f"{_named(digest)}{ending}"


def parse_plan(text: bytes, name: str) -> Plan:
    """A plan from its canonical JSON.

    Raises:
        InputError: it is too large, not a plan that this software knows, or not in canonical form.
    """
    if len(text) > MOST_BYTES:
        raise InputError(f"{name} is larger than {MOST_BYTES >> 20} MiB")
    try:
        value = json.loads(text)
        plan = Plan.model_validate(value)
    except ValidationError as error:
        raise InputError(
            f"{name} is not a plan that this software can carry out", faults_of(error, Plan, value, {})
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON") from error
    if plan.canonical().encode() != text:
        raise InputError(f"{name} is not in canonical form: it was written by other software or changed")
    return plan


def _named(digest: str) -> str:
    if not _DIGEST.fullmatch(digest):
        raise InputError(f"{digest[:80]!r} is not the digest of a plan")
    return digest
