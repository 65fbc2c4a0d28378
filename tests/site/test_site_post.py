"""What a site receives and sends, without training: rounding, what it takes, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wardround.core.containers import compress
from wardround.core.encoding import Encoding, encode, is_encoded
from wardround.core.errors import SiteError
from wardround.core.parcels import pack_as
from wardround.core.weights import Part, unpack, write_tensors
from wardround.networks.build import build, exchange, roles
from wardround.networks.catalog import AttentionUNet, UNet, UNetPlusPlus
from wardround.planning.transfer import Transfer
from wardround.site.post import leaving, received


def test_error_feedback_finds_what_rounding_alone_never_sends() -> None:
    """Beside a large number steps of 0.3 of a scale are rounded to nothing, every round; with feedback they arrive."""
    transfer, sent = Transfer(up="int8"), {"w": np.zeros((32, 32), np.float32)}
    change = np.full((32, 32), 0.3, np.float32)
    change[0, 0] = 127
    kept: dict[str, Any] = {}
    total = np.zeros((32, 32))
    for _ in range(10):
        (arrays, _), kept = leaving({"weights": Part({"w": sent["w"] + change}, 1.0)}, sent, transfer, kept)
        total += arrays["weights/w"] * arrays["scale:weights/w"].astype(float)[0]
    assert total[5, 5] == pytest.approx(3.0, abs=0.5)
    numbers, _ = encode(change, transfer.upward)
    assert numbers[5, 5] == 0


@pytest.mark.parametrize(("up", "names"), [("int8", "b"), ("bf16", "wb")])
def test_numbers_beyond_the_encoding_are_not_sent(up: str, names: str) -> None:
    """3.4e38 is beyond bfloat16, and its difference from -3e38 beyond float32."""
    sent = {"w": np.zeros((32, 32), np.float32), "b": np.full(3, -3e38, np.float32)}
    fine = {"w": np.ones((32, 32), np.float32), "b": np.zeros(3, np.float32)}
    for name in names:
        after = {**fine, name: np.full_like(fine[name], 3.4e38)}
        with pytest.raises(SiteError, match="too large to be encoded"):
            leaving({"weights": Part(after, 1.0)}, sent, Transfer(up=up), {})  # type: ignore[arg-type]
    leaving({"weights": Part(fine, 1.0)}, sent, Transfer(up=up), {})  # type: ignore[arg-type]


def test_by_default_a_contribution_is_the_model_itself() -> None:
    after = {"w": np.ones((32, 32), np.float32)}
    (arrays, metadata), kept = leaving({"weights": Part(after, 2.0)}, {}, Transfer(), {"optimiser/x": after["w"]})
    assert arrays == {"weights/w": after["w"]}
    assert metadata == {"weights": '{"weights": 2.0}'}
    assert set(kept) == {"optimiser/x"}


def test_bf16_is_torchs(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32) * np.float32(1e-3)
    numbers, _ = encode(x, Encoding(kind="bf16"))
    assert numbers.tobytes() == torch.from_numpy(x).bfloat16().view(torch.int16).numpy().tobytes()


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
@pytest.mark.parametrize("family", [UNet, UNetPlusPlus, AttentionUNet])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_normalisation_layers_are_never_encoded_and_most_else_is(family: Any, norm: str, dimensions: int) -> None:
    module = build(family(features=(16, 32, 64), norm=norm, groups=8), dimensions, 2, 4)
    int8, arrays = Encoding(kind="int8"), exchange(module)
    encoded = {name: is_encoded(int8, array.dtype.str, array.shape) for name, array in arrays.items()}
    for name, role in roles(module).items():
        assert not (encoded[name] and role.startswith("norm")), (name, role)
    numbers = {name: array.size for name, array in arrays.items()}
    share = sum(numbers[name] for name, is_coded in encoded.items() if is_coded) / sum(numbers.values())
    assert share > 0.95


def test_what_arrives_compressed_is_bounded_and_expected(tmp_path: Path) -> None:
    parts = {"weights": Part({"w": np.ones((32, 32), np.float32)}, 1.0)}
    write_tensors(tmp_path / "plain", *pack_as(parts, Encoding()))
    compress(tmp_path / "plain", tmp_path / "small", 1)
    zstd = Transfer(zstd=1)
    found = received(tmp_path / "small", zstd, tmp_path, lambda: 1024)
    assert found["weights"].arrays["w"].tobytes() == unpack(tmp_path / "plain")["weights"].arrays["w"].tobytes()
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "small"}
    with pytest.raises(SiteError, match="which the plan does not say"):
        received(tmp_path / "small", Transfer(), tmp_path, lambda: 1024)
    big = {"weights": Part({"w": np.zeros((1024, 1024), np.float32)}, 1.0)}
    write_tensors(tmp_path / "big", *pack_as(big, Encoding()))
    compress(tmp_path / "big", tmp_path / "bomb", 1)
    with pytest.raises(SiteError, match="at most"):
        received(tmp_path / "bomb", zstd, tmp_path, lambda: 1024)
    assert not (tmp_path / "received.safetensors").exists()
