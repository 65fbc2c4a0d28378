"""Settings of networks: what is refused, and what they say about sizes, without torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from wardround.networks.catalog import AttentionUNet, Network, NetworkSettings, UNet, UNetPlusPlus

ANY: TypeAdapter[NetworkSettings] = TypeAdapter(NetworkSettings)


@pytest.mark.parametrize("module", ["catalog", "build"])
def test_imports_no_torch(module: str) -> None:
    check = f"import sys, wardround.networks.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("name", ["unet", "unet++", "attention_unet"])
def test_a_plan_names_a_network_and_reads_it_back(name: str) -> None:
    settings = ANY.validate_python({"name": name, "features": [8, 16, 32], "strides": [[1, 2, 2], [2, 2, 2]]})
    assert settings.name == name
    assert ANY.validate_json(settings.canonical()) == settings


def test_deep_supervision_is_the_rule_only_for_unet_plus_plus() -> None:
    assert UNetPlusPlus().deep_supervision
    assert not UNet().deep_supervision
    assert not AttentionUNet().deep_supervision


def test_a_misspelt_name_lists_the_valid_ones() -> None:
    with pytest.raises(ValidationError, match=r"'unet', 'unet\+\+', 'attention_unet'"):
        ANY.validate_python({"name": "unet2"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"features": [16]}, "at least 2 items"),
        ({"features": [8] * 8}, "at most 7 items"),
        ({"features": [0, 8]}, "greater than or equal to 1"),
        ({"features": [8, 2048]}, "less than or equal to 1024"),
        ({"name": "attention_unet", "features": [8, 16]}, "at least 3 items"),
        ({"kernel": 4}, "3, 5 or 7"),
        ({"norm": "group", "features": [12, 24]}, r"multiples of groups \(8\); \[12\] are not"),
        ({"features": [8, 16, 32], "strides": [[2, 2]]}, "3 levels need 2 strides, but 1 given"),
        ({"features": [8, 16, 32], "strides": [[2, 2], [2, 2, 2]]}, "one number per axis"),
        ({"features": [8, 16], "strides": [[2]]}, "one number per axis"),
        ({"features": [8, 16], "strides": [[2, 5]]}, "less than or equal to 4"),
        ({"dropout": 1.0}, "less than 1"),
        ({"depth": 3}, "Extra inputs"),
    ],
)
def test_contradictions_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ANY.validate_python({"name": "unet", **settings})


def test_sizes_per_level_with_uneven_strides() -> None:
    settings = UNet(features=(8, 16, 32), strides=((1, 2, 2), (2, 2, 2)))
    assert settings.divisor(3) == (2, 4, 4)
    assert settings.level_sizes((6, 16, 20)) == [(6, 16, 20), (6, 8, 10), (3, 4, 5)]
    with pytest.raises(ValueError, match="3 axes, but the images have 2"):
        settings.divisor(2)


@given(
    settings=st.builds(Network, features=st.lists(st.just(8), min_size=2, max_size=5).map(tuple)),
    times=st.lists(st.integers(1, 5), min_size=2, max_size=3),
)
def test_every_multiple_of_the_divisor_divides_down_to_it(settings: Network, times: list[int]) -> None:
    divisor = settings.divisor(len(times))
    sizes = settings.level_sizes([d * t for d, t in zip(divisor, times, strict=True)])
    assert len(sizes) == settings.levels
    assert sizes[-1] == tuple(times)


def test_sizes_between_multiples_are_refused() -> None:
    with pytest.raises(ValueError, match="size 40 x 36 must be a multiple of 8 x 8"):
        UNet().level_sizes((40, 36))
    with pytest.raises(ValueError, match="must be a multiple"):
        UNet().level_sizes((0, 8))
    with pytest.raises(ValueError, match="2 or 3 dimensions, not 1"):
        UNet().level_sizes((8,))


def test_a_norm_over_one_value_is_refused() -> None:
    with pytest.raises(ValueError, match="single voxel at level 3"):
        UNet().check((8, 8))
    with pytest.raises(ValueError, match="single voxel at level 3"):
        UNet(norm="group", groups=8, features=(8, 8, 8, 8)).check((8, 8))
    UNet(norm="group", groups=8, features=(8, 8, 8, 16)).check((8, 8))  # two channels share a group
    UNet(norm="batch").check((8, 8))  # the batch shares it
    UNet().check((8, 16))


@pytest.mark.parametrize(
    ("patch", "expected"),
    [((40, 56, 40), False), ((32, 40, 32), False), ((16, 32, 32), True), ((48, 16, 16), False), ((16, 16), False)],
)
def test_depth_two_counts_the_first_axis_of_three(patch: tuple[int, ...], expected: bool) -> None:
    assert UNet().has_depth_two(patch) is expected  # four levels: 40 / 8 = 5, 32 / 8 = 4, 16 / 8 = 2, 48 / 8 = 6


@pytest.mark.parametrize(("kernel", "patch"), [(5, (24, 40, 40)), (5, (40, 40, 24)), (7, (48, 48, 48))])
def test_wider_kernels_need_maps_as_wide(kernel: int, patch: tuple[int, ...]) -> None:
    assert not UNet().has_depth_two(patch)
    assert UNet(kernel=kernel).has_depth_two(patch)  # 24 / 8 = 3 < 5, 48 / 8 = 6 < 7
    assert not UNet(kernel=kernel).has_depth_two((56, 56, 56))  # 56 / 8 = 7
    assert not UNet(kernel=kernel).has_depth_two((16, 16))
