"""A site answers a task once: reply, tensors and private state become durable together, then are sent.

::

    answers/000007-train-0/reply.json             (or -validate-0, -finetune-0, ...)
                           tensors.safetensors   what leaves; tensors.safetensors.zst where it is compressed
                           asked.json            digest of the model that the task came with
                           kept.safetensors      what never leaves: the site's state after this round
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from wardround.core.containers import compress
from wardround.core.errors import SiteError
from wardround.core.messages import Answer, Facts, Reply, Task
from wardround.core.parcels import Packed
from wardround.core.weights import Array, Arrays, file_digest, map_tensors, read_tensors, write_bytes, write_tensors

KEEP_ROUNDS = 2
TENSORS = "tensors.safetensors"
COMPRESSED = TENSORS + ".zst"
ASKED = "asked.json"


class Answers:
    """The answers of one site to one plan, in a private folder."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder, self._site = folder, site
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def stored(self, task: Task) -> Answer | None:
        """The answer that was given before, if any."""
        place = self._place(task)
        if not (place / "reply.json").is_file():
            return None
        reply = Reply.model_validate_json((place / "reply.json").read_bytes())
        if reply.task != task.id:
            raise SiteError("a task of another plan has the same place: each plan needs its own site folder")
        if json.loads((place / ASKED).read_bytes()) != task.tensors:
            self._forget_from(task.round)
            return None
        compressed = place / COMPRESSED
        leaving = compressed if compressed.is_file() else place / TENSORS
        return Answer(reply, leaving if reply.tensors else None)

    def commit(
        self, task: Task, facts: Facts, packed: Packed | None, kept: Arrays | None, level: int | None = None
    ) -> Answer:
        """Make an answer durable in one step and return it as stored; ``level`` compresses what leaves."""
        place = self._place(task)
        scratch = place.with_suffix(".part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        digest, size = None, 0
        if packed is not None:
            leaving = scratch / TENSORS
            write_tensors(leaving, *packed)
            if level is not None:
                compress(leaving, scratch / COMPRESSED, level)
                leaving.unlink()
                leaving = scratch / COMPRESSED
            digest, size = file_digest(leaving), leaving.stat().st_size
        if kept:
            write_tensors(scratch / "kept.safetensors", kept)
        reply = Reply(task=task.id, site=self._site, facts=facts, tensors=digest, size=size)
        write_bytes(scratch / ASKED, json.dumps(task.tensors).encode())
        write_bytes(scratch / "reply.json", reply.model_dump_json().encode())
        scratch.replace(place)
        self._prune(task)
        answer = self.stored(task)
        assert answer is not None  # noqa: S101 - just written
        return answer

    def kept(self, task: Task) -> dict[str, Array]:
        """The private state after the last round in which this site's contribution counted."""
        accepted = task.accepted.get(self._site)
        if accepted is None:
            return {}
        path = self._folder / f"{accepted:06d}-train-0" / "kept.safetensors"
        return read_tensors(path) if path.is_file() else {}

    def tensors(self, task: Task, *prefixes: str) -> dict[str, Array]:
        """What of the private state begins with one of these, for a task that must not do without: see `kept`.

        Raises:
            SiteError: the site has counted in a round whose state is not here any more.
        """
        accepted = task.accepted.get(self._site)
        if accepted is None:
            return {}
        path = self._folder / f"{accepted:06d}-train-0" / "kept.safetensors"
        if not path.is_file():
            raise SiteError(f"this site's own tensors of round {accepted + 1} are not on its disk any more")
        return _chosen(path, prefixes)

    def tuned(self, task: Task) -> dict[str, Array]:
        """What fine-tuning before this task kept; empty where it kept nothing."""
        path = self._folder / f"{task.round:06d}-finetune-0" / "kept.safetensors"
        return read_tensors(path) if path.is_file() else {}

    def _forget_from(self, number: int) -> None:
        """Another model is asked about under the same id: the coordinator went back to a backup.

        What was answered since then belongs to a course of the run that nobody knows any more.
        """
        for path in self._folder.iterdir():
            if path.suffix != ".part" and int(path.name[:6]) >= number:
                shutil.rmtree(path)

    def _place(self, task: Task) -> Path:
        return self._folder / f"{task.round:06d}-{task.verb}-{task.step}"

    def _prune(self, task: Task) -> None:
        # The last accepted round, and that of the best model, may lie far back: they are kept.
        needed = {task.round, task.accepted.get(self._site), task.best.get(self._site)}
        rounds = sorted({int(path.name[:6]) for path in self._folder.iterdir() if path.suffix != ".part"})
        stay = {*rounds[-KEEP_ROUNDS:], *needed}
        for path in self._folder.iterdir():
            if path.suffix != ".part" and int(path.name[:6]) not in stay:
                shutil.rmtree(path)


def _chosen(path: Path, prefixes: tuple[str, ...]) -> dict[str, Array]:
    return {name: np.array(array) for name, array in map_tensors(path).items() if name.startswith(prefixes)}
