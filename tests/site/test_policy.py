"""A hospital's policy: read with all its faults, judged as a pure function."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tiny import make_plan
from wardround.core.documents import parse_document
from wardround.core.errors import InputError
from wardround.core.messages import InitFacts, Reply, Task, TrainFacts
from wardround.site.hours import DAYS, parse_window
from wardround.site.policy import Policy, SiteFacts, default_policy, load_policy

NOON = datetime(2025, 3, 5, 12, 0)
PLAN = make_plan()
DIGEST = PLAN.digest()


def policy(**changes: Any) -> Policy:
    return Policy(wardround=1, **changes)


def task(verb: str = "train", number: int = 0) -> Task:
    return Task(plan=DIGEST, round=number, verb=verb)  # type: ignore[arg-type]


def rules(found: Policy, asked: Task | None = None, facts: SiteFacts | None = None, now: datetime = NOON) -> list[str]:
    return [objection.rule for objection in found.judge(PLAN, asked, facts or SiteFacts(), now)]


def test_the_default_file_is_valid_says_every_field_and_allows_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(default_policy())
    loaded = load_policy(path)
    assert loaded == policy()
    assert set(yaml.safe_load(default_policy())) == set(Policy.model_fields)
    assert rules(loaded, task(), SiteFacts(2, 10**6)) == []


def test_every_fault_is_listed_with_its_line() -> None:
    text = (
        "wardround: 1\ntasks: [train, dance]\nmost_rounds: -1\nquiet_hours: ['25:00-26:00']\n"
        "most_bytes_a_round: much\ncolour: red\n"
    )
    with pytest.raises(InputError) as caught:
        parse_document(text, Policy, "policy.yaml")
    assert [fault.line for fault in caught.value.faults] == [2, 3, 4, 5, 6]
    assert "22:00-06:00" in str(caught.value)


def test_a_missing_file_allows_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_policy(tmp_path / "policy.yaml")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1 GB", 10**9), ("1.5MB", 1_500_000), ("12 kB", 12_000), ("7 B", 7), (5, 5), ("2 TB", 2 * 10**12)],
)
def test_sizes(text: object, size: int) -> None:
    assert policy(most_bytes_a_round=text).most_bytes_a_round == size


@pytest.mark.parametrize("text", ["", "MB", "-1 MB", "1 mb", "1e3 MB", "1 GB more", True and "inf GB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size such as"):
        policy(most_bytes_a_round=text)


def test_what_it_objects_to() -> None:
    assert rules(policy(tasks=["describe"]), task()) == ["tasks"]
    assert rules(policy(tasks=["describe"])) == [], "the plan as such may be approved; its tasks are refused one by one"
    assert rules(policy(most_rounds=1)) == ["most_rounds"]
    assert rules(policy(), task(number=501)) == ["most_rounds"]
    assert rules(policy(weights_without_secure_aggregation=False)) == ["weights_without_secure_aggregation"]
    assert rules(policy(), None, SiteFacts(1, 0)) == ["minimum_training_cases"]
    assert rules(policy(most_bytes_a_round="1 kB"), None, SiteFacts(9, 1001)) == ["most_bytes_a_round"]
    both = policy(most_rounds=1, quiet_hours=["00:00-24:00"])
    assert rules(both, task()) == ["most_rounds", "quiet_hours"], "all at once"
    assert rules(both) == ["most_rounds"], "hours are of tasks, not of plans"


def test_an_answer_is_judged_by_what_it_is() -> None:
    def reply(cases: int, size: int) -> Reply:
        facts = TrainFacts(cases=cases, updates=1, samples=1, loss=0, rate=0)
        return Reply(task=task().id, site="A", facts=facts, size=size)

    allowed = policy(minimum_training_cases=3, most_bytes_a_round=1000)
    assert allowed.judge_reply(reply(3, 1000)) == []
    assert [objection.rule for objection in allowed.judge_reply(reply(2, 1001))] == [
        "minimum_training_cases",
        "most_bytes_a_round",
    ]
    first = Reply(task=task("init").id, site="A", facts=InitFacts(parameters=5), size=500)
    assert allowed.judge_reply(first) == []


def test_limits_of_the_machine() -> None:
    assert policy().limited(8, "auto") == (8, "auto", 1)
    assert policy(threads=2, gpu=False).limited(8, "auto") == (2, "cpu", 1)
    assert policy(threads=16).limited(8, "cuda") == (8, "cuda", 1)
    assert policy(threads=16).limited(8, "cuda", 4) == (8, "cuda", 2)
    assert policy().limited(8, "cuda", 4) == (8, "cuda", 4)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-06:00", ["Wed 22:00", "Wed 23:59", "Thu 00:00", "Thu 05:59"], ["Wed 21:59", "Thu 06:00"]),
        ("Mon-Fri 07:00-19:00", ["Mon 07:00", "Fri 18:59"], ["Sat 08:00", "Sun 12:00", "Mon 06:59", "Fri 19:00"]),
        ("Sat 20:00-04:00", ["Sat 20:00", "Sun 03:59"], ["Sat 03:00", "Sun 20:00", "Fri 21:00"]),
        ("Sat-Mon 00:00-24:00", ["Sat 00:00", "Sun 12:00", "Mon 23:59"], ["Tue 00:00", "Fri 23:59"]),
        ("Sun 23:00-24:00", ["Sun 23:30"], ["Mon 00:00", "Sun 22:59"]),
    ],
)
def test_hours(text: str, inside: list[str], outside: list[str]) -> None:
    window = parse_window(text)
    assert all(window.holds(moment(one)) for one in inside)
    assert not any(window.holds(moment(one)) for one in outside)


def moment(text: str) -> datetime:
    day, time = text.split()
    return datetime.fromisoformat(f"2025-03-{3 + DAYS.index(day):02d}T{time}")


def test_quiet_hours_say_until_when() -> None:
    night = policy(quiet_hours=["22:00-06:00"])
    assert rules(night, task()) == []
    (objection,) = night.judge(PLAN, task(), SiteFacts(), moment("Wed 23:10"))
    assert objection.until == moment("Thu 06:00")
    weekend = policy(open_hours=["Sat-Sun 00:00-24:00"], quiet_hours=["Sat 00:00-08:00"])
    (objection,) = weekend.judge(PLAN, task(), SiteFacts(), NOON)
    assert (objection.rule, objection.until) == ("open_hours", moment("Sat 08:00"))
    (never,) = policy(quiet_hours=["00:00-24:00"]).judge(PLAN, task(), SiteFacts(), NOON)
    assert never.until is None
    assert "at no time" in never.text


@pytest.mark.parametrize(
    "text", ["22-06", "22:00-22:00", "24:00-06:00", "22:00-24:01", "Fri 9:00-10:00", "mon 08:00-09:00", ""]
)
def test_no_hours(text: str) -> None:
    with pytest.raises(ValueError, match=r"hours such as|same time|ends at 24:00"):
        parse_window(text)


@given(text=st.text(max_size=40) | st.from_regex(r"(Mon|Sun)?-?(Fri)? ?\d\d:\d\d-\d\d:\d\d", fullmatch=True))
def test_any_text_is_hours_or_a_plain_refusal(text: str) -> None:
    try:
        window = parse_window(text)
    except ValueError:
        return
    minutes = [NOON + timedelta(minutes=step) for step in range(0, 7 * 24 * 60, 15)]
    held = sum(window.holds(one) for one in minutes)
    assert held <= len(minutes)


@given(text=st.text(max_size=300))
def test_any_text_is_a_policy_or_a_plain_refusal(text: str) -> None:
    for document in (text, f"wardround: 1\n{text}"):
        try:
            parse_document(document, Policy, "policy.yaml")
        except InputError:
            continue
