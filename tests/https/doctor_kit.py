"""A site folder beside a coordinator that answers well, for the tests of the doctor."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from site_fakes import AUTHORITY, Asked, FakeCoordinator, Said, say, serving

from tiny import write_site
from wardround import __version__
from wardround.runtimes.https import doctor_machine
from wardround.runtimes.https.connection import connect, proxy_for, tls
from wardround.runtimes.https.doctor import Finding
from wardround.runtimes.https.doctor_asks import Asker
from wardround.runtimes.https.doctor_path import Way
from wardround.runtimes.https.home import Home, SiteSettings, write_key
from wardround.runtimes.https.wire import Done, Next, Nothing
from wardround.site.policy import default_policy


def make_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and a machine with a GPU."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor_machine, "TORCH", 'print(\'{"torch": "9", "gpus": [["A30", 24000000000]]}\')')


@contextmanager
def healthy() -> Iterator[FakeCoordinator]:
    with serving(lambda _: say(Done())) as server:
        server.federation = server.federation.model_copy(update={"software": __version__})
        server.answer = lambda asked: answers(server, asked)
        yield server


def answers(fake: FakeCoordinator, asked: Asked) -> Said:
    if asked.path == "/v1/federation":
        return say(fake.federation)
    if asked.method == "GET":
        return Said(os.urandom(int(asked.query["count"])))
    return say(Next(do=Nothing()) if asked.path == "/v1/next" else Done())


def site_home(fake: FakeCoordinator, folder: Path) -> Home:
    made = Home(folder / "site")
    made.make()
    made.policy.write_text(default_policy())
    write_key(made.key_file, fake.site_key)
    settings = {"name": "A", "url": fake.url, "federation": fake.federation, "data": str(write_site(folder / "data"))}
    times = {"joined": 0, "expires": int(time.time()) + 90 * 86_400, "software": __version__}
    made.write_settings(SiteSettings.model_validate({**settings, "store": str(folder / "store"), **times}))
    return made


def asker(fake: FakeCoordinator) -> Asker:
    return Asker(connect(fake.url, tls(AUTHORITY.pem)), fake.site_key, fake.federation)


def way(fake: FakeCoordinator) -> Way:
    return Way(fake.url, proxy_for(fake.url))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def quiet(_text: str) -> None:
    pass
