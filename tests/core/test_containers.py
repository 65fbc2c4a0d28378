"""Compressed files: what comes out is bounded before anything is written, whoever made them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.core import containers
from wardround.core.containers import CHUNK, compress, expand, expanded, is_compressed, most_bytes
from wardround.core.errors import StorageError, WardRoundError

DATA = os.urandom(5000) + bytes(3 * CHUNK)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plain").write_bytes(DATA)
    compress(tmp_path / "plain", tmp_path / "small", 3)
    return tmp_path


def refused(folder: Path, data: bytes, most: int = 1 << 30) -> str:
    (folder / "bad").write_bytes(data)
    with pytest.raises(WardRoundError) as caught, expanded(folder / "bad", folder / "out", most):
        pass
    assert not (folder / "out").exists()
    return str(caught.value)


def test_what_goes_in_comes_out(folder: Path) -> None:
    assert (folder / "small").stat().st_size < 6000
    assert is_compressed(folder / "small")
    assert not is_compressed(folder / "plain")
    with expanded(folder / "small", folder / "out", len(DATA)) as out:
        assert out.read_bytes() == DATA
    assert not (folder / "out").exists()


def test_equal_files_are_compressed_to_equal_bytes(folder: Path) -> None:
    compress(folder / "plain", folder / "again", 3)
    assert (folder / "again").read_bytes() == (folder / "small").read_bytes()


def test_the_size_is_checked_before_anything_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (folder / "small").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", Path.write_bytes)
    assert "at most" in refused(folder, data, len(DATA) - 1)
    monkeypatch.setattr(containers, "_announced", lambda *_: 1000)
    assert "does not hold what it announces" in refused(folder, data)


def test_not_one_whole_frame(folder: Path) -> None:
    data = (folder / "small").read_bytes()
    for bad in (b"", data[:3], data[:12], data[:-1], data[:-100], b"x" + data, data + b"more than nothing",
                data + zstandard.compress(b"another frame")):  # fmt: skip
        refused(folder, bad)


def test_a_frame_must_announce_its_size_and_ask_for_little_memory(folder: Path) -> None:
    silent = zstandard.ZstdCompressor(write_content_size=False).compress(DATA)
    assert "does not announce" in refused(folder, silent)
    wide = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=True)
    compressor = zstandard.ZstdCompressor(compression_params=wide).compressobj(size=1 << 28)
    assert "memory" in refused(folder, compressor.compress(b"x") + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """Two GB in 64 kB, announced and expected: not more than a few chunks are in memory at any time."""
    size = 2 << 30
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    piece = bytes(1 << 24)
    with (tmp_path / "bomb").open("wb") as file:
        for _ in range(size // len(piece)):
            file.write(compressor.compress(piece))
        file.write(compressor.flush())
    code = """
import sys
from pathlib import Path
from wardround.core import containers
class Nowhere:
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def write(self, data): assert len(data) <= containers.CHUNK
real = Path.open
Path.open = lambda self, mode="r", *a, **k: Nowhere() if mode == "wb" else real(self, mode, *a, **k)
before = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
containers.expand(Path(sys.argv[1]), Path("nowhere"), 1 << 31)
print(int([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]) - int(before))
"""
    command = [sys.executable, "-c", code, str(tmp_path / "bomb")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 32, done.stdout


@given(st.lists(st.tuples(st.integers(0, 5100), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_bytes_end_in_a_bounded_file_or_in_our_error(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = bytearray(zstandard.compress(DATA))
    for place, value in flips:
        data[place % len(data)] = value
    (folder / "fuzzed").write_bytes(data)
    try:
        with expanded(folder / "fuzzed", folder / "fuzzed-out", 2 * len(DATA)) as out:
            assert out.stat().st_size <= 2 * len(DATA)
    except WardRoundError:
        pass
    assert not (folder / "fuzzed-out").exists()


def test_faults_of_this_machine_are_told_apart(folder: Path) -> None:
    with pytest.raises(WardRoundError, match="not there"):
        expand(folder / "gone", folder / "out", 10)
    with pytest.raises(StorageError):
        expand(folder / "small", folder / "no folder" / "out", len(DATA))
    with pytest.raises(StorageError):
        compress(folder / "plain", folder / "no folder" / "out", 1)


def test_without_the_package_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(WardRoundError, match=r"pip install wardround\[network\]"):
        expand(folder / "small", folder / "out", len(DATA))


def test_the_bound_holds_what_strategies_send() -> None:
    model = 4 * 31_000_000
    assert 2 * model < most_bytes(31_000_000) < 5 * model
    assert most_bytes(0) == 1 << 20
