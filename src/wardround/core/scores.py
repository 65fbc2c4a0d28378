"""How good a model is on some cases, as statistics that merge: per-site scores add up to pooled ones.

Conventions, the same everywhere (computed in `wardround.metrics`):

==================  ==========================  =============================  ========================
                    both empty                  only the prediction is empty   only the reference is
==================  ==========================  =============================  ========================
Dice                left out, counted           0                              0
surface Dice        left out                    0                              0
HD95                left out                    left out, counted              left out, counted
lesions             nothing to count            all missed                     all false
==================  ==========================  =============================  ========================

An HD95 without one of the surfaces has no value, so a mean HD95 must be read beside the two counts. The
surface Dice has one: no surface voxel lies near the other surface, as for Dice.
"""

from __future__ import annotations

from functools import reduce

from pydantic import NonNegativeInt

from wardround.core.frozen import Frozen
from wardround.core.stats import Histogram, Moments, merge_all

NO_DICE = Histogram(low=0, high=1, counts=(0,) * 20)


class LesionCounts(Frozen):
    """Connected components: reference lesions found and missed, predicted lesions true and false."""

    found: NonNegativeInt = 0
    missed: NonNegativeInt = 0
    true: NonNegativeInt = 0
    false: NonNegativeInt = 0

    def merge(self, other: LesionCounts) -> LesionCounts:
        """Counts add."""
        return LesionCounts(
            found=self.found + other.found,
            missed=self.missed + other.missed,
            true=self.true + other.true,
            false=self.false + other.false,
        )

    @property
    def sensitivity(self) -> float | None:
        """Found / reference lesions."""
        total = self.found + self.missed
        return self.found / total if total else None

    @property
    def precision(self) -> float | None:
        """True / predicted lesions."""
        total = self.true + self.false
        return self.true / total if total else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of sensitivity and precision; 0 where only one side has lesions, None where none has."""
        if self.found + self.missed + self.true + self.false == 0:
            return None
        s, p = self.sensitivity or 0.0, self.precision or 0.0
        return 2 * s * p / (s + p) if s + p else 0.0


class LabelScores(Frozen):
    """One label over some cases. Dice in [0, 1], distances in mm, volumes in ml."""

    dice: Moments = Moments()
    dice_histogram: Histogram = NO_DICE
    hd95: Moments = Moments()
    surface_dice: Moments = Moments()
    volume_difference: Moments = Moments()  # predicted minus reference
    absolute_volume_difference: Moments = Moments()
    lesions: LesionCounts | None = None
    both_empty: NonNegativeInt = 0
    prediction_empty: NonNegativeInt = 0
    reference_empty: NonNegativeInt = 0

    def merge(self, other: LabelScores) -> LabelScores:
        """Both sites' cases together."""
        lesions = [part for part in (self.lesions, other.lesions) if part is not None]
        return LabelScores(
            dice=self.dice.merge(other.dice),
            dice_histogram=self.dice_histogram.merge(other.dice_histogram),
            hd95=self.hd95.merge(other.hd95),
            surface_dice=self.surface_dice.merge(other.surface_dice),
            volume_difference=self.volume_difference.merge(other.volume_difference),
            absolute_volume_difference=self.absolute_volume_difference.merge(other.absolute_volume_difference),
            lesions=merge_all(lesions[1:], lesions[0]) if lesions else None,
            both_empty=self.both_empty + other.both_empty,
            prediction_empty=self.prediction_empty + other.prediction_empty,
            reference_empty=self.reference_empty + other.reference_empty,
        )


class Scores(Frozen):
    """All foreground labels over some cases."""

    cases: NonNegativeInt = 0
    labels: dict[str, LabelScores] = {}

    def merge(self, other: Scores) -> Scores:
        """Both sites' cases together."""
        names = [*self.labels, *(name for name in other.labels if name not in self.labels)]
        empty = LabelScores()
        return Scores(
            cases=self.cases + other.cases,
            labels={n: self.labels.get(n, empty).merge(other.labels.get(n, empty)) for n in names},
        )

    @property
    def mean_dice(self) -> float | None:
        """Mean over cases and foreground labels; None where nothing could be scored."""
        return reduce(Moments.merge, (label.dice for label in self.labels.values()), Moments()).mean

    @property
    def lesion_f1(self) -> float | None:
        """Lesion-wise F1 over all lesions of all labels that count lesions."""
        counts = [label.lesions for label in self.labels.values() if label.lesions is not None]
        return merge_all(counts, LesionCounts()).f1
