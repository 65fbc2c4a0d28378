"""The numbers of a network counted from its settings are those of the network as built."""

from __future__ import annotations

from typing import Any

import pytest

from wardround.networks.build import build, exchange
from wardround.networks.catalog import AttentionUNet, NetworkSettings, UNet, UNetPlusPlus
from wardround.networks.sizes import tensor_numbers

SETTINGS: list[tuple[dict[str, Any], int]] = [
    ({}, 3),
    ({"features": (4, 6, 9)}, 2),
    ({"features": (4, 8, 8, 12), "norm": "batch", "kernel": 5}, 2),
    ({"features": (8, 16, 16), "norm": "group", "groups": 4, "deep_supervision": True}, 3),
    ({"features": (3, 5, 7), "strides": ((1, 2, 2), (3, 2, 1)), "deep_supervision": False}, 3),
]


@pytest.mark.parametrize("family", [UNet, UNetPlusPlus, AttentionUNet])
@pytest.mark.parametrize(("changes", "dimensions"), SETTINGS)
def test_counted_as_built(family: type[NetworkSettings], changes: dict[str, Any], dimensions: int) -> None:
    settings = family(**changes)
    built = exchange(build(settings, dimensions, channels_in=2, classes=3))
    numbers = tensor_numbers(settings, dimensions, 2, 3)
    assert list(numbers.items()) == [(name, array.size) for name, array in built.items()]
