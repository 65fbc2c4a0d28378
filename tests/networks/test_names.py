"""Names and roles from the settings alone are those of the module, for every family and setting."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from wardround.networks.build import build, exchange, roles
from wardround.networks.catalog import AttentionUNet, NetworkSettings, UNet, UNetPlusPlus
from wardround.networks.names import tensor_roles

ALL: list[NetworkSettings] = [
    family(features=features, norm=norm, deep_supervision=deep)
    for family, norm, deep, features in product(
        (UNet, UNetPlusPlus, AttentionUNet), ("instance", "group", "batch"), (False, True), ((8, 8, 16), (8,) * 5)
    )
] + [UNet(features=(4, 8)), UNetPlusPlus(features=(4, 8), dropout=0.2)]


@pytest.mark.parametrize("settings", ALL, ids=lambda s: f"{s.name}-{s.norm}-{s.deep_supervision}-{s.levels}")
def test_names_roles_and_order_are_the_modules(settings: NetworkSettings) -> None:
    module = build(settings, 2, 1, 2)
    assert list(tensor_roles(settings).items()) == list(roles(module).items())
    assert list(tensor_roles(settings)) == list(exchange(module))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_dimensions_change_no_name(dimensions: int) -> None:
    assert list(tensor_roles(AttentionUNet())) == list(exchange(build(AttentionUNet(), dimensions, 3, 4)))


def test_no_torch_is_needed() -> None:
    code = (
        "import sys; from wardround.networks.catalog import UNet; from wardround.networks.names import tensor_roles; "
        "tensor_roles(UNet()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
