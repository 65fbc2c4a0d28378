"""Is an audit log still what it was? Held against itself, and against the heads that the other side signed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeInt

from wardround.core.audit_entries import NOTHING, Mark, parse_entry, read_lines
from wardround.core.frozen import Frozen
from wardround.core.messages import Digest

MOST_FAULTS = 100


class SignedHead(Frozen):
    """A head of a log that the other side signed at ``time`` (Unix)."""

    length: NonNegativeInt
    hash: Digest
    time: NonNegativeInt
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


@dataclass(frozen=True)
class Findings:
    """What `verify` saw.

    Attributes:
        head: the last entry.
        faults: what is wrong; empty: nothing.
        repairs: numbers of entries that tell of a line torn by a power cut.
        signed: the newest signed head that the log holds.
    """

    head: Mark
    faults: tuple[str, ...]
    repairs: tuple[int, ...] = ()
    signed: SignedHead | None = None

    @property
    def clean(self) -> bool:
        """True where nothing was found."""
        return not self.faults

    @property
    def unsigned(self) -> int:
        """Entries after the last signed head: chained, but nobody else has vouched for them yet."""
        return max(0, self.head.length - (self.signed.length if self.signed else 0))


def verify(
    path: Path, signed_heads: Iterable[SignedHead] = (), check_signature: Callable[[SignedHead], bool] | None = None
) -> Findings:
    """Hold a log against itself and against the heads that the other side signed.

    Finds every changed, inserted, missing or moved line, and truncation up to the newest signed head.
    What follows that head could have been written anew by whoever can write the file. Memory does not
    grow with the log.

    Args:
        path: the log; one that does not exist has no entries.
        signed_heads: what the other side signed.
        check_signature: whether a signature is the other side's; without it heads are compared, not trusted.
    """
    trusted, faults = [], []
    for head in sorted(signed_heads, key=lambda head: head.length):
        if check_signature is None or check_signature(head):
            trusted.append(head)
        else:
            faults.append(f"the signature of the head at entry {head.length} is not the other side's")
    chain = _Chain({head.length for head in trusted})
    for line in read_lines(path):
        chain.follow(line)
    held = [head for head in trusted if chain.seen.get(head.length) == head.hash]
    faults += [chain.missing(head) for head in trusted if head not in held]
    faults = [*chain.faults, *faults]
    more = chain.more + max(0, len(faults) - MOST_FAULTS)
    if more:
        faults = [*faults[:MOST_FAULTS], f"and {more} more"]
    return Findings(chain.mark, tuple(faults), tuple(chain.repairs), held[-1] if held else None)


class _Chain:
    """Follows the chain line by line."""

    def __init__(self, wanted: set[int]) -> None:
        self.mark, self.repairs = Mark(0, NOTHING), list[int]()
        self.faults, self.more = list[str](), 0
        self.seen = {0: NOTHING} if 0 in wanted else {}
        self._wanted, self._number = wanted, 0

    def follow(self, line: bytes) -> None:
        """Take one line, with its end."""
        self._number += 1
        entry, before = parse_entry(line), self.mark
        if entry is None:
            torn = "" if line.endswith(b"\n") else ": it is torn, by a power cut or by hand"
            place = f"line {self._number}, in the place of entry {before.length + 1},"
            self._fault(f"{place} is not an entry as it was written{torn}")
            self.mark = Mark(before.length + 1, NOTHING)
            return
        if entry["n"] != before.length + 1:
            self._fault(f"line {self._number} is entry {entry['n']}, where entry {before.length + 1} should stand")
        elif entry["previous"] != before.hash:
            self._fault(f"entry {entry['n']} does not follow what stands before it")
        self.mark = Mark(entry["n"], entry["hash"])
        if entry["n"] in self._wanted:
            self.seen.setdefault(entry["n"], entry["hash"])
        if entry["event"] == "log_repaired" and len(self.repairs) < MOST_FAULTS:
            self.repairs.append(entry["n"])

    def missing(self, head: SignedHead) -> str:
        """Why a signed head is not in the log."""
        if head.length > self.mark.length:
            return f"cut off: entry {head.length} was signed by the other side, but the log ends at {self.mark.length}"
        return f"entry {head.length} is not the one that the other side signed: the log was written anew"

    def _fault(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)
        else:
            self.more += 1
