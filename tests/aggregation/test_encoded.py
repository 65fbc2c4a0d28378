"""Encoded contributions: every rule folds them as it folds what they stand for, and none of them is trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made import TASK, save

from wardround.aggregation import contributions
from wardround.aggregation.catalog import AGGREGATIONS
from wardround.aggregation.checked import Checked
from wardround.aggregation.fold import fold_files
from wardround.aggregation.plain import Plain
from wardround.core.contracts import Aggregate, Lost
from wardround.core.encoding import Encoding, Kind
from wardround.core.errors import WardRoundError
from wardround.core.messages import Answer, InitFacts, Reply
from wardround.core.parcels import HEADING, SCALE, Packed, pack_as, unpack_decoded
from wardround.core.weights import Part, Parts, write_tensors

RULES = [pytest.param(member(), id=member().name) for member in AGGREGATIONS]
KINDS: list[Kind] = ["fp32", "bf16", "int8"]
SHAPES = {"conv": (40, 37), "bias": (50,)}  # 1480 numbers: the last block of 64 is short


def arrays(seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: (spread * random.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def form(kind: Kind) -> Encoding:
    return Encoding(kind=kind, block=64, updates=True)


def collect(rule: Checked, folder: Path, packed: Mapping[str, Packed], sent: Parts | None) -> Aggregate | Lost:
    """One exchange of tensor files as they are."""
    for site, content in packed.items():
        write_tensors(folder / site, *content)
    answers = [Answer(Reply(task=TASK.id, site=s, facts=InitFacts(parameters=1)), folder / s) for s in packed]
    model = None if sent is None else save(folder / "model", sent)
    return rule.collect(lambda *_: iter(answers), TASK, model, list(packed), 1)


def stood_for(file: Path, sent: Parts) -> dict[str, Part]:
    """The model that an encoded update stands for."""
    parts = unpack_decoded(file)
    own = {name: sent["weights"].arrays[name] + change for name, change in parts["weights"].arrays.items()}
    return {**parts, "weights": Part(own, parts["weights"].weight)}


SENT = {"weights": Part(arrays(0), 1.0)}
UPDATES = {
    site: {"weights": Part(arrays(seed, 0.01), float(seed)), "control": Part({"c": arrays(seed)["conv"]}, 2.0)}
    for seed, site in enumerate("ABCDE", 1)
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("long", [False, True], ids=["honest", "one too long"])
def test_a_rule_folds_what_updates_stand_for(rule: Checked, kind: Kind, long: bool, tmp_path: Path) -> None:
    """The same sites as whole float32 models: equal but for float32's rounding, alerts included."""
    updates = dict(UPDATES)
    if long:
        far = {name: 100 * array for name, array in updates["B"]["weights"].arrays.items()}
        updates["B"] = {**updates["B"], "weights": Part(far, 2.0)}
    found = collect(rule, tmp_path, {site: pack_as(parts, form(kind)) for site, parts in updates.items()}, SENT)
    whole = {site: stood_for(tmp_path / site, SENT) for site in updates}
    plain = tmp_path / "plain"
    plain.mkdir()
    expected = collect(rule, plain, {site: pack_as(parts, Encoding()) for site, parts in whole.items()}, SENT)
    assert isinstance(found, Aggregate)
    assert isinstance(expected, Aggregate)
    assert [(a.site, a.kind) for a in found.alerts] == ([("B", "clipped")] if long else [])
    assert [(a.site, a.kind) for a in expected.alerts] == [(a.site, a.kind) for a in found.alerts]
    for part, content in expected.parts.items():
        assert found.parts[part].weight == content.weight
        for name, array in content.arrays.items():
            np.testing.assert_allclose(found.parts[part].arrays[name], array, rtol=2e-6, atol=2e-6)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=6), st.integers(2, 60), st.integers(64, 100))
@settings(max_examples=40, deadline=None)
def test_the_mean_update_agrees_with_numpy(
    tmp_path_factory: pytest.TempPathFactory, weights: list[int], rows: int, block: int
) -> None:
    """Blocks of the fold that begin and end anywhere within blocks of the encoding."""
    random, folder = np.random.default_rng(rows), tmp_path_factory.mktemp("fold")
    encoding, files = Encoding(kind="int8", block=block, updates=True), []
    for number, weight in enumerate(weights):
        files.append(folder / str(number))
        values = {"w": random.normal(size=(rows, 53)).astype(np.float32)}
        write_tensors(files[-1], *pack_as({"weights": Part(values, weight)}, encoding))
    before = contributions.BLOCK, contributions.RUN
    contributions.BLOCK, contributions.RUN = 37, 3
    try:
        folded = fold_files(files)["weights"].arrays["w"]
    finally:
        contributions.BLOCK, contributions.RUN = before
    sources = [unpack_decoded(file)["weights"].arrays["w"] for file in files]
    np.testing.assert_allclose(folded, np.average(sources, axis=0, weights=weights), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_bits_depend_neither_on_threads_nor_on_arrival(
    rule: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contributions, "BLOCK", 100)
    monkeypatch.setattr(contributions, "RUN", 2)
    packed = {site: pack_as(parts, form("int8")) for site, parts in UPDATES.items()}
    results = []
    for cores in (1, 2, 7):
        monkeypatch.setattr("wardround.aggregation.contributions.os.cpu_count", lambda cores=cores: cores)
        result = collect(rule, tmp_path, packed, SENT)
        assert isinstance(result, Aggregate)
        results.append(result.parts["weights"].arrays["conv"].tobytes())
    assert results[0] == results[1] == results[2]


def test_one_site_alone_adds_its_decoded_update_to_the_model(tmp_path: Path) -> None:
    result = collect(Plain(), tmp_path, {"A": pack_as(UPDATES["A"], form("int8"))}, SENT)
    assert isinstance(result, Aggregate)
    own = stood_for(tmp_path / "A", SENT)["weights"].arrays
    assert {n: a.tobytes() for n, a in result.parts["weights"].arrays.items()} == {
        n: a.tobytes() for n, a in own.items()
    }


def test_who_did_not_move_is_told(tmp_path: Path) -> None:
    """A change of nothing is nothing, in whatever encoding the model itself was sent."""
    still = {"weights": Part({n: 0 * a for n, a in arrays(1).items()}, 1.0)}
    mine = {site: {"weights": parts["weights"]} for site, parts in UPDATES.items()}
    packed = {site: pack_as(parts, form("int8")) for site, parts in {**mine, "E": still}.items()}
    result = collect(Plain(), tmp_path, packed, SENT)
    assert isinstance(result, Aggregate)
    assert [(alert.site, alert.kind) for alert in result.alerts] == [("E", "unmoved")]


def changed(name: str, value: Any) -> Packed:
    packed, metadata = pack_as(UPDATES["A"], form("int8"))
    packed[name] = packed[name].copy()
    packed[name].reshape(-1)[3] = value
    return packed, metadata


def reweighed(weight: str) -> Packed:
    packed, metadata = pack_as(UPDATES["A"], form("int8"))
    return packed, {HEADING: metadata[HEADING].replace('"weights":1.0', f'"weights":{weight}')}


CONV = "weights/conv"
ENCODED, METADATA = pack_as(UPDATES["A"], form("int8"))
BAD: dict[str, tuple[Packed, str]] = {
    "NaN scale": (changed(SCALE + CONV, np.nan), "NaN"),
    "infinite scale": (changed(SCALE + CONV, np.inf), "NaN"),
    "negative scale": (changed(SCALE + CONV, -1e-3), "NaN"),
    "huge scale": (changed(SCALE + CONV, 1e30), "beyond 1e\\+18"),
    "NaN scale in another part": (changed(SCALE + "control/c", np.nan), "NaN"),
    "NaN in a bias": (changed("weights/bias", np.nan), "NaN"),
    "weight 0": (reweighed("0.0"), "weight"),
    "NaN weight": (reweighed("NaN"), "weight"),
    "another encoding": (pack_as(UPDATES["A"], form("bf16")), "encoding"),
    "another block": (pack_as(UPDATES["A"], Encoding(kind="int8", block=128, updates=True)), "encoding"),
    "a model, not an update": (pack_as(UPDATES["A"], Encoding(kind="int8", block=64)), "encoding"),
    "not encoded": (pack_as(UPDATES["A"], Encoding()), "encoding"),
    "another shape": (pack_as({**UPDATES["A"], "weights": Part({"conv": np.ones((37, 40), np.float32)}, 1.0)},
                              form("int8")), "shapes"),
    "a scale too few": (({**ENCODED, SCALE + CONV: ENCODED[SCALE + CONV][:-1]}, METADATA), "readable"),
    "16 bits in int8": (({**ENCODED, CONV: ENCODED[CONV].astype(np.uint16)}, METADATA), "."),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("fault", BAD)
def test_an_unsound_encoded_contribution_is_a_failed_site(rule: Checked, fault: str, tmp_path: Path) -> None:
    bad, words = BAD[fault]
    good = {site: pack_as(parts, form("int8")) for site, parts in UPDATES.items()}
    result = collect(rule, tmp_path, {**good, "X": bad}, SENT)
    assert isinstance(result, Aggregate)
    assert [failure.site for failure in result.failures] == ["X"]
    assert re.search(words, result.failures[0].reason), result.failures[0].reason
    assert [(alert.site, alert.kind) for alert in result.alerts] == [("X", "rejected")]
    without = collect(rule, tmp_path, good, SENT)
    assert isinstance(without, Aggregate)
    for name, array in without.parts["weights"].arrays.items():
        assert result.parts["weights"].arrays[name].tobytes() == array.tobytes()


def test_an_update_of_nothing_that_was_sent_is_refused(tmp_path: Path) -> None:
    result = collect(Plain(), tmp_path, {"A": pack_as(UPDATES["A"], form("int8"))}, None)
    assert isinstance(result, Lost)
    assert "not sent" in result.failures[0].reason


def test_files_of_different_encodings_are_not_folded(tmp_path: Path) -> None:
    for name, kind in (("a", "int8"), ("b", "bf16")):
        write_tensors(tmp_path / name, *pack_as(UPDATES["A"], form(kind)))  # type: ignore[arg-type]
    with pytest.raises(WardRoundError, match="differ in"):
        fold_files([tmp_path / "a", tmp_path / "b"])


@given(st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=120, deadline=None)
def test_any_bytes_are_folded_to_finite_numbers_or_a_failed_site(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "flipped"
    folder.mkdir(exist_ok=True)
    good = {site: pack_as(parts, form("int8")) for site, parts in UPDATES.items()}
    for site, content in good.items():
        if not (folder / site).is_file():
            write_tensors(folder / site, *content)
    data = bytearray((folder / "A").read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    (folder / "X").write_bytes(data)
    names = [*good, "X"]
    answers = [Answer(Reply(task=TASK.id, site=s, facts=InitFacts(parameters=1)), folder / s) for s in names]
    model = folder / "model"
    if not model.is_file():
        save(model, SENT)
    result = Plain().collect(lambda *_: iter(answers), TASK, model, names, 5)
    assert isinstance(result, Aggregate)
    assert {failure.site for failure in result.failures} <= {"X"}
    for part in result.parts.values():
        assert all(np.isfinite(array).all() for array in part.arrays.values())
