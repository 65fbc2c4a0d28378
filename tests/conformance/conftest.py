"""One world for each engine, and what the runs in it are held against: runs of the local engine, one site at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from engine_contract import References, World, plan_file, spoiled
from engines import ENGINES, Local
from flare_engine import Flare


def _engine(engine: type[World]) -> Any:
    """One world serves all tests of an engine, also where they are shared out among processes."""
    marks = [pytest.mark.xdist_group(engine.name), *([pytest.mark.engine] if engine.extra else [])]
    return pytest.param(engine, id=engine.name, marks=marks)


@pytest.fixture(scope="module", params=[_engine(engine) for engine in (*ENGINES, Flare)])
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
