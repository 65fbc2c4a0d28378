"""`wardround site doctor`: everything between a hospital's dataset and its coordinator, each check with its remedy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from wardround.core.audit import AuditLog
from wardround.core.errors import InputError, StorageError
from wardround.runtimes.https import doctor_asks as asks
from wardround.runtimes.https import doctor_machine as machine
from wardround.runtimes.https import doctor_path as path
from wardround.runtimes.https.client import link_of
from wardround.runtimes.https.connection import proxy_for
from wardround.runtimes.https.doctor_path import Finding
from wardround.runtimes.https.home import Home, SiteSettings
from wardround.runtimes.https.patience import Unreachable, Untrusted

__all__ = ["Finding", "examine"]

Tell = Callable[[str], None]
MOST_PLANS = 200


def examine(home: Home, quick: bool = False, tell: Tell = lambda _text: None) -> Iterator[Finding]:
    """Check everything, one finding after the other; a step that cannot be tried is passed over with a word.

    The largest request that passes is written into ``site.json``.

    Args:
        home: the site folder.
        quick: leave out what takes long: idle connections, sizes, speed, and reading every case.
        tell: is told what is being done where that takes a while.

    Raises:
        InputError: ``site.json`` is not valid.
    """
    settings = home.settings()
    yield machine.check_key(home, settings)
    yield from _way(home, settings, quick, tell)
    yield machine.check_agent(home)
    yield machine.check_policy(home)
    yield from machine.check_disk(home, settings)
    yield machine.check_memory()
    tell("loading torch")
    yield from machine.check_processor(settings)
    tell("reading the dataset")
    yield machine.check_data(settings, quick)


def _way(home: Home, settings: SiteSettings, quick: bool, tell: Tell) -> Iterator[Finding]:
    """The way to the coordinator; ends at the first step that fails."""
    try:
        way = path.Way(settings.url, proxy_for(settings.url))
    except InputError as error:
        yield Finding("proxy", "fail", str(error), "set HTTPS_PROXY=http://host:port")
        return
    steps: list[Callable[[], Finding]] = [
        lambda: path.check_name(way),
        lambda: path.check_connection(way),
        lambda: path.check_tls(way, settings.federation.authority),
    ]
    for step in steps:
        found = step()
        yield found
        if found.state == "fail":
            yield Finding("coordinator", "skipped", "there is no way to it yet")
            return
    yield from _coordinator(home, settings, quick, tell)


def _coordinator(home: Home, settings: SiteSettings, quick: bool, tell: Tell) -> Iterator[Finding]:
    try:
        asker = _asker(home, settings)
        found = asks.check_coordinator(asker)
    except StorageError as error:
        yield Finding("coordinator", "skipped", f"it cannot be asked without a key ({error})")
        return
    except Untrusted as error:
        remedy = "open the coordinator's address in a browser on this machine: the page that is shown says who it is"
        yield Finding("coordinator", "fail", str(error), remedy)
        return
    except Unreachable as error:
        yield Finding("coordinator", "fail", str(error), "is the coordinator running? Ask its owner")
        return
    yield from found
    if any(one.state == "fail" for one in found):
        return
    if quick:
        yield Finding("idle connections, sizes, speed", "skipped", "not tried with --quick")
        return
    yield asks.check_silence(asker, tell)
    pieces = asks.check_pieces(asker, tell)
    yield pieces.finding
    if pieces.largest is not None:
        keep_piece(home, pieces.largest)
        yield asks.check_speed(asker, pieces.speed, tell)


def keep_piece(home: Home, largest: int) -> None:
    """Write the largest request that passes into ``site.json``; `serve` heeds it when it starts."""
    settings = home.settings()
    if settings.largest_piece != largest:
        home.write_settings(settings.model_copy(update={"largest_piece": largest}))


def _asker(home: Home, settings: SiteSettings) -> asks.Asker:
    plans = sorted(path.stem for path in home.requests.glob("*.json"))[-MOST_PLANS:]
    audit = AuditLog(home.audit)

    def leaving(kind: str, body: bytes) -> None:
        audit.append("left", kind=kind, bytes=len(body), sha256=hashlib.sha256(body).hexdigest())

    link, key = link_of(home, settings), home.key()
    return asks.Asker(link, key, settings.federation, plans=tuple(plans), leaving=leaving)
