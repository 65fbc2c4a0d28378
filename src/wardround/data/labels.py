"""Numbers in masks to the plan's classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import CaseError
from wardround.data.spec import BACKGROUND, SPEC_FILE, DatasetSpec, label_table

WIDEST = 1 << 16  # range of numbers up to which a table is faster than sorting


def tally(mask: NDArray[np.int32]) -> dict[int, int]:
    """Every number in a mask with how many voxels have it."""
    low, high = int(mask.min()), int(mask.max())
    if high - low < WIDEST:
        voxels = np.bincount((mask - low).ravel())
        return {int(index) + low: int(voxels[index]) for index in np.flatnonzero(voxels)}
    numbers, many = np.unique(mask, return_counts=True)
    return {int(number): int(count) for number, count in zip(numbers, many, strict=True)}


def map_labels(
    mask: NDArray[np.int32], numbers: Mapping[int, int], labels: Mapping[str, int] | None, spec: DatasetSpec
) -> NDArray[np.uint8]:
    """The mask as class indices.

    Args:
        mask: numbers as stored, any shape.
        numbers: its `tally`.
        labels: the plan's labels with their default numbers, in class order; None keeps the numbers, or
            their ranks where one does not fit 8 bits.
        spec: the site's numbers.

    Raises:
        CaseError: ``unknown_label``, naming every number that stands for nothing.
        InputError: the spec's labels are not the plan's.
    """
    if labels is None:
        fits = all(0 <= number <= 255 for number in numbers)
        table = {number: number if fits else min(rank, 255) for rank, number in enumerate(_background_first(numbers))}
    else:
        table = label_table(labels, spec)
        unknown = {number: voxels for number, voxels in numbers.items() if number not in table}
        if unknown:
            raise CaseError("unknown_label", _unknown(unknown, table, labels))
    return _look_up(mask, {number: table[number] for number in numbers})


def _background_first(numbers: Mapping[int, int]) -> list[int]:
    """0, and then the other numbers in order."""
    return [0, *sorted(number for number in numbers if number != 0)]


def _look_up(mask: NDArray[np.int32], table: Mapping[int, int]) -> NDArray[np.uint8]:
    low, high = min(table), max(table)
    if high - low < WIDEST:
        values = np.zeros(high - low + 1, dtype=np.uint8)
        for number, index in table.items():
            values[number - low] = index
        return values[mask - low]
    result = np.zeros(mask.shape, dtype=np.uint8)
    for number, index in table.items():
        result[mask == number] = index
    return result


def _unknown(unknown: Mapping[int, int], table: Mapping[int, int], labels: Mapping[str, int]) -> str:
    found = ", ".join(f"{number} ({voxels} voxels)" for number, voxels in sorted(unknown.items())[:5])
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    names = [BACKGROUND, *labels]
    known = ", ".join(f"{number} {names[index]}" for number, index in sorted(table.items()))
    example = next(iter(labels), BACKGROUND)
    return (
        f"the mask holds {found}{more}, which stands for no label; known are {known}. "
        f"Name the numbers in {SPEC_FILE}, for example labels: {{{min(unknown)}: {example}}}"
    )
