"""Everything Ward Round raises on purpose.

::

    WardRoundError                exit code 1
    ├── InputError                2   a plan, sites file, dataset.yaml or option is wrong; lists every fault
    ├── DatasetError              1   a dataset folder cannot be used at all
    ├── CaseError                 1   one case cannot be read (never fatal to a run: the case is left out)
    ├── StorageError              3   the disk is full, a folder is not writable or already used
    ├── RunError                  4   the run cannot go on; the run directory stays resumable
    │   └── QuorumLost            4   too few sites answered
    ├── SiteError                 1   a site could not do a task; its text may leave the site
    └── Interrupted             130   somebody pressed Ctrl-C; says how to go on

A text that may leave a hospital (`SiteError`) holds no path, file name, case or header text.
"""

from __future__ import annotations

from dataclasses import dataclass


class WardRoundError(Exception):
    """Root of the tree; the command line prints its text and exits with ``exit_code``."""

    exit_code = 1


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a document: where it is and what would be right."""

    field: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.field}: {self.message}" if self.field else f"{place}{self.message}"


class InputError(WardRoundError):
    """A document or an option is wrong. Carries all faults, never only the first."""

    exit_code = 2

    def __init__(self, what: str, faults: list[Fault] | None = None) -> None:
        self.what = what
        self.faults = tuple(faults or ())
        lines = [what, *(f"  - {fault}" for fault in self.faults)]
        super().__init__("\n".join(lines))


def in_one_line(error: WardRoundError) -> str:
    """An error's text where only one line is shown or written: faults after a colon, apart by semicolons."""
    head, *faults = str(error).splitlines() or [""]
    return f"{head}: {'; '.join(line.strip().removeprefix('- ') for line in faults)}" if faults else head


class DatasetError(WardRoundError):
    """A dataset folder cannot be used at all (missing, no case found, unknown layout)."""


class CaseError(WardRoundError):
    """One case cannot be read. ``code`` is countable and may leave the site; the text stays."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class StorageError(WardRoundError):
    """The disk is full, or a folder is not writable or already used."""

    exit_code = 3


class RunError(WardRoundError):
    """A run cannot go on now; its directory stays resumable."""

    exit_code = 4


class QuorumLost(RunError):
    """Fewer sites answered a task than the plan's quorum asks for."""


class SiteError(WardRoundError):
    """A site could not do a task. The text is written by us and may leave the site."""


class Interrupted(WardRoundError):
    """Somebody pressed Ctrl-C; the text says how to go on."""

    exit_code = 130
