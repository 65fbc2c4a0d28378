"""What a site's audit log says about one run: who decided, what was answered, and all that left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wardround.core.audit import read_entries
from wardround.faces.report.history import number

WORDS = {
    "consent": "how this site stands to the plan, with the reason as it was written",
    "moved": "signs that a task goes on: what it does, how far it is",
    "failure": "that a task was not done, and why, in the software’s own words",
    "reply describe": "the description of the data in sums",
    "reply init": "how many numbers the new network has",
    "reply train": "numbers of training cases and steps, mean loss, learning rate, timings",
    "reply validate": "scores on the validation cases, in sums",
    "reply share": "how many of the tensors that stayed here while it trained were sent",
    "reply finetune": "whether fine-tuning was kept, and the validation Dice before and after it",
    "reply test": "scores on the test cases, in sums",
    "tensors init": "first weights, drawn at random before any image was seen",
    "tensors train": "the trained weights",
    "tensors share": "the tensors that stayed here while it trained, for sites that did not take part",
}


@dataclass(frozen=True)
class Left:
    """All of one kind that left in a run."""

    kind: str
    words: str
    times: int
    size: int  # bytes


@dataclass(frozen=True)
class Decision:
    """What a person decided about the plan."""

    standing: str
    person: str
    reason: str
    time: datetime | None


@dataclass(frozen=True)
class OwnLog:
    """The log's part about one run, in its order."""

    left: tuple[Left, ...] = ()
    decisions: tuple[Decision, ...] = ()
    trained: tuple[int, ...] = ()  # rounds, counted from 1, whose training left this site
    missed: tuple[tuple[int, str], ...] = ()  # rounds and why

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(part.size for part in self.left)


def read_log(path: Path, digest: str) -> OwnLog:
    """The entries that name the plan; what never names one (polls, heads) belongs to no run."""
    return summarise(entry for entry in read_entries(path) if entry.get("plan") == digest)


def summarise(entries: Iterable[Mapping[str, Any]]) -> OwnLog:
    """Entries of one run, put together."""
    left: dict[str, list[int]] = {}  # kind -> messages, bytes
    decisions, trained, missed = list[Decision](), set[int](), dict[int, str]()
    for entry in entries:
        event, (number_, verb) = str(entry.get("event")), _task(entry)
        if event in ("left", "not_sent"):
            _count(left.setdefault(_kind(entry, verb), [0, 0]), entry)
        elif event in ("approved", "refused", "revoked"):
            decisions.append(_decision(event, entry))
        elif event == "answered" and verb == "train":
            trained.add(number_)
        elif event == "failed" and verb == "train":
            missed[number_] = str(entry.get("reason", ""))
    kinds = [Left(kind, WORDS.get(kind, ""), times, size) for kind, (times, size) in left.items() if size > 0]
    return OwnLog(
        tuple(sorted(kinds, key=lambda kind: -kind.size)),
        tuple(decisions),
        tuple(sorted(trained)),
        tuple((n, why) for n, why in sorted(missed.items()) if n not in trained),
    )


def _task(entry: Mapping[str, Any]) -> tuple[int, str]:
    """Round, counted from 1, and verb of the task that an entry is about; 0 and nothing where there is none."""
    words = str(entry.get("task", "")).split(":")
    return (int(words[1]) + 1, words[2]) if len(words) == 4 and words[1].isdigit() else (0, "")


def _kind(entry: Mapping[str, Any], verb: str) -> str:
    kind = str(entry.get("kind", ""))
    return f"{kind} {verb}" if kind in ("reply", "tensors") and verb else kind


def _count(sums: list[int], entry: Mapping[str, Any]) -> None:
    """Add what left; announced bytes that were not sent after all are taken away again."""
    size = int(number(entry.get("bytes")) or 0)
    if entry.get("event") == "not_sent":
        sums[1] -= size
        return
    sums[0] += 0 if entry.get("again") is True else int(number(entry.get("messages")) or 1)
    sums[1] += size


def _decision(event: str, entry: Mapping[str, Any]) -> Decision:
    try:
        time = datetime.fromisoformat(str(entry.get("time")))
    except ValueError:
        time = None
    return Decision(event, str(entry.get("person", "")), str(entry.get("reason", "")), time)
