"""Training batches: patches from prepared cases, foreground oversampled, randomly changed.

Every batch is a pure function of (seed, site, update number), whatever thread makes it and
wherever training was interrupted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from wardround.core.randomness import rng
from wardround.data.case import MISSING
from wardround.data.store import StoredCase
from wardround.planning.training import Augmentation, Training
from wardround.site.augment import change_intensity, flip, warp
from wardround.site.group import ALONE, Group

# A patch that will be turned or scaled is cut larger by this factor, so that corners are image.
MARGIN = 1.3


class Batch(NamedTuple):
    """What one update is made on.

    ``image`` is (batch, C, *patch) float32 and ``label`` (batch, 1, *patch) int64. ``hidden`` is
    (batch, classes) bool, true where nobody outlined the class in the sample; None: all are outlined in all.
    """

    image: torch.Tensor
    label: torch.Tensor
    hidden: torch.Tensor | None = None


@dataclass(frozen=True)
class Batches:
    """The batches of one site."""

    cases: Sequence[StoredCase]
    training: Training
    seed: int
    site: str
    optional: tuple[int, ...] = ()  # channels that cases may lack
    classes: int = 0  # with background; needed where a case has unlabelled classes
    largest: int | None = None  # samples that fit into memory at once: larger batches are trained on in parts
    group: Group = ALONE

    def make(self, update: int) -> Batch:
        """The batch of one update; of a group, this process's share of it."""
        chosen, images, labels = [], [], []
        for random in self._streams(update):
            case = self.cases[int(random.integers(len(self.cases)))]
            image, label = self._patch(case, random)
            chosen.append(case)
            images.append(self._emptied(case, image, random))
            labels.append(label)
        return Batch(torch.stack(images), torch.stack(labels), self._hidden(chosen))

    def _streams(self, update: int) -> list[np.random.Generator]:
        """A source of chance for each sample: in a group each has its own, so that the others' are not drawn."""
        if self.group.size == 1:
            return [rng(self.seed, "batch", self.site, update)] * self.training.batch
        mine = range(self.group.rank, self.training.batch, self.group.size)
        return [rng(self.seed, "batch", self.site, update, number) for number in mine]

    def _hidden(self, cases: Sequence[StoredCase]) -> torch.Tensor | None:
        if not any(case.unlabelled for case in cases):
            return None
        hidden = torch.zeros(len(cases), self.classes, dtype=torch.bool)
        for row, case in zip(hidden, cases, strict=True):
            row[list(case.unlabelled)] = True
        return hidden

    def _emptied(self, case: StoredCase, image: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        """Channels that the case lacks are empty again after noise; others of the optional ones at times are.

        So the network learns to do without (modality dropout: Neverova et al., ModDrop, TPAMI 2016).
        """
        empty = list(case.lacks)
        empty += [c for c in self.optional if c not in empty and random.random() < self.training.augmentation.drop]
        if empty:
            image[empty] = MISSING
        return image

    def _patch(self, case: StoredCase, random: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        patch, augmentation = self.training.patch, self.training.augmentation
        turned, scaled = random.random() < augmentation.rotate, random.random() < augmentation.scale
        size = tuple(round(n * MARGIN) for n in patch) if turned or scaled else patch
        image, label = cut(case, size, self.training.foreground, random)
        if turned or scaled:
            angles = random.uniform(-augmentation.degrees, augmentation.degrees, 3) if turned else np.zeros(3)
            zoom = random.uniform(*augmentation.scale_range) if scaled else 1.0
            image, label = warp(image, label, patch, angles, zoom)
        image, label = flip(image, label, _flips(augmentation, len(patch), random))
        return change_intensity(image, augmentation, random), label.long()


def _flips(augmentation: Augmentation, dimensions: int, random: np.random.Generator) -> list[int]:
    axes = augmentation.flip_axes if augmentation.flip_axes is not None else tuple(range(dimensions))
    return [axis for axis in axes if random.random() < augmentation.flip]


def cut(
    case: StoredCase, size: tuple[int, ...], foreground: float, random: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch (C, *size) float32 and its labels (1, *size) float32; 2D sizes are cut from one slice.

    With probability ``foreground`` the patch is centred on a random voxel of a random label that
    the case has. Where the case is smaller than the patch its edge is continued.
    """
    grid = case.label.shape
    sizes = (1, *size) if len(size) == 2 else size
    if case.foreground and random.random() < foreground:
        places = case.foreground[sorted(case.foreground)[int(random.integers(len(case.foreground)))]]
        centre = places[int(random.integers(len(places)))]
        starts = [_inside(int(c) - s // 2, n, s) for c, n, s in zip(centre, grid, sizes, strict=True)]
    else:
        starts = [_anywhere(n, s, random) for n, s in zip(grid, sizes, strict=True)]
    image, label = _window(case.image, starts, sizes), _window(case.label[None], starts, sizes)
    if len(size) == 2:
        image, label = image[:, 0], label[:, 0]
    return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(label.astype(np.float32))


def _inside(start: int, n: int, size: int) -> int:
    return (n - size) // 2 if size >= n else min(max(start, 0), n - size)


def _anywhere(n: int, size: int, random: np.random.Generator) -> int:
    return (n - size) // 2 if size >= n else int(random.integers(n - size + 1))


def _window(array: NDArray[np.generic], starts: Sequence[int], sizes: Sequence[int]) -> NDArray[np.generic]:
    cuts, pads = [slice(None)], [(0, 0)]
    for start, size, n in zip(starts, sizes, array.shape[1:], strict=True):
        low, high = max(start, 0), min(start + size, n)
        cuts.append(slice(low, high))
        pads.append((low - start, start + size - high))
    window = array[tuple(cuts)]
    return np.pad(window, pads, mode="edge") if any(map(any, pads)) else np.array(window)
