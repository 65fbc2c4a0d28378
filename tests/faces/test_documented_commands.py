"""Every command and option that the pages in docs/how-to and the drawing name exists, and every page that is linked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from wardround.faces.cli.app import app
from wardround.faces.cli.coordinator import coordinator_app
from wardround.faces.cli.nvflare import nvflare_app
from wardround.faces.cli.site import site_app

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted((DOCS / "how-to").glob("*.md"))
GROUPS = {"site": site_app, "coordinator": coordinator_app, "nvflare": nvflare_app}
USE = re.compile(r"\bwardround (?:(site|coordinator|nvflare) )?([a-z]+)((?:[^`|;#\n]|\\\n)*)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def options(group: str, name: str) -> set[str]:
    """All options of a command; KeyError where there is no such command."""
    found = typer.main.get_command(GROUPS[group] if group else app)
    command = found.commands[name]  # type: ignore[attr-defined] # these are groups
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


def uses(page: Path) -> list[tuple[str, str, str]]:
    text = page.read_text(encoding="utf-8")
    shown = (
        "\n".join(re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL))
        + "\n"
        + "\n".join(re.findall(r"`([^`]+)`", text))
    )
    return [(group, name, rest) for group, name, rest in USE.findall(shown) if not rest.startswith("/")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    for group, name, rest in uses(page):
        if not group and name in {"plan", *GROUPS}:  # a group by itself
            continue
        known = options(group, name)
        unknown = [word for word in re.findall(r"(?<!\S)--[a-z-]+", rest) if word not in known]
        assert not unknown, f"wardround {group} {name}: {unknown}"


def test_the_pages_do_name_commands() -> None:
    named = {(group, name) for page in PAGES for group, name, _ in uses(page)}
    assert {("site", "join"), ("site", "doctor"), ("coordinator", "init"), ("coordinator", "restore")} <= named


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()]
    assert not missing


def test_the_drawing_is_plain_and_self_contained() -> None:
    text = (DOCS / "images" / "network.svg").read_text(encoding="utf-8")
    assert "<script" not in text
    assert re.findall(r"(?:href|src)=", text) == []
    assert "prefers-color-scheme: dark" in text
