from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.errors import StorageError, WardRoundError
from wardround.core.weights import Part, map_tensors, pack, read_tensors, unpack, weights_digest, write_tensors

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "s": np.float32(2.5).reshape(()), "e": np.empty(0)}


def test_tensors_survive_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", ARRAYS)
    back = read_tensors(tmp_path / "x")
    assert weights_digest(back) == weights_digest(ARRAYS)
    assert weights_digest(map_tensors(tmp_path / "x")) == weights_digest(ARRAYS)


def test_parts_survive_the_file(tmp_path: Path) -> None:
    parts = {"weights": Part({"a.b": np.ones(3, np.float32)}, 31.0), "c": Part({"a.b": np.zeros(2, np.float32)}, 1.0)}
    arrays, metadata = pack(parts)
    write_tensors(tmp_path / "x", arrays, metadata)
    back = unpack(tmp_path / "x")
    assert {name: part.weight for name, part in back.items()} == {"weights": 31.0, "c": 1.0}
    assert back["c"].arrays["a.b"].tolist() == [0.0, 0.0]


def test_digest_tells_names_types_and_shapes_apart() -> None:
    one = np.zeros((2, 3), np.float32)
    digests = {weights_digest(a) for a in ({"x": one}, {"y": one}, {"x": one.T}, {"x": one.view(np.int32)})}
    assert len(digests) == 4


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x"
    path.write_bytes(data)
    _read_or_refuse(path)


def _read_or_refuse(path: Path) -> None:
    try:
        map_tensors(path)
    except WardRoundError as error:
        assert str(error)


@given(st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x"
    write_tensors(path, ARRAYS)
    data = bytearray(path.read_bytes())
    data[place % len(data)] = value
    path.write_bytes(data)
    _read_or_refuse(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", ARRAYS)
    with pytest.raises(StorageError):
        write_tensors(tmp_path / "none" / "x", ARRAYS)
    assert weights_digest(read_tensors(tmp_path / "x")) == weights_digest(ARRAYS)
