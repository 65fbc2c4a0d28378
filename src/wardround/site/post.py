"""What a site receives and sends, in the plan's transfer: docs/decisions/0010-update-encodings.md.

Error feedback: what rounding takes from a contribution is kept at the site and added to its next one (Seide et al.,
1-Bit Stochastic Gradient Descent, Interspeech 2014; Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019,
Algorithm 2). With v = update + e it sends Q(v) and keeps e = v - Q(v), so that over the rounds that counted the sum of
what was sent and the last e is the sum of the true updates.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from wardround.core.containers import expanded, is_compressed, most_bytes
from wardround.core.errors import SiteError, StorageError, WardRoundError
from wardround.core.parcels import MODEL, Packed, lost, pack_as, unpack_decoded
from wardround.core.weights import Array, Arrays, Part, Parts, all_finite, pack
from wardround.planning.transfer import Transfer

LOST = "lost/"  # in the private state: what rounding took, by part and name


def received(file: Path, transfer: Transfer, folder: Path, numbers: Callable[[], int]) -> dict[str, Part]:
    """The parts of what was sent, decoded.

    Args:
        file: as it arrived.
        transfer: the plan's.
        folder: private; a compressed file is unpacked there, and is gone at the end.
        numbers: how many the model has: bounds what may come out of a compressed file.

    Raises:
        SiteError: it is compressed though the plan does not say so, or cannot be unpacked.
        WardRoundError: it is not a packed tensor file.
    """
    if not is_compressed(file):
        return unpack_decoded(file)
    if transfer.zstd is False:
        raise SiteError("the model that arrived is compressed, which the plan does not say")
    try:
        with expanded(file, folder / "received.safetensors", most_bytes(numbers())) as plain:
            return unpack_decoded(plain)  # views stay readable after the file's name is gone
    except StorageError:
        raise
    except WardRoundError as error:
        raise SiteError(f"the model that arrived cannot be used: {error}") from error


def carried(kept: Arrays) -> dict[str, Array]:
    """What rounding took in earlier rounds, out of the private state."""
    return {name: array for name, array in kept.items() if name.startswith(LOST)}


def leaving(parts: Parts, sent: Arrays, transfer: Transfer, kept: Arrays) -> tuple[Packed, dict[str, Array]]:
    """A contribution in the plan's encoding, and the private state with what rounding took from it.

    Args:
        parts: the strategy's.
        sent: the model that the site trained from.
        transfer: the plan's.
        kept: private state after this round, in which `carried` is still that of the last round that counted.

    Raises:
        SiteError: a number is too large for the encoding.
    """
    encoding = transfer.upward
    if encoding.plain:
        return pack(parts), dict(kept)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
        owed = _all_owed(parts, sent, kept, encoding.updates)
        packed = pack_as(owed, encoding)
        taken = lost(owed, packed, encoding)
    if not all(all_finite(arrays) for arrays in (taken, *(part.arrays for part in owed.values()))):
        raise SiteError("the update holds numbers that are too large to be encoded and was not sent")
    private = {name: array for name, array in kept.items() if not name.startswith(LOST)}
    return packed, private | {LOST + name: array for name, array in taken.items()}


def _all_owed(parts: Parts, sent: Arrays, kept: Arrays, updates: bool) -> dict[str, Part]:
    """The change that each part says, and what rounding took from it before.

    The difference of a model is taken here; other parts are changes already, or too small to be encoded.
    """
    return {
        part: Part({n: _owed(part, n, x, sent, kept, updates) for n, x in content.arrays.items()}, content.weight)
        for part, content in parts.items()
    }


def _owed(part: str, name: str, x: Array, sent: Arrays, kept: Arrays, updates: bool) -> Array:
    change = np.asarray(x - sent[name]) if updates and part == MODEL else x
    rest = kept.get(f"{LOST}{part}/{name}")
    return change if rest is None else np.asarray(change + rest)
