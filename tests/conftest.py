"""Fixtures that every room's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real and semi-synthetic images beside the checkout; skips where a clone has none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the image folder ../shared/data beside the checkout, which is not part of the repository")
    return SHARED_DATA
