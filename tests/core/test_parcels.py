"""Encoded tensor files: plain ones stay byte for byte, and whatever is wrong with one is said, not guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core.encoding import PLAIN, Encoding, Kind
from wardround.core.errors import WardRoundError
from wardround.core.parcels import HEADING, SCALE, Packed, contents, lost, pack_as, read_numbers, unpack_decoded
from wardround.core.weights import Part, map_tensors, pack, slots, unpack, write_tensors

INT8 = Encoding(kind="int8", block=64, updates=True)
RANDOM = np.random.default_rng(0)
PARTS = {
    "weights": Part(
        {
            "conv": RANDOM.normal(size=(8, 4, 3, 3, 5)).astype(np.float32),  # 1440 numbers: the last block is short
            "bias": RANDOM.normal(size=2000).astype(np.float32),
            "first": RANDOM.normal(size=(4, 3)).astype(np.float32),
        },
        7.0,
    ),
    "control": Part({"conv": RANDOM.normal(size=(40, 50)).astype(np.float32)}, 3.0),
    "reach": Part({"reach": np.array([0.15])}, 2.0),
}


def write(path: Path, packed: Packed) -> Path:
    write_tensors(path, *packed)
    return path


def test_without_an_encoding_the_file_is_the_plain_one(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", pack(PARTS)), write(tmp_path / "b", pack_as(PARTS, PLAIN))
    three = write(tmp_path / "c", pack_as(PARTS, Encoding(block=64)))
    assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert {p: part.weight for p, part in unpack_decoded(one).items()} == {p: x.weight for p, x in PARTS.items()}


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
def test_parts_come_back(tmp_path: Path, kind: Kind) -> None:
    encoding = Encoding(kind=kind, block=64, updates=True)
    packed = pack_as(PARTS, encoding)
    file = write(tmp_path / "x", packed)
    back, taken = unpack_decoded(file), lost(PARTS, packed, encoding)
    assert contents(file).encoding == encoding
    assert {name: part.weight for name, part in back.items()} == {name: part.weight for name, part in PARTS.items()}
    assert set(taken) == (set() if kind == "fp32" else {"weights/conv", "control/conv"})
    for part, content in PARTS.items():
        for name, array in content.arrays.items():
            found = back[part].arrays[name]
            assert (found.dtype, found.shape) == (array.dtype, array.shape)
            rest = taken.get(f"{part}/{name}")
            if rest is None:
                assert found.tobytes() == array.tobytes()
            else:
                assert (array - found).tobytes() == rest.tobytes()
                assert 0 < np.abs(rest).max() <= {"bf16": 4 / 256, "int8": 4 / 254}[kind]


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_the_file_is_as_small_as_promised(tmp_path: Path, kind: Kind) -> None:
    parts = {"weights": Part({"w": np.ones((1000, 1000), np.float32)}, 1.0)}
    plain = write(tmp_path / "a", pack(parts)).stat().st_size
    encoded = write(tmp_path / "b", pack_as(parts, Encoding(kind=kind))).stat().st_size
    assert encoded / plain == pytest.approx({"bf16": 1 / 2, "int8": 1 / 4 + 1 / 1024}[kind], abs=1e-3)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
@given(st.integers(0, 1439), st.integers(1, 1440))
@settings(max_examples=50, deadline=None)
def test_a_stretch_is_read_from_the_file(
    tmp_path_factory: pytest.TempPathFactory, kind: Kind, first: int, count: int
) -> None:
    file = tmp_path_factory.getbasetemp() / f"stretches-{kind}"
    if not file.is_file():
        write(file, pack_as(PARTS, Encoding(kind=kind, block=64, updates=True)))
    whole = unpack_decoded(file)["weights"].arrays["conv"].reshape(-1)
    out = np.empty(min(count, 1440 - first), np.float32)
    with file.open("rb") as opened:
        read_numbers(opened.fileno(), contents(file).places["weights/conv"], first, out)
    assert out.tobytes() == whole[first : first + out.size].tobytes()


def heading(**changes: Any) -> str:
    return json.dumps({"weights": {"weights": 1.0}, "encoding": {**INT8.model_dump(), **changes}})


def parcel(arrays: dict[str, Any], text: str | None = None) -> Packed:
    return {f"weights/{n}" if SCALE not in n else n: a for n, a in arrays.items()}, {HEADING: text or heading()}


NUMBERS, SCALES = np.ones((40, 50), np.int8), np.ones(32, np.float32)
HOSTILE: dict[str, Packed] = {
    "no scales": parcel({"w": NUMBERS}),
    "too few scales": parcel({"w": NUMBERS, "scale:weights/w": SCALES[:-1]}),
    "too many scales": parcel({"w": NUMBERS, "scale:weights/w": np.ones(33, np.float32)}),
    "scales in two axes": parcel({"w": NUMBERS, "scale:weights/w": SCALES.reshape(4, 8)}),
    "scales in float64": parcel({"w": NUMBERS, "scale:weights/w": SCALES.astype(float)}),
    "scales of nothing": parcel({"w": NUMBERS, "scale:weights/w": SCALES, "scale:weights/v": SCALES}),
    "scales of what is plain": parcel({"w": np.ones(4, np.float32), "scale:weights/w": SCALES[:1]}),
    "scales for another block": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, heading(block=128)),
    "not encoded": parcel({"w": np.ones((40, 50), np.float32)}),
    "a small tensor encoded": parcel({"w": NUMBERS[:2], "scale:weights/w": SCALES[:2]}),
    "a flat tensor encoded": parcel({"w": NUMBERS.reshape(-1), "scale:weights/w": SCALES}),
    "int8 in bf16": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, heading(kind="bf16")),
    "encoded in a file that says fp32": parcel({"w": np.ones((40, 50), np.float32), "scale:weights/w": SCALES},
                                               heading(kind="fp32")),
    "unknown kind": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, heading(kind="int4")),
    "block 0": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, heading(block=0)),
    "more in the encoding": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, heading(extra=1)),
    "no JSON": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, "{"),
    "a list": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, "[]"),
    "no encoding": parcel({"w": NUMBERS, "scale:weights/w": SCALES}, '{"weights": {}}'),
    "weights are a number": parcel({"w": NUMBERS}, '{"weights": 3, "encoding": {}}'),
    "a weight is a list": parcel({"w": NUMBERS}, '{"weights": {"weights": []}, "encoding": {}}'),
    "nested without end": parcel({"w": NUMBERS}, "[" * 100_000),
    "NaN scale": parcel({"w": NUMBERS, "scale:weights/w": SCALES * np.float32(np.nan)}),
    "infinite scale": parcel({"w": NUMBERS, "scale:weights/w": SCALES * np.float32(np.inf)}),
    "negative scale": parcel({"w": NUMBERS, "scale:weights/w": -SCALES}),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_a_hostile_file_is_refused(how: str, tmp_path: Path) -> None:
    with pytest.raises(WardRoundError):
        unpack_decoded(write(tmp_path / "x", HOSTILE[how]))


def test_encoded_numbers_are_never_taken_for_a_plain_file(tmp_path: Path) -> None:
    """What knows plain files only sees no weights in it, rather than eight bits as a model."""
    assert unpack(write(tmp_path / "x", pack_as(PARTS, INT8))) == {}


@given(st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=8), st.integers(0, 9000))
@settings(max_examples=150, deadline=None)
def test_any_bytes_end_in_parts_or_in_our_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    good = folder / "good-parcel"
    if not good.is_file():
        write(good, pack_as(PARTS, INT8))
    data = bytearray(good.read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    bad = folder / "bad-parcel"
    bad.write_bytes(data[: len(data) - cut] if cut % 3 == 0 else data)
    try:
        parts = unpack_decoded(bad)
    except WardRoundError:
        return
    places = contents(bad).places
    assert sum(array.size for part in parts.values() for array in part.arrays.values()) <= sum(
        place.size for place in places.values()
    )


def test_names_types_and_order_of_bytes(tmp_path: Path) -> None:
    """The format, written down: docs/decisions/0010-update-encodings.md."""
    file = write(tmp_path / "x", pack_as(PARTS, INT8))
    found, metadata = slots(file)
    assert {name: slot.dtype for name, slot in found.items()} == {
        "weights/conv": "i1", "scale:weights/conv": "<f4", "weights/bias": "<f4", "weights/first": "<f4",
        "control/conv": "i1", "scale:control/conv": "<f4", "reach/reach": "<f8",
    }  # fmt: skip
    assert json.loads(metadata[HEADING]) == {
        "weights": {"weights": 7.0, "control": 3.0, "reach": 2.0},
        "encoding": {"kind": "int8", "block": 64, "updates": True},
    }
    assert map_tensors(write(tmp_path / "y", pack_as(PARTS, Encoding(kind="bf16"))))["weights/conv"].dtype == np.uint16
