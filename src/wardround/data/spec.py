"""``dataset.yaml``: what a site calls its modalities and labels, and whose case is whose."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

from pydantic import Field, field_validator

from wardround.core.errors import Fault, InputError
from wardround.core.frozen import Frozen

SPEC_FILE = "dataset.yaml"  # in the dataset's folder
BACKGROUND = "background"
BIDS_SUBJECT = r"(sub-[A-Za-z0-9]+)"
MAX_PATTERN = 200

Name = Annotated[str, Field(max_length=100)]


class DatasetSpec(Frozen):
    """How a site's own names translate into the plan's. Everything is optional.

    Attributes:
        modalities: the site's name for a modality -> the plan's name.
        labels: the number in the site's masks -> the plan's label, or ``background``. Several numbers
            may stand for one label; a number that is not named is a fault of the case.
        subject: ``bids`` (the ``sub-XX`` at the start of a case's name), or a regular expression with one
            group, searched in the case's name; None where the layout or nobody knows.
        unlabelled: the plan's labels that this site does not outline. Where they lie is unknown: their
            voxels are not taken for background in training, and they are not scored.
        synthetic: the images are not of people.
        description: for people at the site.
    """

    modalities: dict[Name, Name] = Field(default_factory=dict)
    labels: dict[Annotated[int, Field(ge=-(2**31), lt=2**31)], Name] = Field(default_factory=dict)
    subject: str | None = Field(default=None, max_length=MAX_PATTERN)
    unlabelled: tuple[Name, ...] = Field(default=(), max_length=250)
    synthetic: bool = False
    description: str = Field(default="", max_length=2000)

    @field_validator("subject")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value in (None, "bids"):
            return value
        try:
            groups = _compiled(value).groups
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"is neither 'bids' nor a regular expression: {error}") from error
        if groups != 1:
            raise ValueError(f"needs exactly one group in brackets, as in '^(sub-[0-9]+)', and has {groups}")
        return value

    def subject_of(self, case: str) -> str | None:
        """Whose case it is by this spec's rule; None without a rule or where it does not fit."""
        if self.subject is None:
            return None
        match = _compiled(BIDS_SUBJECT if self.subject == "bids" else self.subject).search(case)
        return (match.group(1) or None) if match else None


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on sets that a later Python may read otherwise
        return re.compile(pattern)


def unlabelled_indices(labels: Mapping[str, int], spec: DatasetSpec) -> tuple[int, ...]:
    """Class indices (from 1) of the labels that the site does not outline.

    Raises:
        InputError: the spec names labels that the plan does not have, or all that it has.
    """
    index = {name.casefold(): position for position, name in enumerate(labels, start=1)}
    faults = [
        Fault("unlabelled", f"'{name}' is not a label of the plan; it has {', '.join(labels)}")
        for name in spec.unlabelled
        if name.casefold() not in index
    ]
    found = sorted({index[name.casefold()] for name in spec.unlabelled if name.casefold() in index})
    if labels and len(found) == len(labels):
        faults.append(Fault("unlabelled", "names every label of the plan: there would be nothing to learn from"))
    if faults:
        raise InputError("the dataset's labels do not fit the plan's", faults)
    return tuple(found)


def label_table(labels: Mapping[str, int], spec: DatasetSpec) -> dict[int, int]:
    """The number in a mask -> the class index (0 background, i + 1 the i-th of ``labels``).

    Args:
        labels: the plan's labels in order, each with the number it has in masks by default.
        spec: its ``labels``, where given, replace these numbers.

    Raises:
        InputError: the spec names labels that the plan does not have.
    """
    index = {name: position for position, name in enumerate(labels, start=1)}
    if not spec.labels:
        return {0: 0, **{number: index[name] for name, number in labels.items()}}
    known = {BACKGROUND: 0, **{name.casefold(): position for name, position in index.items()}}
    faults = [
        Fault(f"labels.{number}", f"'{name}' is not a label of the plan; it has {', '.join([BACKGROUND, *labels])}")
        for number, name in spec.labels.items()
        if name.casefold() not in known
    ]
    if faults:
        raise InputError("the dataset's labels do not fit the plan's: name them anew in dataset.yaml", faults)
    return {0: 0, **{number: known[name.casefold()] for number, name in spec.labels.items()}}
