from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.core.errors import SiteError
from wardround.data.split import deal, split_cases

SUBJECTS = st.lists(st.text(min_size=1, max_size=6), min_size=3, max_size=40, unique=True)
FOLDS = st.integers(3, 12)


@given(SUBJECTS, FOLDS)
def test_every_subject_is_tested_exactly_once_over_all_folds(subjects: list[str], folds: int) -> None:
    cases = {f"{subject}-{eye}": subject for subject in subjects for eye in "LR"}
    dealt, tested = deal(subjects, "key", folds), []
    for fold in range(folds):
        split = split_cases(cases, dealt, fold)
        parts = [set(split.train), set(split.validation), set(split.test)]
        assert set.union(*parts) == set(cases)
        assert sum(map(len, parts)) == len(cases)
        who = [{cases[case] for case in part} for part in parts]
        assert not (who[0] & who[1])
        assert not (who[0] & who[2])
        assert not (who[1] & who[2])
        assert split.train
        assert split.validation
        tested += split.test
    assert sorted(tested) == sorted(cases)


@given(SUBJECTS, FOLDS, st.randoms())
def test_order_does_not_matter_and_the_key_does(subjects: list[str], folds: int, random) -> None:
    shuffled = list(subjects)
    random.shuffle(shuffled)
    assert deal(subjects, "key", folds) == deal(shuffled, "key", folds)


@given(SUBJECTS, FOLDS, st.text(min_size=7, max_size=9))
def test_newcomers_and_leavers_move_nobody(subjects: list[str], folds: int, newcomer: str) -> None:
    before = deal(subjects, "key", folds)
    after = deal([*subjects[1:], newcomer], "key", folds, before)
    assert {s: f for s, f in after.items() if s != newcomer} == {s: before[s] for s in subjects[1:]}


def test_three_subjects_give_one_each() -> None:
    dealt = deal(["a", "b", "c"], "key", 10)
    split = split_cases({s: s for s in "abc"}, dealt, 0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [1, 1, 1]


def test_fewer_than_three_subjects_are_refused() -> None:
    with pytest.raises(SiteError, match="only 2 usable subjects"):
        split_cases({"a1": "a", "a2": "a", "b": "b"}, deal(["a", "b"], "key", 5), 0)


def test_leavers_that_empty_all_folds_but_two_are_refused_with_what_helps() -> None:
    before = deal(list("abcdef"), "key", 3)
    left = [subject for subject in before if before[subject] != 0]
    with pytest.raises(SiteError, match=r"4 usable subjects that are left lie in 2 of the folds.*split_key"):
        split_cases({s: s for s in left}, deal(left, "key", 3, before), 0)
    split_cases({s: s for s in left}, deal(left, "another", 3), 0)


def test_another_key_deals_otherwise() -> None:
    subjects = [f"s{i}" for i in range(30)]
    assert deal(subjects, "one", 5) != deal(subjects, "two", 5)
