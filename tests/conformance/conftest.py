"""One world for each engine, and what the runs in it are held against: runs of the local engine, one site at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import ENGINES, Local, World, spoiled

from tiny import plan_dict, write_plan


class References(NamedTuple):
    """Run directories."""

    whole: Path
    without_c: Path  # C has no image that can be read


@pytest.fixture(scope="module", params=[
    pytest.param(engine, id=engine.name, marks=[pytest.mark.engine] if engine.extra else []) for engine in ENGINES
])  # fmt: skip
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with request.param(tmp_path_factory.mktemp(request.param.name)) as made:
        yield made


@pytest.fixture(scope="session")
def references(tmp_path_factory: pytest.TempPathFactory) -> References:
    with Local(tmp_path_factory.mktemp("reference"), workers=1) as local:
        whole = local.start(plan_file(local.root, "whole"))
        local.wait(whole)
        with spoiled(local.data("C")):
            without_c = local.start(plan_file(local.root, "without-c", quorum=2))
            local.wait(without_c)
        return References(whole, without_c)


def plan_file(root: Path, name: str, quorum: int = 3) -> Path:
    """The plan of all tests; the name makes it another one, and changes nothing that is computed."""
    training = {**plan_dict()["training"], "steps": 20}
    rounds = {"limit": 3, "quorum": quorum, "stall": 600}
    return write_plan(root / f"{name}.yaml", study={"title": name}, training=training, rounds=rounds)
