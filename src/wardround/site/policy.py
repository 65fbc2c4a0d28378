"""``policy.yaml``: what a hospital allows whatever is approved. Judged before approval and again at every task."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from wardround.core.documents import load_document
from wardround.core.errors import InputError
from wardround.core.frozen import Frozen
from wardround.core.messages import Reply, Task, TrainFacts, Verb
from wardround.planning.plan import Plan
from wardround.site.hours import Hours, next_moment, parse_window

UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
LEAST_MODEL = 1000  # bytes: no network has as few
_SIZE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(B|kB|MB|GB|TB)")

DEFAULT = """\
# What this hospital allows, whatever anybody approves. Read again before every task: a change
# holds at once, without a restart. Check it with `wardround site policy`.
wardround: 1 # format of this file

# What may be asked: describe (numbers of cases, image sizes and the like, in sums), init (first weights,
# drawn at random), train, validate, and after the last round share (tensors that stayed here until then, for
# their mean, in plans that say so), finetune (train the model on for this hospital alone), test. What is not
# listed is refused.
tasks: [describe, init, train, validate, share, finetune, test]

# Refuse to train on fewer cases than this. With one case the weights would be those of one patient.
minimum_training_cases: 2

# Refuse plans with more rounds than this.
most_rounds: 500

# May trained weights leave so that the coordinator sees this hospital's by themselves? Weights are not
# images, but a model can keep traces of what it was trained on. Today every plan works this way, so
# `false` refuses all training. It is `true` because nothing runs before a person here has approved
# that very plan, on a page that says so.
weights_without_secure_aggregation: true

# Local time. In quiet hours no task begins (one that runs is finished); with open_hours, tasks begin in
# those hours only. Write '22:00-06:00' or 'Mon-Fri 07:00-19:00'.
quiet_hours: []
open_hours: []

# What of this computer a task may use. threads: null leaves it to `wardround site join --threads`.
threads: null
gpu: true

# The most that may leave in one round.
most_bytes_a_round: 1 GB

# When the dataset changed since approval (a mask corrected, a patient withdrawn), ask again before
# going on. `false` goes on and writes the change into the log.
confirm_dataset_changes: true
"""


def _bytes(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.fullmatch(value)
        if match is None:
            raise ValueError(f"should be a size such as '500 MB' (units {', '.join(UNITS)})")
        return int(float(match[1]) * UNITS[match[2]])
    return value


Size = Annotated[int, BeforeValidator(_bytes), Field(ge=0, le=10**15)]


@dataclass(frozen=True)
class Objection:
    """Why the policy does not allow something. ``rule`` may leave the site; ``text`` stays."""

    rule: str
    text: str
    until: datetime | None = None  # when it passes by itself

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@dataclass(frozen=True)
class SiteFacts:
    """What of the site a policy is held against, as far as it is known."""

    training_cases: int | None = None
    bytes_a_round: int | None = None


class Policy(Frozen):
    """See `DEFAULT`, which explains every field."""

    wardround: Literal[1] = Field(description="format of this file")
    tasks: tuple[Verb, ...] = get_args(Verb)
    minimum_training_cases: int = Field(default=2, ge=1, le=10**6)
    most_rounds: int = Field(default=500, ge=0, le=10**6)
    weights_without_secure_aggregation: bool = True
    quiet_hours: Annotated[tuple[Hours, ...], Field(max_length=50)] = ()
    open_hours: Annotated[tuple[Hours, ...], Field(max_length=50)] = ()
    threads: int | None = Field(default=None, ge=1, le=1024)
    gpu: bool = True
    most_bytes_a_round: Size = 10**9
    confirm_dataset_changes: bool = True

    def judge(self, plan: Plan, task: Task | None, facts: SiteFacts, now: datetime) -> list[Objection]:
        """What speaks against a task, or (``task`` None) against the plan as such; empty: nothing.

        Args:
            plan: what is to be approved or was.
            task: the task; hours count only for tasks.
            facts: what the site knows of itself; what is None is judged when it is known, see `judge_reply`.
            now: local time.
        """
        found = [*self._plan(plan), *self._trains(plan, facts)]
        if task is None:
            return found
        if task.verb not in self.tasks:
            found.append(Objection("tasks", f"{task.verb} is not among {', '.join(self.tasks) or 'none'}"))
        if task.round > self.most_rounds:
            found.append(Objection("most_rounds", f"round {task.round} is beyond {self.most_rounds}"))
        return [*found, *self._hours(now)]

    def forbids_all(self, now: datetime) -> list[Objection]:
        """What refuses every training, whatever the plan; empty: some plan could run, now or at another hour.

        Args:
            now: local time.
        """
        found = []
        if "train" not in self.tasks:
            found.append(Objection("tasks", f"train is not among {', '.join(self.tasks) or 'none'}"))
        if self.most_rounds == 0:
            found.append(Objection("most_rounds", "a plan has at least one round, allowed are 0"))
        if not self.weights_without_secure_aggregation:
            found.append(Objection("weights_without_secure_aggregation", "there is no secure aggregation yet"))
        if self.most_bytes_a_round < LEAST_MODEL:
            text = f"allowed are {self.most_bytes_a_round} bytes, and no model is as small"
            found.append(Objection("most_bytes_a_round", text))
        return [*found, *(objection for objection in self._hours(now) if objection.until is None)]

    def judge_reply(self, reply: Reply) -> list[Objection]:
        """What speaks against sending an answer, now that its exact size and number of cases are known."""
        found = []
        if isinstance(reply.facts, TrainFacts):
            found += self._cases(reply.facts.cases)
        return [*found, *self._size(reply.size)]

    def limited(self, threads: int, device: str, processes: int = 1) -> tuple[int, str, int]:
        """How many threads a process, which device and how many processes of those that the site would use."""
        most = self.threads or threads * processes
        threads = min(threads, most)
        return threads, device if self.gpu else "cpu", max(1, min(processes, most // threads))

    def _plan(self, plan: Plan) -> list[Objection]:
        found = []
        if plan.rounds.limit > self.most_rounds:
            found.append(
                Objection(
                    "most_rounds", f"the plan has up to {plan.rounds.limit} rounds, allowed are {self.most_rounds}"
                )
            )
        if in_the_clear(plan) and not self.weights_without_secure_aggregation:
            found.append(
                Objection(
                    "weights_without_secure_aggregation",
                    f"with aggregation {plan.aggregation.name} the coordinator sees this site's weights by themselves",
                )
            )
        return found

    def _trains(self, plan: Plan, facts: SiteFacts) -> list[Objection]:
        found = self._cases(facts.training_cases) if plan.kind == "train" and facts.training_cases is not None else []
        return found + (self._size(facts.bytes_a_round) if facts.bytes_a_round is not None else [])

    def _cases(self, cases: int) -> list[Objection]:
        if cases >= self.minimum_training_cases:
            return []
        text = f"{cases} training case{'' if cases == 1 else 's'}, at least {self.minimum_training_cases} are asked for"
        return [Objection("minimum_training_cases", text)]

    def _size(self, size: int) -> list[Objection]:
        if size <= self.most_bytes_a_round:
            return []
        text = f"{size / 1e6:.1f} MB would leave in a round, allowed are {self.most_bytes_a_round / 1e6:.1f} MB"
        return [Objection("most_bytes_a_round", text)]

    def _hours(self, now: datetime) -> list[Objection]:
        quiet = [parse_window(text) for text in self.quiet_hours]
        opened = [parse_window(text) for text in self.open_hours]

        def free(moment: datetime) -> bool:
            closed = any(window.holds(moment) for window in quiet)
            return not closed and (not opened or any(window.holds(moment) for window in opened))

        if free(now):
            return []
        rule = "quiet_hours" if any(window.holds(now) for window in quiet) else "open_hours"
        until = next_moment(now, free)
        when = f"until {until:%a %H:%M}" if until else "at no time of the week is a task allowed"
        return [Objection(rule, f"no task begins at {now:%a %H:%M}: {when}", until)]


def in_the_clear(plan: Plan) -> bool:
    """Whether the coordinator sees each site's contribution by itself."""
    return not getattr(plan.aggregation, "secure", False)


def load_policy(path: Path) -> Policy:
    """Read a policy. Raises InputError with every fault and its line; a missing file is one too: nothing is assumed."""
    if not path.is_file():
        raise InputError(f"{path} does not exist: write it anew with `wardround site policy --write`")
    return load_document(path, Policy)


def default_policy() -> str:
    """The text of a new policy file, with comments and safe values."""
    return DEFAULT
