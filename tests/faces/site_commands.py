"""A site folder that was offered a plan, and the commands that decide about it, for tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner, Result

from tiny import make_plan, write_site
from wardround.core.audit import AuditLog, SignedHead
from wardround.core.errors import InputError, WardRoundError
from wardround.faces.cli.site_consent import opened, register
from wardround.faces.cli.site_log import LastHead
from wardround.planning.plan import Plan
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.signing import public_hex
from wardround.runtimes.https.wire import Federation, Head, head_text
from wardround.site.policy import default_policy

PLAN = make_plan(study={"title": "A tiny study", "purpose": "To learn what a ball is.", "ethics": "2025-17"})
DIGEST = PLAN.digest()
COORDINATOR = Ed25519PrivateKey.from_private_bytes(b"\7" * 32)
Run = Callable[..., Result]


def make_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A site that has joined and was offered one plan."""
    made = Home(tmp_path / "our site")
    made.make()
    federation = Federation(id="0" * 32, name="Balls", software="0.1.0", key=public_hex(COORDINATOR), authority="none")
    settings = SiteSettings(
        name="Mainz",
        url="https://coordinator.example",
        federation=federation,
        data=str(write_site(tmp_path / "data", cases=8)),
        store=str(tmp_path / "store"),
        joined=0,
        expires=2**31,
        software="0.1.0",
    )
    made.write_settings(settings)
    made.policy.write_text(default_policy())
    monkeypatch.setenv("WARDROUND_SITE", str(made.root))
    monkeypatch.setenv("COLUMNS", "200")
    offer(PLAN)
    return made


def offer(plan: Plan) -> None:
    opened(None)[1].receive(plan.canonical().encode())


def call(*arguments: str, last_head: LastHead | None = None) -> Result:
    app = typer.Typer()
    register(app, last_head)
    return CliRunner().invoke(app, list(arguments))


def good(result: Result) -> str:
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def failed(result: Result, kind: type[WardRoundError] = InputError) -> str:
    assert isinstance(result.exception, kind), (result.output, result.exception)
    return str(result.exception)


def signed(log: AuditLog, length: int, time: int = 1_700_000_000) -> SignedHead:
    digest = log.hash_at(length)
    assert digest is not None
    text = head_text("0" * 32, "Mainz", Head(length=length, hash=digest), time)
    return SignedHead(length=length, hash=digest, time=time, signature=COORDINATOR.sign(text).hex())


def plain(text: str) -> str:
    """Without the layout: any run of blanks is one."""
    return re.sub(r"\s+", " ", text)


def words_of(page: str) -> str:
    """A page's text."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[str] = []

        def handle_data(self, data: str) -> None:
            self.found.append(data)

    reader = Reader()
    reader.feed(page)
    return plain("".join(reader.found))
