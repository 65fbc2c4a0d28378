"""Hostile input, made from valid input: bytes, JSON and HTTP requests that are broken in some way. Seeded."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

TEXTS = [
    "", " ", "\x00", "A" * 3000, "../../etc/passwd", "..", ".", "/etc/passwd", "a/b", "a\\b", "C:\\x", "~",
    "%2e%2e%2f",
    "\r\nx-injected: 1", "𝔘𝔫𝔦", "é", "\u202e", "\ud800", "null", "NaN", "1e999", "' OR 1=1 --", "{{7*7}}", "<script>",
    "0" * 64, "f" * 64, "g" * 64, "F" * 64, "0" * 63, "-1", "__class__", "!!python/object/apply:os.system ['x']",
    "pending", "error", "train", "CON", "site\n", "a" * 65,
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(10**400), 0.5, 1e308, -1e308, 5e-324, float("nan"),
    float("inf"), -float("inf"), True, False,
]  # fmt: skip
TOKENS = [
    b"\x00", b"\xff\xfe", b"\r\n\r\n", b"{", b"}", b"[" * 2000, b'"', b"\\u0000", b"\\ud800", b"9" * 5000, b"-",
    b"e999", b"NaN", b"Infinity", b"null", b"true", b"../", b"\xc3\x28", b"\x80", b"&a *a", b"<<: ",
    b"!!python/name:os.system ",
]  # fmt: skip


def bytes_from(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """``data`` with a few bits, bytes or stretches changed, moved, removed or repeated."""
    for _ in range(rng.randint(1, most)):
        at, end = sorted((rng.randint(0, len(data)), rng.randint(0, len(data))))
        end = min(end, at + rng.choice((1, 4, 32, 10**9)))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + rng.randbytes(rng.choice((1, 8, 200))) + data[end:]
        elif kind == 2:
            data = data[:at] + data[end:]
        elif kind == 3:
            data = data[:end] + data[at:]
        elif kind == 4:
            data = data[:at]
        elif kind == 5:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
        elif kind == 6:
            data = data[:at] + rng.choice(TOKENS) + data[end:]
        else:
            data = data + rng.randbytes(rng.choice((1, 64, 3000)))
    return data


def anything(rng: random.Random, depth: int = 0) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(TEXTS)
    if kind < 4:
        return rng.choice(NUMBERS)
    if kind == 4 or depth > 3:
        return None
    if kind == 5:
        return [anything(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 6:
        return {rng.choice(TEXTS)[:80]: anything(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    nested: Any = 0
    for _ in range(rng.choice((5, 60, 300))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return nested


def json_from(rng: random.Random, value: Any, most: int = 3) -> Any:
    """``value`` with a few of its parts replaced, removed, added or renamed."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, most)):
        holders = [value, *(_holders(value) if isinstance(value, dict | list) else [])]
        place = rng.choice(holders)
        if isinstance(place, dict) and place:
            key = rng.choice(list(place))
            kind = rng.randrange(4)
            if kind == 0:
                del place[key]
            elif kind == 1:
                place[rng.choice(TEXTS)[:80]] = anything(rng)
            elif kind == 2:
                place[rng.choice(TEXTS)[:80]] = place.pop(key)
            else:
                place[key] = anything(rng)
        elif isinstance(place, list) and place:
            place[rng.randrange(len(place))] = anything(rng)
        else:
            value = anything(rng)
    return value


def _holders(value: Any) -> list[Any]:
    found, inside = [], [value]
    for _ in range(6):  # levels; what is deeper is nesting for its own sake
        inside = [deeper for one in inside for deeper in (one.values() if isinstance(one, dict) else one)]
        inside = [one for one in inside if isinstance(one, dict | list)]
        found += inside
    return found


def json_bytes(rng: random.Random, value: Any) -> bytes:
    """A broken message: broken in its meaning, in its text, or in both."""
    if rng.random() < 0.75:
        value = json_from(rng, value)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    return bytes_from(rng, text) if rng.random() < 0.4 else text
