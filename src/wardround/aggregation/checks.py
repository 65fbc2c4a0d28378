"""Whether a contribution can be folded at all, and how far its update may go."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from wardround.aggregation.contributions import Contribution, Group
from wardround.core.contracts import Alert
from wardround.core.parcels import MODEL
from wardround.core.weights import Array, of_part

MOST_WEIGHT = 1e15  # of cases, or of whatever a strategy weighs by
MOST_NORM = 1e18  # beyond this, float32 squares overflow; no training gives it
HEAVY = 20  # times the median weight is worth a look
FEWEST = 3  # sites among which one can be called the outlier


@dataclass(frozen=True)
class Verdict:
    """What checks found: why sites cannot be folded, what is conspicuous, and factors of long updates."""

    rejected: Mapping[str, str] = field(default_factory=dict)
    alerts: Sequence[Alert] = ()
    factors: Mapping[str, float] = field(default_factory=dict)


def check_forms(members: Iterable[Contribution], sent: Contribution | None) -> dict[str, str]:
    """Why contributions cannot be folded, by site, from their headers alone.

    The part "weights" must have tensors of the model that was sent, with its shapes and types (not all
    of them: a plan may keep some at the sites). All must be alike: the form that most sites have is the
    right one, the first of them in site order where there is a tie.
    """
    members = list(members)
    model = None if sent is None else of_part(sent.form(), MODEL)
    faults = {member.site: fault for member in members if (fault := _fault(member, model))}
    sound = [member for member in members if member.site not in faults]
    forms = {member.site: _key(member) for member in sound}
    if not forms:
        return faults
    common = Counter(forms.values()).most_common(1)[0][0]
    for site, form in forms.items():
        if form != common:
            faults[site] = "its contribution differs from the other sites' in parts, names, shapes, types or encoding"
    return faults


def _key(member: Contribution) -> frozenset[object]:
    return frozenset({*member.weights, *member.form().items(), member.encoding})


def _fault(member: Contribution, model: Mapping[str, tuple[str, tuple[int, ...]]] | None) -> str | None:
    form = member.form()
    if not member.weights or {name.partition("/")[0] for name in form} - set(member.weights):
        return "its contribution has tensors outside its parts, or no part at all"
    if any(not dtype.startswith("<f") for dtype, _ in form.values()):
        return "its contribution has numbers that are not floating-point"
    if any(not 0 < weight <= MOST_WEIGHT for weight in member.weights.values()):
        return f"its contribution has a weight that is not above 0 and at most {MOST_WEIGHT:.0e}"
    if model is None:
        sound = MODEL in member.weights and not member.encoding.updates
        return None if sound else "its contribution has no weights, or only a change of weights that were not sent"
    if any(model.get(name) != kind for name, kind in of_part(form, MODEL).items()):
        return "its contribution has tensors that are not the sent model's, or not in its shapes and types"
    return None


def judge(group: Group, squares: Mapping[str, Array], clip: float | None) -> Verdict:
    """Read what was measured: who sent numbers that are no numbers, and whose update is too long.

    With u_k the norm of site k's update (part "weights") and m the median of all u_k that are not 0,
    an update longer than clip * m is shortened to it. With fewer than `FEWEST` such sites nothing is:
    of two, neither can be called the outlier (and no norm exceeds twice their median, which is their mean).
    """
    total = np.sum([*squares.values()], axis=0)
    with np.errstate(invalid="ignore"):
        sound = np.isfinite(total) & (total <= MOST_NORM**2)
    rejected = {
        member.site: f"its contribution holds NaN, infinity or numbers beyond {MOST_NORM:.0e}"
        for member, is_sound in zip(group.members, sound, strict=True)
        if not is_sound
    }
    if group.sent is None or MODEL not in squares:
        return Verdict(rejected)
    kept = [number for number in range(len(group.members)) if sound[number]]
    norms = {group.members[number].site: math.sqrt(squares[MODEL][number]) for number in kept}
    weights = {group.members[number].site: group.members[number].weights[MODEL] for number in kept}
    alerts = [Alert(site, "unmoved", 0.0) for site, norm in norms.items() if norm == 0]
    moved = [norm for norm in norms.values() if norm > 0]
    factors = {}
    if clip is not None and len(moved) >= FEWEST:
        limit = clip * median(moved)
        factors = {site: limit / norm for site, norm in norms.items() if norm > limit}
        alerts += [Alert(site, "clipped", norms[site], limit) for site in factors]
    if len(weights) >= FEWEST:
        most = HEAVY * median(weights.values())
        alerts += [Alert(site, "heavy", weight, most) for site, weight in weights.items() if weight > most]
    return Verdict(rejected, alerts, factors)
