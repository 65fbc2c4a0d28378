"""nnU-Net (versions 1 and 2) and Medical Segmentation Decathlon: ``dataset.json``, ``imagesTr``, ``labelsTr``."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError, field_validator

from wardround.core.errors import DatasetError
from wardround.data.case import CaseFiles, Source
from wardround.data.case_names import is_picture, stem
from wardround.data.findings import Finding
from wardround.data.layouts import Listing, ambiguous, list_folder

MAX_BYTES = 4 << 20
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")
_Name = Annotated[str, Field(max_length=100)]
_Number = Annotated[int, Field(ge=0, le=9999)]


class _Description(BaseModel):
    """The part of dataset.json that is used; the rest is ignored, not trusted."""

    channel_names: dict[_Number, _Name] = Field(default_factory=dict, max_length=100)
    labels: dict[_Number, _Name] = Field(default_factory=dict, max_length=1000)

    @field_validator("labels", mode="before")
    @classmethod
    def _number_first(cls, value: Any) -> Any:
        """Version 1 writes number: name, version 2 name: number; regions (lists of numbers) are no labels."""
        if not isinstance(value, dict):
            return value
        pairs = [(key, content) for key, content in value.items() if not isinstance(content, list)]
        turned = [(name, key) if isinstance(name, int) else (key, name) for key, name in pairs]
        if len({str(number) for number, _ in turned}) < len(turned):
            raise ValueError("two labels have the same number")
        return dict(turned)


def list_nnunet(root: Path) -> Listing | None:
    """The dataset as nnU-Net or Decathlon raw data, or None where there is no ``imagesTr``.

    Raises:
        DatasetError: dataset.json is not what these layouts say.
    """
    if not (root / "imagesTr").is_dir():
        return None
    description = _describe(root / "dataset.json")
    images, notes = list_folder(root / "imagesTr")
    masks, more = list_folder(root / "labelsTr") if (root / "labelsTr").is_dir() else ([], [])
    by_case: defaultdict[str, list[Path]] = defaultdict(list)
    for path in masks:
        by_case[stem(path)].append(path)
    found = _group(images, set(by_case))
    notes += [*more, *_notes(found, by_case)]
    cases = [
        CaseFiles(case, _sources(files, description.channel_names), _only(by_case.get(case, [])))
        for case, files in sorted(found.items())
    ]
    return Listing("nnU-Net / Decathlon", tuple(cases), tuple(notes), description.labels)


def _describe(path: Path) -> _Description:
    if not path.is_file():
        return _Description()
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DatasetError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
        content = json.loads(data)
        if isinstance(content, dict):  # version 1 and the Decathlon say "modality"
            content = {"channel_names": content.get("channel_names", content.get("modality", {})), **content}
        return _Description.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))[:80]}: {e['msg']}" for e in error.errors()[:10])
        raise DatasetError(f"{path} is not a dataset.json of nnU-Net or the Decathlon: {faults}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error


def _group(images: list[Path], cases: set[str]) -> dict[str, dict[int | None, list[Path]]]:
    """Case -> channel (None: the file has no channel number) -> files."""
    found: defaultdict[str, dict[int | None, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in images:
        match = _CHANNEL.fullmatch(stem(path))
        if stem(path) in cases or match is None:
            found[stem(path)][None].append(path)
        else:
            found[match["case"]][int(match["channel"])].append(path)
    return found


def _sources(files: dict[int | None, list[Path]], names: dict[int, str]) -> dict[str, Source]:
    single = {channel: paths[0] for channel, paths in files.items() if len(paths) == 1}
    whole = single.get(None)
    if whole is None and set(single) == {0} and is_picture(single[0]):
        whole = single[0]  # a colour picture holds all of its channels
    if whole is not None and len(names) > 1:
        return {name: Source(whole, channel) for channel, name in sorted(names.items())}
    if whole is not None:
        return {next(iter(names.values()), ""): Source(whole)}
    numbered = {channel: path for channel, path in single.items() if channel is not None}
    if not names and set(numbered) == {0}:
        return {"": Source(numbered[0])}
    return {names.get(channel, f"{channel:04d}"): Source(path) for channel, path in sorted(numbered.items())}


def _notes(found: dict[str, dict[int | None, list[Path]]], masks: dict[str, list[Path]]) -> list[Finding]:
    notes = [
        ambiguous(case, "image" if channel is None else f"image of channel {channel}", paths)
        for case, files in found.items()
        for channel, paths in files.items()
        if len(paths) > 1
    ]
    notes += [ambiguous(case, "mask", paths) for case, paths in masks.items() if len(paths) > 1]
    return notes + [
        Finding(case, "note", "mask_without_image", f"{paths[0].name} has no image in imagesTr")
        for case, paths in sorted(masks.items())
        if case not in found
    ]


def _only(paths: list[Path]) -> Path | None:
    return paths[0] if len(paths) == 1 else None
