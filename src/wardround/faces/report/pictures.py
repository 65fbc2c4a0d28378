"""Overlay pictures of a simulated run, made safe to embed: pixels only, no texts, bounded."""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from pathlib import Path

from wardround.core.errors import RunError
from wardround.core.rundir import RunDir
from wardround.faces.report.collect import Material
from wardround.faces.report.history import number

MAX_FILE, MAX_TOTAL, MAX_SIDE, MAX_PER_SITE = 4 << 20, 24 << 20, 4096, 8
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}  # everything else may hold a name


@dataclass(frozen=True)
class Picture:
    """One overlay. ``kind`` is good or bad; the case's name is left out on purpose: a report is passed on."""

    site: str
    kind: str
    dice: float | None
    labels: tuple[tuple[str, float | None], ...]
    width: int
    height: int
    data: str  # data URI


def pictures(material: Material, notes: list[str]) -> list[Picture]:
    """All overlays of a simulation, site by site; nothing where the run was no simulation.

    What cannot be used is passed over and counted in ``notes``.
    """
    if material.facts.get("simulation") is not True:
        return []
    found: list[Picture] = []
    passed_over, room = 0, MAX_TOTAL
    for site in material.sites:
        for entry in _entries(material.run, site)[:MAX_PER_SITE]:
            picture = _picture(material.run, site, entry)
            if picture is None or len(picture.data) > room:
                passed_over += 1
                continue
            room -= len(picture.data)
            found.append(picture)
    if passed_over:
        notes.append(f"{passed_over} overlay pictures are missing, too large or no PNG files, and are left out.")
    return found


def _entries(run: RunDir, site: str) -> list[object]:
    folder = _folder(run, site)
    if folder is None:
        return []
    try:
        entries = RunDir(folder).read_json("index.json")
    except RunError:
        return []
    return entries if isinstance(entries, list) else []


def _folder(run: RunDir, site: str) -> Path | None:
    if Path(site).name != site or site in (".", ".."):  # names come from outside
        return None
    return run.site(site) / "overlays"


def _picture(run: RunDir, site: str, entry: object) -> Picture | None:
    folder = _folder(run, site)
    return None if folder is None else picture_in(folder, site, entry)


def picture_in(folder: Path, site: str, entry: object) -> Picture | None:
    """One overlay of a folder as an entry of its ``index.json`` names it; None where it cannot be used."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
        return None
    path = folder / entry["file"]
    if Path(entry["file"]).name != entry["file"] or path.is_symlink():
        return None
    try:
        if not 0 < path.stat().st_size <= MAX_FILE:
            return None
        width, height, data = pixels_only(path.read_bytes())
    except (OSError, ValueError):
        return None
    labels = entry.get("labels")
    return Picture(
        site=site,
        kind="bad" if entry.get("kind") == "bad" else "good",
        dice=number(entry.get("dice")),
        labels=tuple((str(k), number(v.get("dice"))) for k, v in labels.items() if isinstance(v, dict))
        if isinstance(labels, dict)
        else (),
        width=width,
        height=height,
        data="data:image/png;base64," + base64.b64encode(data).decode("ascii"),
    )


def pixels_only(data: bytes) -> tuple[int, int, bytes]:
    """Width, height and the same PNG without any chunk that is not pixels (texts, dates, profiles).

    Raises:
        ValueError: not a whole PNG file, or larger than 4096 pixels on a side.
    """
    if not data.startswith(_SIGNATURE) or data[12:16] != b"IHDR":
        raise ValueError("not a PNG file")
    width, height = struct.unpack(">II", data[16:24])
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError("the picture is too large")
    kept, place = [_SIGNATURE], len(_SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if end > len(data):
            break
        if kind in _PIXELS:
            kept.append(data[place:end])
        if kind == b"IEND":
            return width, height, b"".join(kept)
        place = end
    raise ValueError("the PNG file is cut off")
