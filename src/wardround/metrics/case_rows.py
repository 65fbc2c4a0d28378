"""Scores as plain numbers per label, for a row of a table or a JSON file."""

from __future__ import annotations

from wardround.core.scores import LabelScores, Scores


def flat(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Per label the readable values: of one case the values themselves, of several the means over cases.

    Distances in mm, volumes in ml, the rest in [0, 1] or counts; None where nothing could be measured.
    The lesion values appear only for labels whose lesions are counted.
    """
    return {name: _row(label) for name, label in scores.labels.items()}


def _row(label: LabelScores) -> dict[str, float | None]:
    row: dict[str, float | None] = {
        "dice": label.dice.mean,
        "hd95_mm": label.hd95.mean,
        "surface_dice": label.surface_dice.mean,
        "volume_difference_ml": label.volume_difference.mean,
        "absolute_volume_difference_ml": label.absolute_volume_difference.mean,
    }
    if label.lesions is not None:
        row |= {f"lesions_{name}": count for name, count in label.lesions.model_dump().items()}
        row["lesion_f1"] = label.lesions.f1
        row["lesion_sensitivity"] = label.lesions.sensitivity
        row["lesion_precision"] = label.lesions.precision
    return row
