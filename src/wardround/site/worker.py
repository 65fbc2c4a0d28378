"""A site: answers tasks about data that never leaves it, each task once."""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from wardround.core.errors import DatasetError, InputError, SiteError, StorageError, WardRoundError
from wardround.core.messages import Answer, Facts, InitFacts, ScoreFacts, Seconds, SiteFailed, Task
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.core.weights import Array, Part, Parts, all_finite, count, file_digest, pack
from wardround.networks.build import exchange
from wardround.planning.plan import Plan
from wardround.site.answers import Answers
from wardround.site.device import Machine, choose_machine, settle
from wardround.site.hospital import Hospital, Source, open_hospital, summarise
from wardround.site.overlays import OverlayBook
from wardround.site.patches import Batches
from wardround.site.post import carried, leaving, received
from wardround.site.scoring import full_scores, quick_scores
from wardround.site.training import make_network, train

Progress = Callable[[str, int, int], None]
Work = tuple[Facts, Parts | None, dict[str, Array] | None]


@dataclass(frozen=True)
class Setting:
    """Where a site lives on this machine."""

    name: str
    sources: tuple[Source, ...]
    folder: Path  # private: answers, split, overlays, log
    store_root: Path
    threads: int = 1
    device: str = "auto"


class Site:
    """One site's half of every task of one plan."""

    def __init__(self, plan: Plan, setting: Setting, progress: Progress | None = None) -> None:
        self._plan, self._setting = plan, setting
        self._progress = progress or (lambda _what, _done, _total: None)
        setting.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        setting.folder.chmod(0o700)
        self._answers = Answers(setting.folder / "answers", setting.name)

    @cached_property
    def _machine(self) -> Machine:
        settle(self._setting.threads, self._plan.training.deterministic)
        return choose_machine(self._plan, self._setting.device, self._setting.store_root)

    @cached_property
    def _hospital(self) -> Hospital:
        setting, tell = self._setting, self._told("preparing")
        return open_hospital(self._plan, setting.name, setting.sources, setting.store_root, tell)

    def answer(self, task: Task, tensors: Path | None) -> Answer | SiteFailed:
        """Answer a task, or say why not. A task answered before gets the stored answer."""
        lock = os.open(self._setting.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a worker left over from a killed run must end first
            return self._answers.stored(task) or self._work(task, tensors)
        except Exception as error:  # noqa: BLE001 - a failure is a value; what may be told is decided below
            return self._failed(task, error)
        finally:
            os.close(lock)

    def _work(self, task: Task, tensors: Path | None) -> Answer:
        if task.plan != self._plan.digest():
            raise SiteError("the task belongs to another plan")
        sent = self._received(task, tensors)
        work = {
            "describe": self._describe,
            "init": self._init,
            "train": self._train,
            "validate": self._validate,
            "test": self._test,
        }[task.verb]
        facts, parts, kept = work(task, sent)
        for part in (parts or {}).values():
            if not all_finite(part.arrays):
                raise SiteError("the update holds non-finite values and was not sent")
        if parts is None or task.verb != "train":
            return self._answers.commit(task, facts, None if parts is None else pack(parts), kept)
        transfer = self._plan.transfer
        packed, kept = leaving(parts, sent["weights"].arrays, transfer, kept or {})
        return self._answers.commit(task, facts, packed, kept, transfer.zstd or None)

    def _received(self, task: Task, tensors: Path | None) -> dict[str, Part]:
        if task.tensors is None:
            return {}
        if tensors is None or file_digest(tensors) != task.tensors:
            raise SiteError("the model that arrived is not the one that the task names (wrong digest)")
        return received(tensors, self._plan.transfer, self._setting.folder, self._numbers)

    def _numbers(self) -> int:
        return count(exchange(make_network(self._plan, self._machine, None)).values())

    def _describe(self, _task: Task, _sent: dict[str, Part]) -> Work:
        hospital, machine = self._hospital, self._machine
        return summarise(self._plan, hospital, machine.device.type, machine.precision), None, None

    def _init(self, _task: Task, _sent: dict[str, Part]) -> Work:
        weights = exchange(make_network(self._plan, self._machine, None))
        return InitFacts(parameters=count(weights.values())), {"weights": Part(weights, 1.0)}, None

    def _train(self, task: Task, sent: dict[str, Part]) -> Work:
        machine = self._machine
        batches = Batches(self._hospital.part("train"), self._plan.training, self._plan.seed, self._setting.name)
        shared = sent["shared"].arrays if "shared" in sent else {}
        before = self._answers.kept(task)
        parts, kept, facts = train(
            self._plan,
            machine,
            batches,
            (sent["weights"].arrays, shared),
            before,
            task.first_update,
            self._told("training"),
        )
        return facts, parts, kept | carried(before)

    def _validate(self, _task: Task, sent: dict[str, Part]) -> Work:
        begin = time.perf_counter()
        network = make_network(self._plan, self._machine, sent["weights"].arrays)
        prepared = time.perf_counter()
        scores = quick_scores(self._plan, self._machine, network, self._hospital.part("validation"))
        return ScoreFacts(scores=scores, seconds=_seconds(begin, prepared)), None, None

    def _test(self, _task: Task, sent: dict[str, Part]) -> Work:
        begin = time.perf_counter()
        network = make_network(self._plan, self._machine, sent["weights"].arrays)
        prepared = time.perf_counter()
        book, parts = OverlayBook(self._plan), []
        tell, total = self._told("testing"), len(self._hospital.part("test"))
        for member in self._hospital.members:
            wanted = set(member.split.test)
            files = [case for case in member.dataset.cases if case.id in wanted]
            for scored in full_scores(self._plan, self._machine, network, member.dataset, files):
                parts.append(scored.scores)
                book.add(scored, member.dataset.spec.synthetic)
                tell(len(parts), total)
        book.write(self._setting.folder / "overlays")
        return ScoreFacts(scores=merge_all(parts, Scores()), seconds=_seconds(begin, prepared)), None, None

    def _failed(self, task: Task, error: Exception) -> SiteFailed:
        """What may be told: our own words, or only the kind of error. Details stay in the site's log."""
        with (self._setting.folder / "errors.log").open("a", encoding="utf-8") as log:
            log.write(f"{task.verb} of round {task.round}\n{''.join(traceback.format_exception(error))}\n")
        if isinstance(error, SiteError):
            reason = str(error)
        elif isinstance(error, StorageError):
            reason = "the site's disk cannot be written (full, or no permission)"
        elif isinstance(error, InputError | DatasetError):
            reason = "its dataset folder or dataset.yaml cannot be used: `wardround check` there says why"
        elif isinstance(error, WardRoundError):
            reason = f"the site could not use its data or what it was sent ({type(error).__name__})"
        else:
            reason = f"{type(error).__name__}; details are in the site's own log"
        return SiteFailed(task=task.id, site=self._setting.name, kind="error", reason=reason[:500])

    def _told(self, what: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(what, done, total)


def _seconds(begin: float, prepared: float) -> Seconds:
    end = time.perf_counter()
    return Seconds(compute=end - prepared, prepare=prepared - begin, total=end - begin)
