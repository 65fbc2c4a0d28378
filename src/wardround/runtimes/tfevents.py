"""TensorBoard event files, scalars only: about fifty lines instead of a package that imports torch.

Format: TFRecord (length, masked CRC-32C of the length, data, masked CRC-32C of the data), each record
an ``Event`` of tensorflow/core/util/event.proto in protocol-buffer encoding.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path


class EventFile:
    """An append-only file of scalars; every record is flushed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names: time first, then the process.
        self._file = (folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}").open("ab")
        self._write(_double(1, time.time()) + _text(3, b"brain.Event:2"))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point."""
        entry = _text(1, name.encode()) + _float(2, value)
        self._write(_double(1, time.time()) + _integer(2, step) + _text(5, _text(1, entry)))

    def close(self) -> None:
        """No more points."""
        self._file.close()

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))
        self._file.flush()


def _key(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _integer(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _text(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _key(field, 5) + struct.pack("<f", value)


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901 - Castagnoli, reflected
        rows.append(value)
    return rows


_CRC = _table()


def crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
