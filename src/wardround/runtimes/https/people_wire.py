"""What people and coordinator say to each other, at ``/v1/people/ACTION``; see `wire` for all else.

=========  ==================  =============  ==========================================
action     request             answer         who
=========  ==================  =============  ==========================================
status     `AskStatus`         `Status`       all
submit     `Submit`            `Submitted`    researchers, owners
abort      `Abort`             `Changed`      owners; researchers, what they submitted
resume     `Resume`            `Changed`      owners; researchers, what they submitted
invite     `Invite`            `Invited`      owners
revoke     `Revoke`            `Revoked`      owners
=========  ==================  =============  ==========================================
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from wardround.core.errors import InputError
from wardround.core.frozen import Frozen
from wardround.core.messages import Digest, SiteName
from wardround.runtimes.https.wire import Standing, Words

RunName = Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")]  # the digest's beginning, as long as it is unique
PlanText = Annotated[str, Field(max_length=900_000)]
Role = Annotated[str, Field(pattern="^(site|viewer|researcher|owner)$")]


def run_name(text: str) -> str:
    """The beginning of a digest as a person typed it. Raises InputError."""
    if re.fullmatch(r"[0-9a-f]{6,64}", text.lower()) is None:
        raise InputError(f"{_shown(text)} is no run: give 6 or more digits (0-9, a-f) of the plan's digest")
    return text.lower()


def member_name(text: str) -> str:
    """A site's or person's name as a person typed it. Raises InputError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", text) is None:
        raise InputError(f"{_shown(text)} cannot be a name: letters, digits, - and _, at most 64")
    return text


def _shown(text: str) -> str:
    return repr("".join(letter if letter.isprintable() else "?" for letter in text[:80]))


class Asked(Frozen):
    """A request of a person; ``action`` is where it is sent."""

    action: ClassVar[str]
    roles: ClassVar[frozenset[str]]


class AskStatus(Asked):
    """How things stand: of one run, or of all."""

    action = "status"
    roles = frozenset(("viewer", "researcher", "owner"))
    run: RunName | None = None


class Submit(Asked):
    """A plan, as it was written (YAML or JSON); without ``sites``, for all that are active, by name."""

    action = "submit"
    roles = frozenset(("researcher", "owner"))
    plan: PlanText
    sites: tuple[SiteName, ...] | None = None


class Abort(Asked):
    """End a run for good."""

    action = "abort"
    roles = frozenset(("researcher", "owner"))
    run: RunName
    reason: Words = ""


class Resume(Asked):
    """Go on with a run that failed."""

    action = "resume"
    roles = frozenset(("researcher", "owner"))
    run: RunName


class Invite(Asked):
    """Somebody is to join, or (``rekey``) to have another key."""

    action = "invite"
    roles = frozenset(("owner",))
    name: SiteName
    role: Role = "site"
    days: float = Field(default=7, gt=0, le=366)
    rekey: bool = False


class Revoke(Asked):
    """Nothing is served to this site or person from now on."""

    action = "revoke"
    roles = frozenset(("owner",))
    name: SiteName
    reason: Words = ""


ASKED: dict[str, type[Asked]] = {one.action: one for one in (AskStatus, Submit, Abort, Resume, Invite, Revoke)}


class Submitted(Frozen):
    """The plan waits for approvals. ``notes`` are worth reading, but stop nothing."""

    plan: Digest
    sites: tuple[SiteName, ...]
    notes: tuple[Words, ...] = ()


class Changed(Frozen):
    """The run's new state."""

    plan: Digest
    state: str


class Invited(Frozen):
    """One line of text, shown once."""

    invitation: str


class Revoked(Frozen):
    """The runs in whose models the site's contributions are and remain."""

    runs: tuple[Digest, ...]


class Member(Frozen):
    """A site or a person. Times are Unix times."""

    name: SiteName
    role: Role
    active: bool
    reason: str  # of a revocation
    expires: NonNegativeInt  # when the key ends
    seen: NonNegativeFloat | None  # last request; None: never
    software: str


class Taking(Frozen):
    """A site in a run."""

    site: SiteName
    standing: Standing
    reason: str
    doing: Annotated[str, Field(pattern="^(|working|answered|late|error|pending|refused)$")]  # of the task that is open
    moved: NonNegativeFloat | None = None  # last sign of progress in it
    counted: NonNegativeInt | None = None  # the last round to which it contributed, from 1


class RunStatus(Frozen):
    """A run."""

    plan: Digest
    title: str
    state: str
    note: str
    owner: str
    created: NonNegativeFloat
    changed: NonNegativeFloat
    round: NonNegativeInt  # rounds done
    limit: NonNegativeInt
    best: float | None  # mean validation Dice of the best model so far
    best_round: NonNegativeInt | None
    needed: NonNegativeInt  # sites that must take part
    task: str  # "train of round 3", or empty
    sites: tuple[Taking, ...]
    revoked: tuple[SiteName, ...]  # whose contributions are in the model although they revoked since


class Status(Frozen):
    """Everything, for people."""

    federation: str
    url: str
    software: str
    now: NonNegativeFloat
    served: bool = True  # a server runs: without one, sites get no answer and no run goes on
    members: tuple[Member, ...]
    runs: tuple[RunStatus, ...]


def is_carried(url: str) -> bool:
    """Whether NVFlare carries the requests of this federation: its address is of no host (RFC 2606)."""
    return url.endswith(".invalid")
