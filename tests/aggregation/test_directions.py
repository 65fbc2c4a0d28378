"""Whose update points against the others': by hand, and what it must not depend on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from made import exchange, model, save

from wardround.aggregation import directions
from wardround.aggregation.catalog import AGGREGATIONS
from wardround.aggregation.checked import Checked
from wardround.aggregation.contributions import Group, opened
from wardround.aggregation.directions import cosines
from wardround.core.contracts import Aggregate
from wardround.core.weights import Parts

SENT = [10.0, 20.0]


def found(folder: Path, updates: Mapping[str, list[float]], sent: list[float] | None = None) -> Mapping[str, float]:
    start = np.array(sent or SENT)
    sites: dict[str, Parts] = {site: model(start + update) for site, update in updates.items()}
    with ExitStack() as stack:
        members = [opened(stack, site, save(folder / f"{site}.safetensors", parts)) for site, parts in sites.items()]
        return dict(cosines(Group(members, opened(stack, "", save(folder / "sent.safetensors", model(start))))))


def test_by_hand(tmp_path: Path) -> None:
    # Directions: A (1, 0), B (0, 1), C (1, 0), D (-1, 0). The others of A add up to (0, 1), as do those of C; those of
    # B to (1, 0); those of D to (2, 1), of length sqrt 5.
    seen = found(tmp_path, {"A": [2, 0], "B": [0, 3], "C": [0.5, 0], "D": [-8, 0]})
    assert seen == pytest.approx({"A": 0, "B": 0, "C": 0, "D": -2 / math.sqrt(5)}, abs=1e-5)


def test_lengths_and_order_do_not_matter(tmp_path: Path) -> None:
    updates = {"A": [2.0, 1.0], "B": [1.0, 1.0], "C": [1.0, 2.0], "D": [-1.0, -1.5]}
    seen = found(tmp_path, updates)
    longer = {site: [5 * x for x in update] if site == "B" else update for site, update in updates.items()}
    assert found(tmp_path, longer) == pytest.approx(seen, abs=1e-5)
    assert found(tmp_path, dict(reversed(updates.items()))) == pytest.approx(seen, abs=1e-5)
    assert [site for site, value in seen.items() if value < directions.CONTRARY] == ["D"]


def test_of_two_nobody_is_the_odd_one_and_who_did_not_move_is_not_asked(tmp_path: Path) -> None:
    assert found(tmp_path, {"A": [1, 0], "B": [-1, 0], "C": [0, 0]}) == {}


def test_others_that_cancel_out_tell_nothing(tmp_path: Path) -> None:
    assert found(tmp_path, {"A": [1, 0], "B": [1, 0], "C": [-1, 0]})["A"] == 0


def test_a_sample_of_a_large_model_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "SAMPLE", 2000)
    monkeypatch.setattr(directions, "BLOCK", 64)
    random = np.random.default_rng(0)
    common = random.normal(size=50_000)
    updates = {name: list(common + random.normal(size=50_000)) for name in "ABC"}
    seen = found(tmp_path, {**updates, "D": list(-common)}, [0.0] * 50_000)
    assert [site for site, value in seen.items() if value < directions.CONTRARY] == ["D"]


@pytest.mark.parametrize("rule", [pytest.param(member(), id=member().name) for member in AGGREGATIONS])
def test_every_rule_tells_and_folds_as_before(rule: Checked, tmp_path: Path) -> None:
    sites = {"A": model([2.0, 2.0]), "B": model([2.0, 1.5]), "C": model([1.5, 2.0]), "D": model([0.2, 0.2])}
    result = exchange(rule, tmp_path, sites, model([1.0, 1.0]))
    assert isinstance(result, Aggregate)
    assert [(alert.site, alert.kind, alert.limit) for alert in result.alerts] == [("D", "contrary", -0.1)]
