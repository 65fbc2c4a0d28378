"""Numbers in fewer bytes: how far they may be off, and that a stretch decodes as the whole does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core import encoding as module
from wardround.core.encoding import PLAIN, Encoding, decode, decoded, encode, is_encoded

KINDS = ("bf16", "int8")
floats = st.floats(-(2.0**100), 2.0**100, width=32)


def sample(seed: int, size: int, spread: float = 3.0) -> np.ndarray:
    """Numbers of very different sizes, zeros among them."""
    random = np.random.default_rng(seed)
    values = random.normal(size=size) * 10.0 ** random.uniform(-spread, spread, size)
    return (values * (random.random(size) > 0.1)).astype(np.float32)


@given(st.lists(floats, min_size=1, max_size=300), st.integers(64, 200))
@settings(max_examples=200, deadline=None)
def test_int8_is_off_by_at_most_half_a_scale(values: list[float], block: int) -> None:
    x, encoding = np.array(values, np.float32), Encoding(kind="int8", block=block)
    numbers, scales = encode(x, encoding)
    assert scales is not None
    assert (numbers.dtype, numbers.shape, scales.shape) == (np.int8, x.shape, (encoding.scales(x.size),))
    assert np.all(np.isfinite(scales) & (scales >= 0))
    each = np.repeat(scales, block)[: x.size].astype(float)
    error = np.abs(x.astype(float) - decoded(numbers, scales, encoding))
    # Half a step; float32 rounds the quotient and the product of up to 127 steps: 2 * 127 / 2**24 of a scale.
    assert np.all(error <= each * (0.5 + 2e-5))
    peaks = np.array([np.abs(x[i : i + block]).max() for i in range(0, x.size, block)], float)
    np.testing.assert_allclose(scales, peaks / 127, rtol=1e-6, atol=float(np.finfo(np.float32).tiny))


@given(st.lists(floats, min_size=1, max_size=300))
@settings(max_examples=200, deadline=None)
def test_bf16_is_the_nearest_and_ties_go_to_even(values: list[float]) -> None:
    x = np.array(values, np.float32)
    numbers, scales = encode(x, Encoding(kind="bf16"))
    assert scales is None
    back = decoded(numbers, scales, Encoding(kind="bf16"))
    low = (x.view(np.uint32) & 0xFFFF0000).view(np.float32)
    high = ((x.view(np.uint32) & 0xFFFF0000) + 0x10000).view(np.float32)  # the next one away from 0
    down, up = np.abs(x.astype(float) - low), np.abs(high.astype(float) - x)
    even = (low.view(np.uint32) >> 16) % 2 == 0
    expected = np.where((down < up) | ((down == up) & even), low, high)
    assert back.tobytes() == expected.astype(np.float32).tobytes()
    normal = np.abs(x) > 1e-37
    assert np.all(np.abs(x.astype(float) - back)[normal] <= np.abs(x)[normal] / 256)


@pytest.mark.parametrize("kind", KINDS)
@given(st.integers(0, 10**6), st.integers(1, 700), st.integers(64, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_a_stretch_decodes_as_the_whole(
    kind: module.Kind, seed: int, size: int, block: int, data: st.DataObject
) -> None:
    encoding = Encoding(kind=kind, block=block)
    numbers, scales = encode(sample(seed, size), encoding)
    whole = decoded(numbers, scales, encoding)
    first = data.draw(st.integers(0, size - 1))
    end = data.draw(st.integers(first + 1, size))
    out = np.full(end - first, np.nan, np.float32)
    own = None if scales is None else scales[first // block : (end - 1) // block + 1]
    decode(numbers[first:end], own, encoding, first, out)
    assert out.tobytes() == whole[first:end].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_and_shapes_change_nothing(kind: module.Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding goes piece by piece; a tensor's axes do not matter."""
    x, encoding = sample(1, 7 * 11 * 13), Encoding(kind=kind, block=64)
    whole = encode(x, encoding)
    monkeypatch.setattr(module, "PIECE", 130)
    pieces = encode(x.reshape(7, 11, 13), encoding)
    turned = encode(np.asfortranarray(x.reshape(7, 11, 13)), encoding)
    assert pieces[0].shape == (7, 11, 13)
    for other in (pieces, turned):
        assert other[0].tobytes() == whole[0].tobytes()
        assert (other[1] is None) == (whole[1] is None)
        assert other[1] is None or other[1].tobytes() == whole[1].tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_decoded_is_encoded_without_loss(kind: module.Kind) -> None:
    encoding = Encoding(kind=kind, block=64)
    once = decoded(*encode(sample(2, 1000, spread=1), encoding), encoding)
    twice = decoded(*encode(once, encoding), encoding)
    np.testing.assert_allclose(twice, once, rtol=1e-6)


def test_nothing_at_all_and_next_to_nothing() -> None:
    """A block of zeros has scale 0; where a scale would lose its own bits it is the smallest normal float."""
    encoding = Encoding(kind="int8", block=64)
    x = np.zeros(192, np.float32)
    x[64:128], x[130] = 1e-41, 1e-44
    numbers, scales = encode(x, encoding)
    assert scales is not None
    assert scales[0] == 0
    assert np.all(scales[1:] == np.finfo(np.float32).tiny)
    assert np.all(decoded(numbers, scales, encoding)[:64] == 0)
    assert np.abs(decoded(numbers, scales, encoding) - x).max() <= scales[1] / 2


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_hostile_scale_gives_no_finite_number(bad: float) -> None:
    encoding = Encoding(kind="int8", block=64)
    numbers, scales = encode(np.ones(192, np.float32), encoding)
    assert scales is not None
    scales[1] = bad
    for first in (0, 10, 64, 100, 127):
        out = np.empty(192 - first, np.float32)
        decode(numbers[first:], scales[first // 64 :], encoding, first, out)
        assert np.isfinite(out).tolist() == [not 64 <= first + i < 128 for i in range(out.size)]


def test_small_flat_and_other_tensors_are_left_alone() -> None:
    int8 = Encoding(kind="int8")
    assert is_encoded(int8, "<f4", (32, 32))
    assert not is_encoded(int8, "<f4", (1024,))  # one axis: a bias, a scale, a running mean
    assert not is_encoded(int8, "<f4", (31, 33))
    assert not is_encoded(int8, "<f8", (64, 64))
    assert not is_encoded(int8, "<f4", ())
    assert not is_encoded(PLAIN, "<f4", (64, 64))
    assert not is_encoded(Encoding(updates=True), "<f4", (64, 64))
    assert (PLAIN.plain, Encoding(updates=True).plain) == (True, False)
