"""Files to voxels. Whatever is wrong with a file becomes a `CaseError`: its bytes come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.core.errors import CaseError
from wardround.data.case import Case, CaseFiles, Source
from wardround.data.case_names import is_picture
from wardround.data.dataset import present_modalities
from wardround.data.nifti import Volume, read_nifti
from wardround.data.pictures import read_picture
from wardround.data.spec import DatasetSpec

NEAR_INTEGER = 1e-4  # scaled integers come back with rounding


def read_volume(path: Path) -> Volume:
    """An image file as float32, (X, Y, Z, channels); pictures (H, W, 1, channels).

    Raises:
        CaseError: ``unreadable``, ``too_large``, ``wrong_dimensions`` or ``bad_affine``.
    """
    return _guarded(path, mask=False)


def read_mask(path: Path) -> Volume:
    """A mask file as whole numbers, int32, (X, Y, Z, 1).

    Raises:
        CaseError: as `read_volume`; also ``non_finite`` and ``non_integer_label``.
    """
    volume = _guarded(path, mask=True)
    values = single_channel(volume, path)
    if not np.isfinite(values).all():
        raise CaseError("non_finite", f"{path.name} holds values that are not finite numbers")
    whole = np.rint(values)
    odd = np.abs(values - whole) > NEAR_INTEGER
    if odd.any():
        examples = ", ".join(f"{value:g}" for value in np.unique(values[odd])[:3])
        raise CaseError(
            "non_integer_label",
            f"{path.name} holds {int(odd.sum())} values that are not whole numbers, such as {examples}",
        )
    if whole.size and np.abs(whole).max() >= 2**31:
        raise CaseError("unknown_label", f"{path.name} holds {np.abs(whole).max():g}, too large for a label")
    return Volume(whole.astype(np.int32)[..., None], volume.affine, volume.picture)


def single_channel(volume: Volume, path: Path) -> NDArray[Any]:
    """(X, Y, Z) of a file that should hold one image; grey stored as colour counts as one.

    Raises:
        CaseError: ``wrong_dimensions``.
    """
    voxels = volume.voxels
    if voxels.shape[3] == 1 or (volume.picture and (voxels[..., 1:] == voxels[..., :1]).all()):
        return voxels[..., 0]
    hint = ": the plan's modalities would be red, green, blue" if volume.picture else ""
    raise CaseError("wrong_dimensions", f"{path.name} holds {voxels.shape[3]} channels where one is expected{hint}")


def pick(volume: Volume, source: Source) -> NDArray[np.float32]:
    """(X, Y, Z) of the channel that ``source`` names.

    Raises:
        CaseError: ``missing_modality`` or ``wrong_dimensions``.
    """
    if source.channel is None:
        return single_channel(volume, source.path)
    channels = volume.voxels.shape[3]
    if source.channel >= channels:
        there = f"{channels} channel{'s' if channels > 1 else ''}"
        raise CaseError("missing_modality", f"{source.path.name} has {there}; number {source.channel + 1} is wanted")
    return np.asarray(volume.voxels[..., source.channel])


def _guarded(path: Path, *, mask: bool) -> Volume:
    try:
        if path.stat().st_size == 0:
            raise CaseError("unreadable", f"{path.name} is empty (0 bytes)")
        if is_picture(path):
            return read_picture(path, mask=mask)
        with np.errstate(all="ignore"):  # what does not fit becomes infinite, and is found as such
            return read_nifti(path, np.float64 if mask else np.float32)
    except CaseError:
        raise
    except EOFError as error:
        raise CaseError("unreadable", f"{path.name} is cut off: {error}") from error
    except MemoryError as error:
        raise CaseError("too_large", f"{path.name} does not fit into memory") from error
    except Exception as error:  # what a parser raises on hostile bytes is not a closed set
        raise CaseError("unreadable", f"{path.name} cannot be read: {error}") from error


def read_case(
    files: CaseFiles,
    modalities: Sequence[str],
    labels: Mapping[str, int],
    spec: DatasetSpec,
    need_mask: bool = True,
    optional: Sequence[str] = (),
) -> Case:
    """A case as the plan wants it.

    Args:
        files: where it lies.
        modalities: the plan's, in order: the channels of the image.
        labels: the plan's label names, in order, with their default numbers in masks.
        spec: the site's own numbers, where it has some.
        need_mask: False reads a case without mask too.
        optional: the modalities that a case may lack.

    Raises:
        CaseError: a code of severity "error" of `wardround.data.findings`, for the first fault; its text
            names them all.
        InputError: the spec's labels are not the plan's.
    """
    from wardround.data.inspection import inspect_case  # noqa: PLC0415 - inspection stands on these readers

    case, findings, _ = inspect_case(files, modalities, labels, spec, need_mask=need_mask, optional=optional)
    if case is None:
        errors = [finding for finding in findings if finding.severity == "error"]
        raise CaseError(errors[0].code, f"{files.id}: " + "; ".join(finding.message for finding in errors))
    return case


def read_image(files: CaseFiles, modalities: Sequence[str], optional: Sequence[str] = ()) -> tuple[Case, Path]:
    """A case's image without its mask, and the file whose grid a label map of it must have.

    Raises:
        CaseError: as `read_case`.
    """
    bare = CaseFiles(files.id, files.images, None, files.subject)
    case = read_case(bare, modalities, {}, DatasetSpec(), need_mask=False, optional=optional)
    return case, present_modalities(files, modalities, optional)[0][2].path
