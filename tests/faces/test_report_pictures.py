"""Overlay pictures: pixels only, from their own folder only, from simulations only."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path

import pytest
import report_fixtures as made
from report_html import Page

from wardround.faces.report.page import write_report
from wardround.faces.report.pictures import pixels_only


def test_pictures_lose_their_texts_and_case_names(tmp_path: Path) -> None:
    whole = Page(write_report(made.build(tmp_path / "run", baselines=False, rounds=2)))
    pictures = [str(a["src"]) for tag, a in whole.tags if tag == "img"]
    assert len(pictures) == 16
    for picture in pictures:
        data = base64.b64decode(picture.removeprefix("data:image/png;base64,"))
        assert b"Hidden" not in data
    assert "Hidden" not in whole.source


def test_pictures_can_be_left_out_and_never_come_from_a_network(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", baselines=False, rounds=2)
    assert Page(write_report(run, with_pictures=False)).count("img") == 0
    run.write_json("run.json", {**run.read_json("run.json"), "simulation": False})
    page = Page(write_report(run))
    assert page.count("img") == 0
    assert "pictures never leave the hospital" in page.text


def test_site_names_cannot_reach_other_folders(tmp_path: Path) -> None:
    run = made.build(tmp_path / "run", sites=["A", "B"], baselines=False, rounds=2)
    (tmp_path / "secret.png").write_bytes((run.site("A") / "overlays" / "good-2.png").read_bytes())
    run.write_json("run.json", {**run.read_json("run.json"), "sites": ["..", "../..", "A"]})
    index = run.site("A") / "overlays" / "index.json"
    entries = [
        {"file": name, "kind": "good", "dice": 0.5} for name in ("../../../../secret.png", "/etc/passwd", 7, "x.png")
    ]
    (run.site("A") / "overlays" / "x.png").symlink_to(tmp_path / "secret.png")
    index.write_text(json.dumps(entries), encoding="utf-8")
    page = Page(write_report(run))
    assert page.count("img") == 4  # those of B alone
    assert "4 overlay pictures" in page.text


@pytest.mark.parametrize("index", ["[", "{}", "[1, null, []]", '[{"file": "bad-0.png", "labels": 3, "dice": "x"}]'])
def test_broken_picture_lists_are_survived(tmp_path: Path, index: str) -> None:
    run = made.build(tmp_path / "run", sites=["A"], baselines=False, rounds=1)
    (run.site("A") / "overlays" / "index.json").write_text(index, encoding="utf-8")
    write_report(run)


def test_pixels_only_refuses_what_is_no_picture() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    begin = b"\x89PNG\r\n\x1a\n"
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0))
    body, end = chunk(b"IDAT", zlib.compress(b"\0\1\2\3" * 2)), chunk(b"IEND", b"")
    whole = begin + head + chunk(b"tEXt", b"Name\0Hidden") + chunk(b"eXIf", b"Hidden") + body + end
    assert pixels_only(whole + b"Hidden") == (3, 2, begin + head + body + end)
    vast = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 2, 8, 0, 0, 0, 0))
    for broken in (
        b"",
        b"GIF89a",
        begin,
        begin + head,
        whole[:-5],
        begin + vast + body + end,
        begin + body + head + end,
    ):
        with pytest.raises(ValueError, match=r"PNG|large"):
            pixels_only(broken)
