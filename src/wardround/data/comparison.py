"""Cases against each other: outliers against the dataset's median, and images that appear twice."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from statistics import median

from wardround.data.findings import Finding
from wardround.data.inspection import CaseTraits

FEWEST = 3  # cases from which a median says something
SPACING_FACTOR = 2.0
INTENSITY_FACTOR = 10.0


def compare(traits: Sequence[CaseTraits]) -> list[Finding]:
    """Warnings and notes that only show among several cases; none makes a case unusable."""
    read = [trait for trait in traits if trait.shape]
    return [*_spacing(read), *_intensity(read), *_duplicates(read), *_orientation(read)]


def mixed_dimensions(traits: Sequence[CaseTraits]) -> list[Finding]:
    """Where flat pictures and volumes are mixed and no plan says which is right, the rarer kind is at fault."""
    flat = [trait for trait in traits if trait.shape and trait.shape[2] == 1]
    solid = [trait for trait in traits if trait.shape and trait.shape[2] > 1]
    if not flat or not solid:
        return []
    rare, kind, usual = (flat, "flat", "volumes") if len(flat) <= len(solid) else (solid, "a volume", "flat pictures")
    message = f"is {kind}, while {max(len(flat), len(solid))} cases are {usual}"
    return [Finding(trait.case, "error", "wrong_dimensions", message) for trait in rare]


def _spacing(traits: Sequence[CaseTraits]) -> list[Finding]:
    """Voxel edges, sorted by length so that the order of the axes does not matter."""
    volumes = [(trait, sorted(trait.spacing)) for trait in traits if not trait.picture]
    if len(volumes) < FEWEST:
        return []
    middle = [median(edges[axis] for _, edges in volumes) for axis in range(3)]
    found = []
    for trait, edges in volumes:
        if any(_far(edge, usual, SPACING_FACTOR) for edge, usual in zip(edges, middle, strict=True)):
            message = f"voxels of {_mm(edges)}; the median is {_mm(middle)} (more than {SPACING_FACTOR:g} times apart)"
            found.append(Finding(trait.case, "warning", "spacing_outlier", message))
    return found


def _intensity(traits: Sequence[CaseTraits]) -> list[Finding]:
    found = []
    for name in sorted({name for trait in traits for name in trait.scale}):
        scales = [(trait.case, trait.scale[name]) for trait in traits if name in trait.scale]
        if len(scales) < FEWEST:
            continue
        usual = median(scale for _, scale in scales)
        for case, scale in scales:
            if _far(scale, usual, INTENSITY_FACTOR):
                message = (
                    f"{name or 'the image'} spreads over {scale:.3g}; the median is {usual:.3g} "
                    f"(more than {INTENSITY_FACTOR:g} times apart)"
                )
                found.append(Finding(case, "warning", "intensity_outlier", message))
    return found


def _duplicates(traits: Sequence[CaseTraits]) -> list[Finding]:
    places: defaultdict[str, list[tuple[CaseTraits, str]]] = defaultdict(list)
    for trait in traits:
        for name, digest in trait.hashes.items():
            places[digest].append((trait, name))
    found: dict[tuple[str, str], Finding] = {}
    for (first, first_name), *others in places.values():
        for trait, name in others:
            if trait.case == first.case and trait.picture:
                continue  # grey stored as colour
            other = f"{first_name or 'the image'} of {first.case}"
            message = (
                f"{name or 'the image'} has the same voxels as {other}: remove one, or a test case may be trained on"
            )
            if trait.case == first.case:
                message = f"{name} has the same voxels as {first_name}: one of them is probably a wrong copy"
            found.setdefault((trait.case, first.case), Finding(trait.case, "warning", "duplicate_image", message))
    return list(found.values())


def _orientation(traits: Sequence[CaseTraits]) -> list[Finding]:
    kinds = Counter(trait.orientation for trait in traits if trait.orientation)
    if len(kinds) < 2:
        return []
    usual, many = kinds.most_common(1)[0]
    return [
        Finding(
            trait.case,
            "note",
            "orientation_differs",
            f"stored as {trait.orientation}; {many} cases are stored as {usual}",
        )
        for trait in traits
        if trait.orientation not in ("", usual)
    ]


def _far(value: float, usual: float, factor: float) -> bool:
    return value > usual * factor or value * factor < usual


def _mm(edges: Sequence[float]) -> str:
    return " x ".join(f"{edge:.3g}" for edge in edges) + " mm"
