"""Named arrays of a module: each once, bit for bit, and strict on the way in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wardround.core.errors import InputError
from wardround.core.weights import weights_digest
from wardround.networks.build import build, exchange, load, roles
from wardround.networks.catalog import AttentionUNet, NetworkSettings, UNet, UNetPlusPlus

ALL: list[NetworkSettings] = [
    family(features=(8, 8, 16), norm=norm)
    for family in (UNet, UNetPlusPlus, AttentionUNet)
    for norm in ("instance", "group", "batch")
]


def ids(settings: NetworkSettings) -> str:
    return f"{settings.name}-{settings.norm}"


@pytest.mark.parametrize("settings", ALL, ids=ids)
def test_weights_move_to_another_module_bit_for_bit(settings: NetworkSettings) -> None:
    one, other = build(settings, 2, 1, 2), build(settings, 2, 1, 2)
    one(torch.randn(2, 1, 8, 8))  # moves the running statistics, where there are any
    before = exchange(one)
    assert weights_digest(before) != weights_digest(exchange(other))
    load(other, before)
    assert weights_digest(before) == weights_digest(exchange(other))
    one.eval()
    other.eval()
    x = torch.randn(1, 1, 8, 8)
    assert torch.equal(one(x), other(x))


@pytest.mark.parametrize("settings", ALL, ids=ids)
def test_every_tensor_travels_once(settings: NetworkSettings) -> None:
    module = build(settings, 2, 1, 2)
    state = module.state_dict()
    assert set(exchange(module)) == set(state)  # nothing is left behind, no counter
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    assert {array.dtype for array in exchange(module).values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("settings", ALL, ids=ids)
def test_every_tensor_has_a_role(settings: NetworkSettings) -> None:
    module = build(settings, 2, 1, 2)
    found = roles(module)
    assert list(found) == list(exchange(module))
    assert found["encoder.0.conv1.weight"] == "body"
    assert found["encoder.0.norm1.weight"] == found["encoder.0.norm1.bias"] == "norm.affine"
    assert found["heads.0.bias"] == "head"
    statistics = {name for name, role in found.items() if role == "norm.statistics"}
    assert all(name.endswith(("running_mean", "running_var")) for name in statistics)
    assert bool(statistics) is (settings.norm == "batch")
    assert sum(role == "norm.affine" for role in found.values()) == 2 * sum(
        ".norm" in n and n.endswith("weight") for n in found
    )


def test_arrays_are_copies() -> None:
    module = build(UNet(features=(4, 8)), 2, 1, 2)
    arrays = exchange(module)
    kept = weights_digest(arrays)
    arrays["heads.0.bias"] += 1
    assert weights_digest(exchange(module)) == kept
    load(module, arrays)
    arrays["heads.0.bias"] += 1
    assert weights_digest(exchange(module)) != weights_digest(arrays)


def test_read_only_arrays_load_without_a_warning() -> None:
    module = build(UNet(features=(4, 8)), 2, 1, 2)
    arrays = exchange(module)
    for array in arrays.values():
        array.flags.writeable = False
    load(module, arrays)


def test_all_faults_are_listed_and_nothing_is_changed() -> None:
    module = build(UNet(features=(4, 8)), 2, 1, 2)
    before = weights_digest(exchange(module))
    arrays = {name: array + 1 for name, array in exchange(module).items()}
    del arrays["heads.0.bias"]
    arrays["heads.1.bias"] = np.zeros(2, np.float32)
    arrays["encoder.0.norm1.weight"] = np.zeros(5, np.float32)
    arrays["encoder.0.norm1.bias"] = np.zeros(4, np.float64)
    with pytest.raises(InputError) as caught:
        load(module, arrays)
    assert [(fault.field, fault.message) for fault in caught.value.faults] == [
        ("heads.0.bias", "is missing"),
        ("heads.1.bias", "is not a tensor of this network"),
        ("encoder.0.norm1.weight", "is float32 (5,), expected float32 (4,)"),
        ("encoder.0.norm1.bias", "is float64 (4,), expected float32 (4,)"),
    ]
    assert weights_digest(exchange(module)) == before


def test_another_networks_weights_give_a_bounded_list() -> None:
    module = build(UNet(features=(4, 8)), 2, 1, 2)
    with pytest.raises(InputError, match="and 380 more") as caught:
        load(module, {**exchange(module), **{"x" * 500 + str(i): np.zeros(1, np.float32) for i in range(400)}})
    assert len(str(caught.value)) < 10_000
