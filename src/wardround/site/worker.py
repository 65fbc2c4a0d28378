"""A site: answers tasks about data that never leaves it, each task once."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from torch import nn

from wardround.core.errors import DatasetError, InputError, SiteError, StorageError, WardRoundError
from wardround.core.messages import (
    Answer,
    Facts,
    InitFacts,
    ScoreFacts,
    Seconds,
    ShareFacts,
    SiteFailed,
    Task,
    TuneFacts,
)
from wardround.core.scores import Scores
from wardround.core.stats import merge_all
from wardround.core.weights import Array, Arrays, Part, Parts, all_finite, count, file_digest, pack
from wardround.networks.build import exchange
from wardround.planning.plan import Plan
from wardround.site import personal
from wardround.site.answers import Answers
from wardround.site.device import Machine, choose_machine, settle
from wardround.site.finetune import Tuning, fine_tune
from wardround.site.group import ALONE, Group, joined, placed
from wardround.site.hospital import Hospital, Source, open_hospital, summarise
from wardround.site.overlays import OverlayBook
from wardround.site.patches import Batches
from wardround.site.post import carried, leaving, received
from wardround.site.scoring import full_scores, quick_scores
from wardround.site.training import make_network, train

Progress = Callable[[str, int, int], None]
# Brings this site's other processes to a task; given how many take part, this one among them.
Together = Callable[[Task, Path | None, int], AbstractContextManager[Group]]
PARALLEL = ("train", "finetune")
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
    largest_batch: int | None = None  # samples that fit into memory at once
    processes: int = 1  # that train together, each with so many threads or a GPU of its own


class Site:
    """One site's half of every task of one plan."""

    def __init__(
        self, plan: Plan, setting: Setting, progress: Progress | None = None, together: Together | None = None
    ) -> None:
        self._plan, self._setting = plan, setting
        self._together, self._group = together, ALONE
        self._progress = progress or (lambda _what, _done, _total: None)
        setting.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        setting.folder.chmod(0o700)
        self._answers = Answers(setting.folder / "answers", setting.name)

    @property
    def _machine(self) -> Machine:
        found, group = self._chosen, self._group
        return found if group.size == 1 else replace(found, device=placed(found.device, group), group=group)

    @cached_property
    def _chosen(self) -> Machine:
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
        sent = self._received(task, tensors, self._setting.folder)
        facts, parts, kept = self._worked(task, sent, tensors)
        if task.verb == "train":
            personal.check_outbox(self._plan, parts or {})
        for part in (parts or {}).values():
            if not all_finite(part.arrays):
                raise SiteError("the update holds non-finite values and was not sent")
        if parts is None or task.verb != "train":
            return self._answers.commit(task, facts, None if parts is None else pack(parts), kept)
        transfer = self._plan.transfer
        packed, kept = leaving(parts, sent["weights"].arrays, transfer, kept or {})
        return self._answers.commit(task, facts, packed, kept, transfer.zstd or None)

    def _worked(self, task: Task, sent: dict[str, Part], tensors: Path | None) -> Work:
        work = self._work_for(task)
        size = min(self._setting.processes, self._plan.training.batch)
        if self._together is None or size == 1 or task.verb not in PARALLEL:
            return work(task, sent)
        self._hospital.part("train")  # prepared and dealt here once, before the others open it
        with self._together(task, tensors, size) as group, self._in_group(group):
            return work(task, sent)

    def assist(self, task: Task, tensors: Path | None, group: Group) -> None:
        """Do the same work as the process that `answer` was asked of, beside it, and keep nothing of it."""
        with tempfile.TemporaryDirectory(dir=self._setting.folder) as folder:
            sent = self._received(task, tensors, Path(folder))
        with self._in_group(group):
            self._work_for(task)(task, sent)

    def _work_for(self, task: Task) -> Callable[[Task, dict[str, Part]], Work]:
        return {
            "describe": self._describe,
            "init": self._init,
            "train": self._train,
            "validate": self._validate,
            "share": self._share,
            "finetune": self._finetune,
            "test": self._test,
        }[task.verb]

    @contextmanager
    def _in_group(self, group: Group) -> Iterator[None]:
        self._group = group
        try:
            with joined(group, self._machine.device):
                yield
        finally:
            self._group = ALONE

    def _received(self, task: Task, tensors: Path | None, folder: Path) -> dict[str, Part]:
        if task.tensors is None:
            return {}
        if tensors is None or file_digest(tensors) != task.tensors:
            raise SiteError("the model that arrived is not the one that the task names (wrong digest)")
        return received(tensors, self._plan.transfer, folder, self._numbers)

    def _numbers(self) -> int:
        return count(exchange(make_network(self._plan, self._machine, None)).values())

    def _describe(self, _task: Task, _sent: dict[str, Part]) -> Work:
        hospital, machine = self._hospital, self._machine
        summary = summarise(self._plan, hospital, machine.device.type, machine.precision)
        return summary.model_copy(update={"largest_batch": self._setting.largest_batch}), None, None

    def _init(self, _task: Task, _sent: dict[str, Part]) -> Work:
        weights = exchange(make_network(self._plan, self._machine, None))
        shared, private = personal.split(self._plan, weights)
        parts = {"weights": Part(shared, 1.0), **({"private": Part(private, 1.0)} if private else {})}
        return InitFacts(parameters=count(weights.values())), parts, None

    def _batches(self) -> Batches:
        plan, task = self._plan, self._plan.task
        return Batches(
            self._hospital.part("train"),
            plan.training,
            plan.seed,
            self._setting.name,
            tuple(task.modalities.index(name) for name in task.optional),
            plan.classes,
            self._setting.largest_batch,
            self._group,
        )

    def _train(self, task: Task, sent: dict[str, Part]) -> Work:
        plan, machine, batches, tell = self._plan, self._machine, self._batches(), self._told("training")
        model = (sent["weights"].arrays, sent["shared"].arrays if "shared" in sent else {})
        held_out = self._hospital.part("validation") if plan.strategy.needs_score else ()
        before = personal.with_private(plan, machine, model[0], self._answers.kept(task))
        parts, kept, facts = train(plan, machine, batches, model, before, task.first_update, tell, held_out)
        if (companion := plan.strategy.companion()) is not None:
            own, more = personal.train_companion(
                plan, companion, machine, batches, model, before, task.first_update, tell
            )
            kept, facts = {**kept, **own}, personal.both(facts, more)
        return facts, parts, kept | carried(before)

    def _models(self, task: Task, sent: dict[str, Part]) -> tuple[Arrays, Arrays | None]:
        """The model that was sent, as it is at this site, and the site's own whole model where it has one."""
        keeps = personal.keeps_tensors(self._plan)
        kept = self._answers.tensors(task, *personal.TENSORS) if keeps else {}
        kept = {**kept, **self._answers.tuned(task)}
        model = personal.whole_model(self._plan, self._machine, sent["weights"].arrays, kept)
        return model, personal.own_model(kept) or None

    def _validate(self, task: Task, sent: dict[str, Part]) -> Work:
        begin, cases = time.perf_counter(), self._hospital.part("validation")
        networks = [make_network(self._plan, self._machine, m) for m in self._models(task, sent) if m is not None]
        prepared = time.perf_counter()
        scores = [
            quick_scores(self._plan, self._machine, network, cases, self._told("validating")) for network in networks
        ]
        own = scores[1] if len(scores) > 1 else None
        return ScoreFacts(scores=scores[0], personal=own, seconds=_seconds(begin, prepared)), None, None

    def _share(self, task: Task, _sent: dict[str, Part]) -> Work:
        if self._plan.private is None or self._plan.private.unseen != "mean":
            raise SiteError("the plan does not let private tensors leave this site")
        mine = personal.private_of(self._answers.tensors(task, *personal.TENSORS))
        if not mine:
            raise SiteError("this site has no private tensors: it has counted in no round")
        weight = float(len(self._hospital.part("train")))
        return ShareFacts(tensors=len(mine)), {"weights": Part(mine, weight)}, None

    def _finetune(self, task: Task, sent: dict[str, Part]) -> Work:
        begin, plan = time.perf_counter(), self._plan
        if plan.finetune is None:
            raise SiteError("the plan asks for no fine-tuning")
        model, _ = self._models(task, sent)
        tuning = Tuning(plan.finetune.steps, plan.finetune.rate_for(plan.training.optimiser.rate), task.first_update)
        prepared, held_out, tell = time.perf_counter(), self._hospital.part("validation"), self._told("fine-tuning")
        tuned = fine_tune(plan, self._machine, model, self._batches(), held_out, tuning, tell)
        facts = TuneFacts(
            kept=tuned.kept,
            before=tuned.before,
            after=tuned.after,
            updates=tuned.updates,
            samples=plan.finetune.steps * plan.training.batch,
            seconds=_seconds(begin, prepared),
        )
        return facts, None, personal.as_own_model(tuned.model) if tuned.kept else None

    def _test(self, task: Task, sent: dict[str, Part]) -> Work:
        begin = time.perf_counter()
        model, own = self._models(task, sent)
        if self._plan.personal:
            used = own or model
            personal.write_model_folder(self._setting.folder, self._plan, used, {"round": task.round})
        networks = [make_network(self._plan, self._machine, m) for m in (model, own) if m is not None]
        prepared = time.perf_counter()
        book = OverlayBook(self._plan)  # of the model that the site uses
        scores = [self._test_scores(network, book if network is networks[-1] else None) for network in networks]
        book.write(self._setting.folder / "overlays")
        own_scores = scores[1] if len(scores) > 1 else None
        return ScoreFacts(scores=scores[0], personal=own_scores, seconds=_seconds(begin, prepared)), None, None

    def _test_scores(self, network: nn.Module, book: OverlayBook | None) -> Scores:
        tell, total = self._told("testing"), len(self._hospital.part("test"))
        parts: list[Scores] = []
        for member in self._hospital.members:
            wanted = set(member.split.test)
            files = [case for case in member.dataset.cases if case.id in wanted]
            for scored in full_scores(self._plan, self._machine, network, member.dataset, files):
                parts.append(scored.scores)
                if book is not None:
                    book.add(scored, member.dataset.spec.synthetic)
                tell(len(parts), total)
        return merge_all(parts, Scores())

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
