"""A dataset's fingerprint that tells others only whether it changed."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

from wardround.core.errors import DatasetError
from wardround.core.frozen import canonical_json
from wardround.core.weights import file_digest
from wardround.data.case import CaseFiles
from wardround.data.dataset import Dataset


def dataset_digest(dataset: Dataset, secret: bytes) -> str:
    """HMAC-SHA256 over every case's name, the roles and contents of its files, and the spec.

    Keyed with a secret of the site, so that nobody who knows a public data set can recognise it.

    Args:
        dataset: the listed dataset; its files are read.
        secret: at least 16 bytes that never leave the site.

    Returns:
        64 hexadecimal digits.

    Raises:
        DatasetError: a file cannot be read.
    """
    if len(secret) < 16:
        raise ValueError("the secret needs at least 16 bytes")
    digest = hmac.new(secret, dataset.spec.canonical().encode(), hashlib.sha256)
    for case in dataset.cases:
        roles = list(_roles(case))
        contents = {path: _contents(path) for path in {path for _, path in roles}}
        for role, path in roles:
            digest.update(
                canonical_json([case.id, case.subject, role, contents[path]]).encode(errors="surrogateescape")
            )
    return digest.hexdigest()


def _roles(case: CaseFiles) -> Iterator[tuple[str, Path]]:
    for name, source in sorted(case.images.items()):
        yield f"image:{name}:{'' if source.channel is None else source.channel}", source.path
    if case.mask is not None:
        yield "mask", case.mask


def _contents(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from error
