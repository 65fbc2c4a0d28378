"""A site's dataset folder: its layout, its cases, and what it calls things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wardround.core.documents import load_document
from wardround.core.errors import CaseError, DatasetError
from wardround.data.case import CaseFiles, Source
from wardround.data.case_names import plain_modality, same_modality
from wardround.data.findings import Finding
from wardround.data.layout_bids import list_bids
from wardround.data.layout_folders import list_folders
from wardround.data.layout_nnunet import list_nnunet
from wardround.data.layouts import Listing
from wardround.data.spec import SPEC_FILE, DatasetSpec

COLOURS = {"red": 0, "green": 1, "blue": 2, "r": 0, "g": 1, "b": 2}


@dataclass(frozen=True)
class Dataset:
    """A dataset as listed; no image has been opened.

    Attributes:
        spec: as given, with the labels that the dataset itself declares (dataset.json) where it names none.
        cases: by name; modalities bear the plan's names as far as the spec knows them.
        notes: what was seen while listing.
    """

    root: Path
    layout: str
    spec: DatasetSpec
    cases: tuple[CaseFiles, ...]
    notes: tuple[Finding, ...] = ()

    @property
    def modalities(self) -> tuple[str, ...]:
        """Every modality that some case has; "" is an image whose name says none."""
        return tuple(sorted({name for case in self.cases for name in case.images}))

    @property
    def subjects_known(self) -> bool:
        """True where every case has a subject, so that splits can keep a person's cases together."""
        return all(case.subject is not None for case in self.cases)


def open_dataset(folder: Path, spec: DatasetSpec | None = None) -> Dataset:
    """List a dataset folder, whichever known layout it has.

    Args:
        folder: the dataset.
        spec: what a sites file says about it; without one, the folder's dataset.yaml counts.

    Raises:
        DatasetError: no such folder, no known layout, or no case in it.
        InputError: dataset.yaml has faults.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder")
    if spec is None:
        path = folder / SPEC_FILE
        spec = load_document(path, DatasetSpec) if path.exists() else DatasetSpec()
    listing = _list(folder, spec)
    if listing.labels and not spec.labels:
        spec = spec.model_copy(update={"labels": listing.labels})
    cases = tuple(sorted((_named(case, spec) for case in listing.cases), key=lambda case: case.id))
    notes = listing.notes
    if spec.subject is not None:
        notes += tuple(
            Finding(case.id, "note", "subject_unknown", f"the rule '{spec.subject}' does not fit {case.id}")
            for case in cases
            if case.subject is None
        )
    return Dataset(folder, listing.layout, spec, cases, notes)


def _list(folder: Path, spec: DatasetSpec) -> Listing:
    try:
        listing = list_nnunet(folder) or list_bids(folder) or list_folders(folder, spec.modalities)
    except OSError as error:
        raise DatasetError(f"{folder} cannot be listed: {error.strerror or error}") from error
    if listing is None:
        raise DatasetError(
            f"{folder} has no layout that is known: expected images/ and masks/, or imagesTr/ and labelsTr/ "
            "(nnU-Net, Decathlon), or sub-*/anat/ (BIDS)"
        )
    if not listing.cases:
        raise DatasetError(f"{folder} ({listing.layout}) holds no image: expected .nii, .nii.gz, .png or .tif files")
    return listing


def _named(case: CaseFiles, spec: DatasetSpec) -> CaseFiles:
    """The case with the plan's names for its modalities, and its subject."""
    names = {site.casefold(): plan for site, plan in spec.modalities.items()}
    images = {names.get(name.casefold(), name): source for name, source in case.images.items()}
    subject = case.subject if spec.subject is None else spec.subject_of(case.id)
    return replace(case, images=images, subject=subject)


def resolve_modalities(case: CaseFiles, wanted: Sequence[str]) -> tuple[Source, ...]:
    """The files (or channels) of a case for the plan's modalities, in the plan's order.

    A case whose only image has no name serves whichever single modality is wanted, the channels red,
    green and blue, or the channels of several modalities in order.

    Raises:
        CaseError: ``missing_modality``, naming all that are missing and what is there.
    """
    nameless = case.images.get("") if len(case.images) == 1 else None
    if nameless is not None:
        if all(name.casefold() in COLOURS for name in wanted):
            return tuple(Source(nameless.path, COLOURS[name.casefold()]) for name in wanted)
        if len(wanted) == 1:
            return (nameless,)
        return tuple(Source(nameless.path, channel) for channel in range(len(wanted)))
    found = [_find(case, name) for name in wanted]
    missing = [name for name, source in zip(wanted, found, strict=True) if source is None]
    if missing:
        there = ", ".join(sorted(name or "an image without a name" for name in case.images)) or "no image"
        raise CaseError(
            "missing_modality",
            f"no {', no '.join(missing)}; there is {there}. If it only has another name here, "
            f"say so in {SPEC_FILE}, for example modalities: {{name here: {missing[0]}}}",
        )
    return tuple(source for source in found if source is not None)


def present_modalities(
    case: CaseFiles, wanted: Sequence[str], optional: Sequence[str]
) -> list[tuple[int, str, Source]]:
    """(index, name, file) of the plan's modalities that a case has; those not ``optional`` must be there.

    Raises:
        CaseError: see `resolve_modalities`.
    """
    nameless = len(case.images) == 1 and "" in case.images
    there = [n for n, name in enumerate(wanted) if nameless or name not in optional or _find(case, name) is not None]
    names = [wanted[n] for n in there]
    return list(zip(there, names, resolve_modalities(case, names), strict=True))


def _find(case: CaseFiles, wanted: str) -> Source | None:
    """An image by its exact name, else by the only one that means the same."""
    if wanted in case.images:
        return case.images[wanted]
    alike = [source for name, source in case.images.items() if plain_modality(name) and same_modality(name, wanted)]
    return alike[0] if len(alike) == 1 else None
