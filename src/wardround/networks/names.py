"""The names of a network's tensors and what each is for, from its settings alone: no torch.

So a plan that names tensors is checked on a machine that cannot build the network. That the names are
those of the module (see `build.roles`) is a law in the tests, over every family and setting.
"""

from __future__ import annotations

from collections.abc import Iterator

from wardround.networks.catalog import AttentionUNet, Network, UNet, UNetPlusPlus

AFFINE, STATISTICS, HEAD, BODY = "norm.affine", "norm.statistics", "head", "body"
Names = Iterator[tuple[str, str]]


def tensor_roles(settings: Network) -> dict[str, str]:
    """Role of each tensor by name, in the module's order.

    ``norm.affine`` (scale and shift of a normalisation), ``norm.statistics`` (running mean and variance
    of batch norm), ``head`` (the last convolutions) or ``body``.
    """
    return dict(_all(settings))


def _all(settings: Network) -> Names:
    depth = settings.levels - 1
    for level in range(settings.levels):
        yield from _block(settings, f"encoder.{level}")
    for head in range(depth if settings.deep_supervision else 1):
        yield from _layer(f"heads.{head}", HEAD)
    if isinstance(settings, UNetPlusPlus):
        for j in range(1, depth + 1):
            for i in range(depth - j + 1):
                yield from _up(settings, f"nodes.{i}_{j}")
    elif isinstance(settings, UNet | AttentionUNet):
        for level in range(depth):
            yield from _up(settings, f"decoder.{level}")
    if isinstance(settings, AttentionUNet):
        for gate in range(depth - 1):
            yield f"gates.{gate}.skip.weight", BODY
            yield from _layer(f"gates.{gate}.signal", BODY)
            yield from _layer(f"gates.{gate}.psi", BODY)


def _up(settings: Network, name: str) -> Names:
    yield from _layer(f"{name}.up", BODY)
    yield from _block(settings, f"{name}.block")


def _block(settings: Network, name: str) -> Names:
    for number in (1, 2):
        yield f"{name}.conv{number}.weight", BODY
        yield from _layer(f"{name}.norm{number}", AFFINE)
        if settings.norm == "batch":
            yield f"{name}.norm{number}.running_mean", STATISTICS
            yield f"{name}.norm{number}.running_var", STATISTICS


def _layer(name: str, role: str) -> Names:
    yield f"{name}.weight", role
    yield f"{name}.bias", role
