"""What goes over the wire in the place of what the rounds work with: docs/decisions/0010-update-encodings.md."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from wardround.coordinator.checkpoint import sent_file
from wardround.core.containers import expand, most_bytes
from wardround.core.contracts import Ask
from wardround.core.errors import StorageError, WardRoundError
from wardround.core.messages import Answer, SiteFailed, Task
from wardround.core.parcels import contents
from wardround.planning.transfer import Transfer


@contextmanager
def posting(ask: Ask, transfer: Transfer, folder: Path, tell: Callable[[str], None]) -> Iterator[Ask]:
    """``ask`` in the plan's transfer: encoded models go out, and contributions come in as files to be read in blocks.

    The encoded numbers are left as they are; only a compressed file is unpacked, into ``folder``, which is
    removed at the end. A contribution in another encoding than the plan's, or that cannot be unpacked, comes out
    as a failure; ``tell`` is called with its site's name.
    """

    def asking(task: Task, model: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        for result in ask(task, None if model is None else sent_file(model), sites):
            if isinstance(result, SiteFailed) or model is None or task.verb != "train" or result.tensors is None:
                yield result
                continue
            try:
                yield _opened(result, result.tensors, transfer, folder, most_bytes(model.stat().st_size // 4))
            except StorageError:
                raise
            except WardRoundError as error:
                tell(result.reply.site)
                yield SiteFailed(task=task.id, site=result.reply.site, kind="error", reason=str(error)[:500])

    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    try:
        yield asking
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _opened(answer: Answer, file: Path, transfer: Transfer, folder: Path, most: int) -> Answer:
    if transfer.zstd is not False:
        folder.mkdir(exist_ok=True)
        target = folder / answer.reply.site
        expand(file, target, most)
        answer = replace(answer, tensors=target)
        file = target
    try:
        encoding = contents(file).encoding
    except WardRoundError:
        return answer  # the aggregation rejects what cannot be read
    if encoding != transfer.upward:
        raise WardRoundError("its contribution is not encoded as the plan's transfer says")
    return answer
