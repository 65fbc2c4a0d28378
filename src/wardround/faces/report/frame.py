"""What all pages share: templates that escape everything, one style sheet, and a strict security policy."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wardround.faces.report import shown
from wardround.faces.report.history import mean_of, std_of

_FILTERS = ("counted", "decimal", "duration", "listed", "percent", "ranges", "signed", "size", "whole")


@cache
def environment() -> Environment:
    """Templates with the filters of `wardround.faces.report.shown`."""
    made = Environment(
        loader=PackageLoader("wardround.faces.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update({name: getattr(shown, name) for name in _FILTERS})
    made.filters.update(moment=_moment, mean=mean_of, std=std_of)
    return made


def framed(style: str, script: str | None = None) -> dict[str, Any]:
    """``style``, ``script`` and ``policy`` of a page: only these two texts may act, told by their hashes."""
    rules = ["default-src 'none'", "img-src data:", f"style-src '{_hash(asset(style))}'"]
    if script is not None:
        rules.append(f"script-src '{_hash(asset(script))}'")
    return {
        "style": Markup(asset(style)),  # noqa: S704 - our own file
        "script": Markup(asset(script) if script else ""),  # noqa: S704 - our own file
        "policy": "; ".join([*rules, "base-uri 'none'", "form-action 'none'"]),
    }


@cache
def asset(name: str) -> str:
    """A file of the templates' folder."""
    return (resources.files("wardround.faces.report") / "templates" / name).read_text(encoding="utf-8")


def _moment(value: datetime | None) -> str:
    return shown.NOTHING if value is None else value.astimezone(UTC).strftime("%d %b %Y, %H:%M UTC")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
