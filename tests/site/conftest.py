"""Fixtures for tests that train: one thread, and a store of their own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of this test."""
    root = tmp_path / "store"
    monkeypatch.setenv("WARDROUND_STORE", str(root))
    return root
