"""Our event files against the published checksum and another package's reader of the format."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from wardround.runtimes.scalars import Scalars
from wardround.runtimes.tfevents import crc32c


def test_checksum_of_rfc_3720() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_scalars_can_be_read_by_tensorboards_own_schema(tmp_path: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2", reason="needs tensorboardX to read back")
    scalars = Scalars(tmp_path)
    scalars.listen("federated", {"event": "site_replied", "verb": "train", "round": 299, "site": "A",
                                 "facts": {"loss": 0.25}})  # fmt: skip
    scalars.listen("federated", {"event": "round_ended", "round": 299, "mean_dice": 0.5, "scores": {"A": None},
                                 "rate": 0.125, "seconds": {"total": 2.0}})  # fmt: skip
    scalars.listen("federated", {"event": "run_ended"})
    data, points = next((tmp_path / "federated").iterdir()).read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        points += [(value.tag, value.simple_value, event.step) for value in event.summary.value]
        data = data[16 + length :]
    assert points == [
        ("loss/A", 0.25, 300), ("dice/mean", 0.5, 300), ("learning_rate", 0.125, 300), ("seconds/round", 2.0, 300),
    ]  # fmt: skip
