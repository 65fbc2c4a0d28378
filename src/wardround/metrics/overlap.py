"""Overlap of two masks by voxel counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wardround.metrics.masks import Mask


@dataclass(frozen=True)
class Overlap:
    """Voxels of the reference, of the prediction, and of both."""

    reference: int
    prediction: int
    both: int

    @property
    def dice(self) -> float | None:
        """2 |A and B| / (|A| + |B|), in [0, 1]; None where both are empty."""
        total = self.reference + self.prediction
        return 2 * self.both / total if total else None

    @property
    def jaccard(self) -> float | None:
        """|A and B| / |A or B|, in [0, 1]; None where both are empty."""
        union = self.reference + self.prediction - self.both
        return self.both / union if union else None

    @property
    def sensitivity(self) -> float | None:
        """Share of the reference that the prediction covers; None of an empty reference."""
        return self.both / self.reference if self.reference else None

    @property
    def precision(self) -> float | None:
        """Share of the prediction that lies in the reference; None of an empty prediction."""
        return self.both / self.prediction if self.prediction else None


def overlap(reference: Mask, prediction: Mask) -> Overlap:
    """Counts of two masks of one shape."""
    return Overlap(
        reference=int(np.count_nonzero(reference)),
        prediction=int(np.count_nonzero(prediction)),
        both=int(np.count_nonzero(reference & prediction)),
    )
