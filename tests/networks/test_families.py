"""Laws that every network keeps, and what makes each family itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wardround.networks.attention_unet import AttentionGate
from wardround.networks.blocks import Kit
from wardround.networks.build import build, exchange
from wardround.networks.catalog import AttentionUNet, NetworkSettings, UNet, UNetPlusPlus

FAMILIES = [UNet, UNetPlusPlus, AttentionUNet]
Family = type[UNet] | type[UNetPlusPlus] | type[AttentionUNet]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make(
    settings: NetworkSettings, dimensions: int = 2, channels: int = 1, classes: int = 2, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    return build(settings, dimensions, channels, classes)


def small(family: Family, **settings: Any) -> NetworkSettings:
    return family(**{"features": (4, 8, 12), "groups": 4, **settings})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("norm", ["instance", "group", "batch"])
@pytest.mark.parametrize("deep", [False, True])
def test_shapes_and_gradients(family: Family, dimensions: int, norm: str, deep: bool) -> None:
    module = make(small(family, norm=norm, deep_supervision=deep), dimensions, channels=2, classes=3)
    size = (8, 12, 16)[:dimensions]
    x = torch.randn(2, 2, *size)
    out = module(x)
    maps = out if deep else [out]
    assert isinstance(out, list) is deep
    coarser = 1 if family is UNetPlusPlus else 2
    expected = [size, tuple(s // coarser for s in size)] if deep else [size]
    assert [tuple(m.shape) for m in maps] == [(2, 3, *s) for s in expected]
    sum(F.cross_entropy(m, torch.zeros(m.shape[0], *m.shape[2:], dtype=torch.long)) for m in maps).backward()
    assert {n for n, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0} == set()
    module.eval()
    assert module(x).shape == (2, 3, *size)


@pytest.mark.parametrize("family", FAMILIES)
def test_uneven_strides_wide_kernels_and_dropout(family: Family) -> None:
    settings = small(family, strides=((1, 2, 2), (2, 1, 3)), kernel=5, dropout=0.5, activation="relu")
    module = make(settings, 3)
    x = torch.randn(1, 1, 4, 4, 12)
    module.eval()
    assert module(x).shape == (1, 2, 4, 4, 12)
    assert torch.equal(module(x), module(x))  # dropout only in training
    module.train()
    first, second = (out[0] if isinstance(out, list) else out for out in (module(x), module(x)))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_alone_decides_the_first_weights(family: Family) -> None:
    one, again, other = (exchange(make(small(family), seed=seed)) for seed in (7, 7, 8))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["encoder.0.conv1.weight"], other["encoder.0.conv1.weight"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dimensions", [2, 3])
def test_one_image_is_learned_by_heart(family: Family, dimensions: int) -> None:
    module = make(small(family), dimensions)
    size = (16,) * dimensions
    x = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    inside = torch.zeros(1, *size, dtype=torch.long)
    inside[(slice(None), *(slice(4, 11),) * dimensions)] = 1
    x = x + 2 * inside[:, None]
    optimiser = torch.optim.Adam(module.parameters(), 0.02)
    losses = []
    for _ in range(50):
        out = module(x)
        levels = [F.interpolate(inside[:, None].float(), m.shape[2:])[:, 0].long() for m in _listed(out)]
        loss = torch.stack([F.cross_entropy(m, t) for m, t in zip(_listed(out), levels, strict=True)]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


def _listed(out: Tensor | list[Tensor]) -> list[Tensor]:
    return out if isinstance(out, list) else [out]


def test_he_weights_have_the_variance_of_the_paper() -> None:
    module = make(UNet(features=(64, 128), activation="relu"), 3, channels=4)
    arrays = exchange(module)
    # fan-in: 64 channels times 27 taps; the up-convolution has one tap per output voxel and channel
    assert arrays["encoder.1.conv1.weight"].std() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.02)
    assert arrays["decoder.0.up.weight"].std() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert not arrays["decoder.0.up.bias"].any()
    assert not arrays["heads.0.bias"].any()


def test_unet_has_the_number_of_parameters_derived_by_hand() -> None:
    """2D, one channel, widths 4 and 8, two classes; a norm over c channels has 2 c.

    encoder 0   1*4*9 + 8 + 4*4*9 + 8    =  196
    encoder 1   4*8*9 + 16 + 8*8*9 + 16  =  896
    decoder 0   8*4*2*2 + 4              =  132   up-convolution with bias
                8*4*9 + 8 + 4*4*9 + 8    =  448   on the skip (4) beside the raised map (4)
    head        4*2 + 2                  =   10
    """
    module = make(UNet(features=(4, 8)))
    assert sum(p.numel() for p in module.parameters()) == 196 + 896 + 132 + 448 + 10


def test_wrong_inputs_are_named() -> None:
    module = make(UNet(features=(4, 8, 12)))
    with pytest.raises(ValueError, match="size 10 x 16 must be a multiple of 4 x 4"):
        module(torch.zeros(1, 1, 10, 16))
    with pytest.raises(ValueError, match=r"takes \(N, 1, X, Y\), not \(1, 2, 16, 16\)"):
        module(torch.zeros(1, 2, 16, 16))
    with pytest.raises(ValueError, match="single voxel"):
        module(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="needs channels and classes"):
        build(UNet(), 2, 0, 2)


def test_instance_norm_forgets_the_scale_of_each_channel() -> None:
    norm = Kit(UNet(), 2).norm(5)
    x = torch.randn(2, 5, 6, 7)
    torch.testing.assert_close(norm(x), F.instance_norm(x))


def test_unet_plus_plus_has_a_triangle_of_nodes_and_uses_every_skip() -> None:
    module = make(UNetPlusPlus(features=(4, 4, 4, 4)))
    # levels 3..0 hold 0, 1, 2, 3 nodes beside the encoder's four
    assert sorted(module.nodes) == ["0_1", "0_2", "0_3", "1_1", "1_2", "2_1"]
    for name, node in module.nodes.items():
        j = int(name[2:])
        assert node.block.conv1.in_channels == 4 * (j + 1)  # X(i, 0..j-1) and the raised map
    skips = [torch.randn(1, 4, 16 >> i, 16 >> i, requires_grad=True) for i in range(4)]
    seen: list[Tensor] = []
    module.nodes["0_3"].register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    rows = module.decode(skips)
    assert len(seen) == 4  # X(1, 2) and X(0, 0), X(0, 1), X(0, 2)
    assert seen[1] is skips[0]
    assert seen[2] is rows[2]  # the last of the list is X(0, 1)
    assert seen[3] is rows[1]
    gradients = torch.autograd.grad(rows[0].square().sum(), skips)
    assert all(g.abs().sum() > 0 for g in gradients)


def test_unet_plus_plus_averages_its_heads_outside_training() -> None:
    module = make(UNetPlusPlus(features=(4, 4, 4)))
    x = torch.randn(1, 1, 8, 8)
    deep = module(x)
    module.eval()
    torch.testing.assert_close(module(x), (deep[0] + deep[1]) / 2)
    alone = make(UNetPlusPlus(features=(4, 4, 4), deep_supervision=False))
    assert len(alone.heads) == 1


@pytest.mark.parametrize("dimensions", [2, 3])
def test_gates_weigh_places_between_none_and_all(dimensions: int) -> None:
    torch.manual_seed(0)
    gate = AttentionGate(Kit(AttentionUNet(features=(4, 6, 8)), dimensions), level=1)
    skip, signal = torch.randn(2, 6, *(8,) * dimensions), torch.randn(2, 8, *(4,) * dimensions)
    alpha = gate.coefficients(skip, signal)
    assert alpha.shape == (2, 1, *(8,) * dimensions)
    assert 0 < alpha.min() < alpha.max() < 1
    torch.testing.assert_close(gate(skip, signal), skip * alpha)
    assert not torch.equal(gate.coefficients(skip, signal + 1), alpha)  # the coarser level decides as well


def test_the_first_skip_has_no_gate_and_each_gate_listens_one_level_down() -> None:
    module = make(AttentionUNet(features=(4, 6, 8, 10)))
    assert [gate.signal.in_channels for gate in module.gates] == [8, 10]
    assert [gate.skip.in_channels for gate in module.gates] == [6, 8]
    heard: list[Tensor] = []
    for gate in module.gates:
        gate.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[1]))
    skips = [torch.randn(1, f, 16 >> i, 16 >> i) for i, f in enumerate((4, 6, 8, 10))]
    maps = module.decode(skips)
    assert heard[0] is skips[3]  # the deepest gate listens to the bottleneck
    assert heard[1] is maps[2]  # the next to the decoder's map of level 2


@pytest.mark.parametrize("family", FAMILIES)
def test_deep_supervision_adds_heads_only(family: Family) -> None:
    plain, deep = (exchange(make(small(family, deep_supervision=d))) for d in (False, True))
    assert set(deep) - set(plain) == {"heads.1.weight", "heads.1.bias"}
