"""Whose update points against everybody else's: other annotations, wrong masks, or a sign that was flipped.

Norms do not show that, and neither does clipping mend it. It is no reason to leave a site out either: a hospital that
outlines in another way looks the same. So it is told, and people decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from wardround.aggregation.checks import FEWEST
from wardround.aggregation.contributions import Group, Stretch
from wardround.core.contracts import Alert
from wardround.core.parcels import MODEL
from wardround.core.weights import Array, of_part

BLOCK = 4096  # numbers read at a time
SAMPLE = 1 << 20  # of a larger model, so many numbers at most, evenly spread: one in thirty of 31 million
CONTRARY = -0.1  # cosines of sites that learn the same thing are above 0, of unrelated updates near it


def contrary(group: Group) -> list[Alert]:
    """An alert for each site whose update has a cosine below `CONTRARY` with the sum of the others' directions."""
    return [
        Alert(site, "contrary", round(value, 3), CONTRARY) for site, value in cosines(group).items() if value < CONTRARY
    ]


def cosines(group: Group) -> Mapping[str, float]:
    """The cosine between each site's update and the sum of the other sites' updates, each of length 1.

    Lengths do not matter, so neither does a site that exaggerates. Sites that did not move are not among them, and
    with fewer than `FEWEST` others there is no telling who is the odd one. 0 where the others cancel out.

    Args:
        group: contributions of finite numbers and the model that was sent.
    """
    if group.sent is None:
        return {}
    products = _products(group)
    lengths = np.sqrt(np.diag(products))
    moved = np.flatnonzero(lengths > 0)
    if len(moved) < FEWEST:
        return {}
    among = products[np.ix_(moved, moved)] / np.outer(lengths[moved], lengths[moved])
    found = {}
    for place, number in enumerate(moved):
        others = np.delete(np.arange(len(moved)), place)
        length = np.sqrt(max(0.0, among[np.ix_(others, others)].sum()))
        found[group.members[int(number)].site] = float(among[place, others].sum() / length) if length > 1e-6 else 0.0
    return found


def _products(group: Group) -> Array:
    """Inner products of all pairs of updates, of the sampled numbers."""
    count = len(group.members)
    total, quiet = np.zeros((count, count)), replace(group, measured=True)
    for name, piece in _sampled(group):
        stretch = Stretch(quiet, MODEL, name, piece, BLOCK)
        rows = np.empty((count, piece.stop - piece.start), stretch.dtype)
        for number in range(count):
            stretch.read(number, piece, rows[number])
        updates = rows.astype(np.float64)
        if not stretch.updates and (anchor := stretch.anchor(piece)) is not None:
            updates -= anchor
        total += updates @ updates.T
    return total


def _sampled(group: Group) -> Iterator[tuple[str, slice]]:
    places = of_part(group.members[0].places, MODEL)
    every, number = max(1, -(-sum(place.size for place in places.values()) // SAMPLE)), 0
    for name, place in places.items():
        for begin in range(0, place.size, BLOCK):
            if number % every == 0:
                yield name, slice(begin, min(begin + BLOCK, place.size))
            number += 1
