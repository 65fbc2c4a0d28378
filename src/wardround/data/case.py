"""One case: where its files are, and what they hold once read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a channel holds that a case lacks: with every way to normalise, an image without a signal.
MISSING = 0.0


@dataclass(frozen=True)
class Source:
    """A file, or one channel of a 4D image / colour picture (``channel`` counts from 0)."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class CaseFiles:
    """A case's files by the plan's modality names. ``id`` and paths are private to the site."""

    id: str
    images: dict[str, Source]
    mask: Path | None
    subject: str | None = None  # None: unknown


@dataclass(frozen=True)
class Case:
    """A case as read, on its own grid.

    Attributes:
        image: float32, (modalities, X, Y, Z); 2D pictures are (modalities, H, W, 1).
        label: uint8, (X, Y, Z): 0 background, i + 1 the plan's i-th label; None without a mask.
        affine: 4 x 4, voxel to mm; the identity for pictures without a spacing.
        picture: True for 2D formats (PNG, TIFF), which have no orientation.
        lacks: indices of channels that the case does not have; they hold `MISSING`.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    affine: NDArray[Any]
    picture: bool = False
    lacks: tuple[int, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along the array's axes."""
        x, y, z = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(x), float(y), float(z)
