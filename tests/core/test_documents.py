"""A document is a checked value or all of its faults, never anything else."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, field_validator, model_validator

from wardround.core.documents import MAX_BYTES, load_document, parse_document
from wardround.core.errors import InputError
from wardround.core.frozen import Frozen


class Plain(Frozen):
    name: Literal["plain"] = "plain"


class SecureSum(Frozen):
    name: Literal["secure_sum"] = "secure_sum"
    threshold: PositiveInt
    plain: int = 0  # a field called like another member

    @model_validator(mode="after")
    def _odd(self) -> SecureSum:
        if self.threshold == 13:
            raise ValueError("13, of all numbers")
        return self


Slot = Annotated[Plain | SecureSum, Field(discriminator="name")]


class Precision(enum.Enum):
    FULL = "fp32"
    HALF = "bf16"


class Training(Frozen):
    steps: PositiveInt = 1
    rate: float = Field(default=0.01, gt=0)
    precision: Precision = Precision.FULL
    batch: PositiveInt | Literal["auto"] = "auto"


class Doc(Frozen):
    kind: Literal["train", "evaluate"]
    rounds: PositiveInt
    training: Training = Training()
    maybe: Training | None = None
    modalities: tuple[str, ...] = ()
    patch: tuple[int, int] | None = None
    labels: dict[str, int] = Field(default_factory=dict)
    numbers: dict[int, str] = Field(default_factory=dict)
    aggregation: Slot = Plain()
    guards: tuple[Slot, ...] = ()

    @model_validator(mode="after")
    def _sizes(self) -> Doc:
        if self.training.steps == 99:
            raise ValueError("training.steps: 99 is too many here: take fewer")
        return self

    @field_validator("modalities")
    @classmethod
    def _unique(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names a modality twice")
        return value


GOOD = """\
kind: train
rounds: 3
training:
  steps: 5
  rate: 1e-3
modalities: [FLAIR, T1]
patch: [32, 32]
labels: {lesion: 1}
numbers:
  1: anterior
  2: no
aggregation:
  name: secure_sum
  threshold: 2
guards:
  - name: plain
"""


def faults(text: str) -> dict[str, tuple[int | None, str]]:
    with pytest.raises(InputError) as caught:
        parse_document(text, Doc, "plan.yaml")
    return {fault.field: (fault.line, fault.message) for fault in caught.value.faults}


def test_a_good_document() -> None:
    doc = parse_document(GOOD, Doc, "plan.yaml")
    assert doc.training == Training(steps=5, rate=0.001)
    assert doc.patch == (32, 32)
    assert doc.numbers == {1: "anterior", 2: "no"}  # YAML 1.2: no is not False
    assert doc.aggregation == SecureSum(threshold=2)


def test_json_is_a_document(tmp_path: Path) -> None:
    value = {"kind": "train", "rounds": 3, "modalities": ["\U0001f600 \t/"], "labels": {"a:b": 1}}
    for text in (json.dumps(value), json.dumps(value, indent="\t"), json.dumps(value, ensure_ascii=False)):
        path = tmp_path / "plan.json"
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        doc = load_document(path, Doc)
        assert doc.modalities == ("\U0001f600 \t/",)
        assert doc.labels == {"a:b": 1}


def test_all_faults_at_once_with_their_lines() -> None:
    found = faults(
        """\
kind: trian
training:
  stepps: 5
  rate: -1
  precision: fp23
  batch: none
modalities: [1]
patch: [1, x]
labels:
  lesion: one
numbers:
  uno: x
aggregation:
  name: secure_sun
guards:
  - name: plain
  - name: secure_sum
    tresh: 3
  - threshold: 4
"""
    )
    assert found["kind"] == (1, "'trian' is not possible; did you mean 'train'? choose one of: train, evaluate")
    assert found["rounds"] == (1, "is required, but missing")
    line, message = found["training.stepps"]
    assert line == 3
    assert "did you mean 'steps'? choose one of: steps, rate, precision, batch" in message
    assert found["training.rate"] == (4, "should be greater than 0, not -1")
    assert found["training.precision"][0] == 5
    assert "did you mean 'fp32'?" in found["training.precision"][1]
    assert found["training.batch"][0] == 6
    assert "valid integer" in found["training.batch"][1]
    assert "auto" in found["training.batch"][1]
    assert found["modalities[0]"] == (7, "should be text, not 1; put it in quotes")
    assert found["patch[1]"][0] == 8
    assert found["labels.lesion"][0] == 10
    assert found["numbers.uno"][0] == 12
    assert found["aggregation.name"] == (
        14,
        "'secure_sun' is not known; did you mean 'secure_sum'? choose one of: plain, secure_sum",
    )
    assert found["guards[1].threshold"] == (17, "is required, but missing")
    assert found["guards[1].tresh"][0] == 18
    assert "did you mean 'threshold'" in found["guards[1].tresh"][1]
    assert found["guards[2]"] == (19, "needs a field 'name' that says which kind it is")
    assert len(found) == 14


def test_a_field_named_like_a_union_tag_is_found() -> None:
    found = faults("kind: train\nrounds: 1\naggregation:\n  name: secure_sum\n  threshold: 1\n  plain: x\n")
    assert found == {"aggregation.plain": (6, found["aggregation.plain"][1])}
    found = faults("kind: train\nrounds: 1\naggregation:\n  name: secure_sum\n  threshold: 13\n")
    assert found == {"aggregation": (3, "13, of all numbers")}


def test_validators_speak_plainly() -> None:
    assert faults("kind: train\nrounds: 1\nmodalities: [a, a]") == {"modalities": (3, "names a modality twice")}
    text = "kind: train\nrounds: 1\ntraining:\n  steps: 99\n"
    assert faults(text) == {"training.steps": (4, "99 is too many here: take fewer")}


@pytest.mark.parametrize(
    ("text", "word", "line"),
    [
        ("kind: train\nkind: train\nrounds: 1", "given twice (first in line 1)", 2),
        ("kind: &a train\nrounds: 1", "anchors", 1),
        ("kind: train\nrounds: *a", "anchors", 2),
        ("kind: !!python/object:os.system train", "tags", 1),
        ("kind: !!binary aGk=", "tags", 1),
        ("kind: train\n? [a]\n: 1\nrounds: 1", "name of a field", 2),
        ("kind: train\n  rounds: 1", "not valid YAML", 2),
        ("kind: [train\n", "not valid YAML", 2),
        ("a: 1\n---\nb: 2", "not valid YAML", 2),
        ("kind: train\nrounds: \x00", "character", 2),
        ('kind: "\\uD800"', "surrogate", 1),
        ('kind: "\\UFFFFFFFF"', "not valid YAML", None),
        ("[" * 200, "nested deeper", 1),
        ("just text", "mapping of fields", 1),
        ("- a", "mapping of fields", 1),
        ("rounds: .nan\nkind: train", "rounds", 1),
        ("", "required", None),
    ],
)
def test_hostile_or_broken_text(text: str, word: str, line: int | None) -> None:
    with pytest.raises(InputError, match="is not valid") as caught:
        parse_document(text, Doc, "plan.yaml")
    assert word in str(caught.value)
    assert caught.value.faults[0].line == line


def test_sizes_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="larger than 1 MiB"):
        parse_document("#" * (MAX_BYTES + 1), Doc, "x")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"\xff" * (MAX_BYTES + 1))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        load_document(big, Doc)
    with pytest.raises(InputError, match="and 900 more"):
        parse_document("kind: train\nrounds: 1\nlabels: {" + ",".join(f"a{i}: x" for i in range(1000)) + "}", Doc, "x")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        load_document(tmp_path / "absent.yaml", Doc)
    with pytest.raises(InputError, match="cannot be read"):
        load_document(tmp_path, Doc)
    path = tmp_path / "latin.yaml"
    path.write_bytes("kind: train\nrounds: é".encode("latin-1"))
    with pytest.raises(InputError, match="line 2: the text is not UTF-8"):
        load_document(path, Doc)


def value_or_input_error(text: str) -> None:
    try:
        doc = parse_document(text, Doc, "x")
    except InputError as caught:
        error: InputError | None = caught
    else:
        error = None
        assert isinstance(doc, Doc)
    assert error is None or (error.faults and all(fault.message for fault in error.faults))


@given(st.text(alphabet=st.sampled_from(list("kind:train \n-[]{},&*!'\"#|>%?@\\\t\ud8001.e~"))))
@example('"\\x')
@example("%YAML 9.9\n---\n")
def test_any_text_is_a_value_or_an_input_error(text: str) -> None:
    value_or_input_error(text)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["plain", "secure_sum"])
)
keys = st.sampled_from([*Doc.model_fields, *Training.model_fields, *SecureSum.model_fields, "1"]) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=12
)


@given(st.dictionaries(keys, values, max_size=8))
def test_any_data_is_a_value_or_an_input_error(value: dict[str, object]) -> None:
    value_or_input_error(yaml.safe_dump(value, allow_unicode=True))
    value_or_input_error(json.dumps({"kind": "train", "rounds": 1, **value}))
