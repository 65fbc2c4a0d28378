"""Numbers in fewer bytes: bfloat16, or 8-bit steps with a scale per block.

Why: docs/decisions/0010-update-encodings.md.

========  =========================================================================  ======================
kind      what is written                                                            error of a number x
========  =========================================================================  ======================
``fp32``  float32 as it is                                                           0
``bf16``  the upper half of the float32, rounded to nearest, ties to even, as uint16  at most ``|x| / 256``
``int8``  x / scale rounded to a whole number from -127 to 127; the scale of each     at most ``scale / 2``
          block of numbers is its largest ``|x|`` divided by 127, a float32
========  =========================================================================  ======================

Blocks cut the tensor flattened in C order; the last one may be shorter. Decoding a stretch gives the
bits that decoding the whole tensor gives, wherever it begins and ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from wardround.core.frozen import Frozen
from wardround.core.weights import Array

Kind = Literal["fp32", "bf16", "int8"]
TYPES = {"bf16": "<u2", "int8": "i1"}  # of the encoded numbers in a tensor file
LEAST = 1024  # numbers in a tensor that is worth encoding
STEPS = 127.0
TINY = np.finfo(np.float32).tiny  # a smaller scale would have too few bits itself
# Numbers encoded at a time: what is needed on the way stays in the second-level cache.
PIECE = 65536


class Encoding(Frozen):
    """How the numbers of a tensor file are written.

    ``updates``: the part "weights" does not hold a model but what is to be added to the model that was sent.
    """

    kind: Kind = "fp32"
    block: int = Field(default=1024, ge=64, le=65536, description="numbers that share a scale, in int8")
    updates: bool = False

    @property
    def plain(self) -> bool:
        """True where the file is as it is without any encoding."""
        return self.kind == "fp32" and not self.updates

    def scales(self, size: int) -> int:
        """How many scales go with a tensor of ``size`` numbers."""
        return -(-size // self.block) if self.kind == "int8" else 0


PLAIN = Encoding()


def is_encoded(encoding: Encoding, dtype: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is encoded: float32, at least two axes, and not small.

    Scales, shifts and running statistics of normalisation layers and all biases have one axis: they stay
    as they are. They are few, and a small error in them moves whole feature maps.
    """
    return encoding.kind != "fp32" and dtype == "<f4" and len(shape) >= 2 and math.prod(shape) >= LEAST


def encode(values: Array, encoding: Encoding) -> tuple[Array, Array | None]:
    """Finite float32 ``values`` of any shape in ``encoding``: the numbers, in that shape, and int8's scales.

    Numbers above 3.38e38 have no bfloat16 and become infinite.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    out = np.empty(flat.size, TYPES[encoding.kind])
    if encoding.kind == "bf16":
        for first in range(0, flat.size, PIECE):
            _to_bf16(flat[first : first + PIECE], out[first : first + PIECE])
        return out.reshape(values.shape), None
    scales = np.empty(encoding.scales(flat.size), np.float32)
    together = max(1, PIECE // encoding.block)
    whole = flat.size // encoding.block
    for first in range(0, whole, together):
        rows = slice(first, min(first + together, whole))
        cut = slice(rows.start * encoding.block, rows.stop * encoding.block)
        shape = (-1, encoding.block)
        _to_int8(flat[cut].reshape(shape), out[cut].reshape(shape), scales[rows])
    if whole < scales.size:
        rest = slice(whole * encoding.block, None)
        _to_int8(flat[rest].reshape(1, -1), out[rest].reshape(1, -1), scales[whole:])
    return out.reshape(values.shape), scales


def decode(numbers: Array, scales: Array | None, encoding: Encoding, first: int, out: Array) -> None:
    """Fill ``out`` with the float32 values of a stretch of one tensor.

    Args:
        numbers: what `encode` gave, from place ``first`` of the flattened tensor on; one axis.
        scales: int8's, from that of number ``first`` on. A scale below 0 counts as NaN: `encode` gives none.
        encoding: how they are written.
        first: where the stretch begins.
        out: float32, as long as ``numbers``.
    """
    if scales is None:
        np.multiply(numbers, np.uint32(1 << 16), out=out.view(np.uint32))
        return
    sound = np.where(scales >= 0, scales, np.float32(np.nan))
    block = encoding.block
    head = min(-first % block, out.size)
    rows = (out.size - head) // block
    tail = head + rows * block
    if head:
        np.multiply(numbers[:head], sound[0], out=out[:head])
    if rows:
        begin, shape = int(head > 0), (rows, block)
        each = sound[begin : begin + rows, None]
        with np.errstate():  # which also ends the setting below
            np.setbufsize(1024)  # with numpy's own 8192 it copies the scales of shorter rows, at half the speed
            np.multiply(numbers[head:tail].reshape(shape), each, out=out[head:tail].reshape(shape))
    if tail < out.size:
        np.multiply(numbers[tail:], sound[-1], out=out[tail:])


def decoded(numbers: Array, scales: Array | None, encoding: Encoding) -> Array:
    """All values of a tensor, in its shape."""
    out = np.empty(numbers.shape, np.float32)
    decode(numbers.reshape(-1), scales, encoding, 0, out.reshape(-1))
    return out


def _to_bf16(values: Array, out: Array) -> None:
    bits = values.view(np.uint32)
    up = bits >> 16
    up &= 1
    up += 0x7FFF  # half of the last place that stays, one less where the kept half is even
    up += bits
    up >>= 16
    out[...] = up


def _to_int8(rows: Array, out: Array, scales: Array) -> None:
    """Rows are blocks. Dividing by the scale itself, not by its inverse, keeps the error within half a scale."""
    peaks = np.maximum(rows.max(axis=1), -rows.min(axis=1))
    scales[...] = np.where(peaks > 0, np.maximum(peaks / np.float32(STEPS), TINY), 0)
    steps = rows / np.where(scales > 0, scales, 1)[:, None]
    np.rint(steps, out=steps)
    np.copyto(out, steps, casting="unsafe")
