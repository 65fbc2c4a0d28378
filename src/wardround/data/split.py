"""Train, validation and test cases of a site: by subject, stable, and kept at the site.

Subjects are ordered by a keyed hash and dealt into folds. Fold ``f`` is the test part, the next one
validation, the rest training; a site with fewer subjects than folds has one fold a subject
(so that 3 subjects give 1 + 1 + 1, and each is the test case of one of three folds).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wardround.core.errors import SiteError


@dataclass(frozen=True)
class Split:
    """Case ids of a site by part."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def deal(subjects: Sequence[str], key: str, folds: int, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Subject -> fold.

    ``before`` is an earlier deal at this site: who was in it keeps the fold, so that a subject
    that was once tested on is never trained on; newcomers fill the smallest folds.
    """
    known = {s: f for s, f in (before or {}).items() if s in set(subjects)}
    newcomers = sorted({s for s in subjects if s not in known}, key=lambda s: (_hash(key, s), s))
    sizes = [sum(1 for f in known.values() if f == fold) for fold in range(folds)]
    for subject in newcomers:
        fold = min(range(folds), key=lambda f: (sizes[f], -f))  # what is left over goes to the last folds
        known[subject] = fold
        sizes[fold] += 1
    return known


def split_cases(cases: Mapping[str, str], deal_of: Mapping[str, int], fold: int) -> Split:
    """Cases (id -> subject) by part.

    A site with fewer folds than the plan has nothing to test in the plan's last folds, so that over
    all folds every case is tested exactly once.

    Raises:
        SiteError: fewer than three subjects, or folds that still have any: nothing could be trained, selected
            and tested apart.
    """
    used = sorted({deal_of[subject] for subject in cases.values()})
    if len(used) < 3:
        subjects = len(set(cases.values()))
        if subjects < 3:
            raise SiteError(f"only {subjects} usable subjects: training, validation and test need at least 3")
        raise SiteError(
            f"the {subjects} usable subjects that are left lie in {len(used)} of the folds dealt before, and "
            "training, validation and test need 3: another evaluation.split_key in the plan deals anew"
        )
    test = used[fold] if fold < len(used) else None
    validation = used[(fold + 1) % len(used)]
    parts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for case in sorted(cases):
        where = deal_of[cases[case]]
        parts["test" if where == test else "validation" if where == validation else "train"].append(case)
    return Split(tuple(parts["train"]), tuple(parts["validation"]), tuple(parts["test"]))


def _hash(key: str, subject: str) -> bytes:
    return hashlib.blake2b(subject.encode(), key=hashlib.sha256(key.encode()).digest()[:32]).digest()
