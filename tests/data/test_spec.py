"""dataset.yaml and the table from a site's numbers to the plan's classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from wardround.core.documents import parse_document
from wardround.core.errors import InputError
from wardround.data.spec import DatasetSpec, label_table

LABELS = {"anterior": 1, "posterior": 2}


def test_everything_is_optional() -> None:
    assert parse_document("# nothing yet\n", DatasetSpec, "dataset.yaml") == DatasetSpec()


def test_a_full_document() -> None:
    text = """\
modalities: {t1_mprage: T1}
labels: {0: background, 7: anterior, 8: posterior}
subject: '^(chase_[0-9]+)'
synthetic: true
description: retina of children
"""
    spec = parse_document(text, DatasetSpec, "dataset.yaml")
    assert spec.labels == {0: "background", 7: "anterior", 8: "posterior"}
    assert spec.subject_of("chase_01L") == "chase_01"
    assert spec.subject_of("other") is None


@pytest.mark.parametrize("pattern", ["(", "chase", "(a)(b)", "(?P<x", "(" * 150, "a" * 201])
def test_a_bad_rule_for_subjects_is_a_fault(pattern: str) -> None:
    with pytest.raises(InputError, match=r"line 2: subject"):
        parse_document(f"synthetic: false\nsubject: '{pattern}'\n", DatasetSpec, "dataset.yaml")


def test_bids_is_a_rule() -> None:
    assert DatasetSpec(subject="bids").subject_of("sub-01_ses-02") == "sub-01"
    assert DatasetSpec(subject=None).subject_of("sub-01_ses-02") is None


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_rule_is_refused_or_works(pattern: str, case: str) -> None:
    try:
        spec = DatasetSpec(subject=pattern)
    except ValidationError:
        return
    assert spec.subject_of(case) is None or isinstance(spec.subject_of(case), str)


def test_the_plan_s_numbers_by_default() -> None:
    assert label_table(LABELS, DatasetSpec()) == {0: 0, 1: 1, 2: 2}
    assert label_table({"vessel": 255}, DatasetSpec()) == {0: 0, 255: 1}


def test_the_site_s_numbers_instead() -> None:
    spec = DatasetSpec(labels={1: "posterior", 2: "Anterior", 3: "anterior", 9: "background"})
    assert label_table(LABELS, spec) == {0: 0, 1: 2, 2: 1, 3: 1, 9: 0}


def test_labels_that_the_plan_lacks_are_all_named() -> None:
    with pytest.raises(InputError, match="do not fit") as caught:
        label_table(LABELS, DatasetSpec(labels={1: "front", 2: "back", 3: "anterior"}))
    assert [fault.field for fault in caught.value.faults] == ["labels.1", "labels.2"]
