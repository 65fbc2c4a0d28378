"""A contribution that a site has sent before is no news: it is refused, and its site counts as failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wardround.core.contracts import Ask
from wardround.core.messages import Answer, SiteFailed, Task

REMEMBERED = 32  # rounds per site; a digest is 64 characters of the checkpoint
Digests = Mapping[str, tuple[str, ...]]


def refusing_replays(ask: Ask, folded: Digests, tell: Callable[[str], None]) -> Ask:
    """``ask``, but an answer whose tensors counted in an earlier round comes out as a failure.

    ``tell`` is called with the site's name. The digest is over the file's bytes: this finds a site that
    is stuck or a message that was delivered again, not somebody who changes a bit.
    """

    def asking(task: Task, tensors: Path | None, sites: Sequence[str]) -> Iterator[Answer | SiteFailed]:
        for result in ask(task, tensors, sites):
            if isinstance(result, Answer) and result.reply.tensors in folded.get(result.reply.site, ()):
                tell(result.reply.site)
                reason = "its contribution is one that it had sent in an earlier round"
                yield SiteFailed(task=task.id, site=result.reply.site, kind="error", reason=reason)
            else:
                yield result

    return asking


def remembered(folded: Digests, answers: Iterable[Answer]) -> dict[str, tuple[str, ...]]:
    """``folded`` with the digests of what counted now; the oldest are forgotten."""
    fresh = {answer.reply.site: answer.reply.tensors for answer in answers}
    known = {site: (*folded.get(site, ()), digest) for site, digest in fresh.items() if digest is not None}
    return {**folded, **{site: digests[-REMEMBERED:] for site, digests in known.items()}}
