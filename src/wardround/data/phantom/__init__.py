"""SYNTHETIC hospitals with multiple sclerosis, for demonstrations and tests: no patient's image in them."""

from __future__ import annotations

from wardround.data.phantom.hospitals import write_hospitals
from wardround.data.phantom.scanner import SCANNERS, Scanner

__all__ = ["SCANNERS", "Scanner", "write_hospitals"]
