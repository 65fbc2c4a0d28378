"""One source of repeatable randomness, named by what it is for.

Noise, masks, keys and tokens must never come from here: the coordinator knows the seed.
"""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, the same on every machine."""
    text = "\x1f".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def rng(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator for one purpose, for example ``rng(plan.seed, round, site, "patches", step)``."""
    return np.random.default_rng(seed_of(seed, *purpose))
