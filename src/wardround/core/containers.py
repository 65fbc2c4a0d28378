"""A file compressed by zstd for its way: one frame that announces its size. Unpacking is bounded before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wardround.core.errors import StorageError, WardRoundError

MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1; no tensor file begins so: its header would have 4 GB
HEADER = 18  # most bytes of a frame's header
WINDOW = 1 << 23  # most memory that a frame may ask for: what RFC 8878, 3.1.1.1.2 wants every decoder to have
CHUNK = 1 << 20
# A strategy's parts together have less than so many times the model's bytes; headers and tiny models need some more.
PARTS, SLACK = 4, 1 << 20


def most_bytes(numbers: int) -> int:
    """What a sound file about a model of so many numbers never exceeds."""
    return PARTS * 4 * numbers + SLACK


def is_compressed(path: Path) -> bool:
    """True for a container."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def compress(source: Path, target: Path, level: int) -> None:
    """Write ``source`` into a container; ``level`` is 1 (fast) to 19 (small).

    Raises:
        StorageError: ``target`` cannot be written.
        WardRoundError: the package is missing.
    """
    zstd = _package()
    size = source.stat().st_size
    settings = zstd.ZstdCompressionParameters.from_level(level, source_size=size, window_log=WINDOW.bit_length() - 1)
    try:
        with source.open("rb") as inside, target.open("wb") as outside:
            zstd.ZstdCompressor(compression_params=settings).copy_stream(inside, outside, size=size)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {error.strerror}") from error


@contextmanager
def expanded(source: Path, target: Path, most: int) -> Iterator[Path]:
    """What a container holds, as a file that is removed at the end. Memory stays at a few MB.

    Args:
        source: from anybody.
        target: where it is written.
        most: bytes that may come out. The frame must announce its size; it is checked first, and kept to.

    Raises:
        WardRoundError: not one whole frame of the announced size, or too much.
        StorageError: ``target`` cannot be written.
    """
    try:
        expand(source, target, most)
        yield target
    finally:
        target.unlink(missing_ok=True)


def expand(source: Path, target: Path, most: int) -> None:
    """As `expanded`, but the file stays; after an error a part of it may be there."""
    zstd = _package()
    try:
        left = _announced(zstd, source, most)
        with source.open("rb") as inside, target.open("wb") as outside:
            # Never more than a chunk at a time: a few bytes can hold a gigabyte. What follows the frame is read too.
            unpacker = zstd.ZstdDecompressor(max_window_size=WINDOW)
            reader = unpacker.stream_reader(inside, read_across_frames=True, closefd=False)
            while left >= 0 and (data := reader.read(CHUNK)):
                left -= len(data)
                outside.write(data)
            if left:
                raise WardRoundError("a compressed file does not hold what it announces")
    except zstd.ZstdError as error:
        raise WardRoundError("a compressed file is damaged") from error
    except OSError as error:
        raise StorageError(f"cannot unpack into {target}: {error.strerror}") from error


def _announced(zstd: Any, source: Path, most: int) -> int:
    try:
        with source.open("rb") as file:
            head = file.read(HEADER)
    except OSError as error:
        raise WardRoundError("a compressed file is not there") from error
    frame = zstd.get_frame_parameters(head)
    if frame.content_size in (zstd.CONTENTSIZE_UNKNOWN, zstd.CONTENTSIZE_ERROR):
        raise WardRoundError("a compressed file does not announce its size")
    if frame.content_size > most:
        raise WardRoundError(f"a compressed file announces {frame.content_size} bytes, at most {most} are expected")
    if frame.window_size > WINDOW or frame.dict_id:
        raise WardRoundError("a compressed file asks for too much memory, or for a dictionary")
    return int(frame.content_size)


def _package() -> Any:
    try:
        import zstandard  # noqa: PLC0415 - only where a plan compresses
    except ImportError as error:
        raise WardRoundError(
            "the plan compresses with zstd, for which the package zstandard is missing: pip install wardround[network]"
        ) from error
    return zstandard
