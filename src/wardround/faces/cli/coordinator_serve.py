"""``wardround coordinator serve``."""

from __future__ import annotations

import logging
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wardround.core.errors import InputError

if TYPE_CHECKING:
    from wardround.runtimes.https.office import Office
    from wardround.runtimes.https.server import Serving

EVERYWHERE = "0.0.0.0"  # noqa: S104 - hospitals come from outside
TROUBLE = ("run_crashed", "run_stumbled", "runs_unreadable", "report_failed")


class Certificates(StrEnum):
    """Whether a site must also show its certificate in TLS."""

    off = "off"
    optional = "optional"
    required = "required"


def register(app: typer.Typer) -> None:
    """Add the command to ``wardround coordinator``."""
    app.command()(serve)


def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")],
    listen: Annotated[
        str | None, typer.Option("--listen", help="HOST:PORT; default all addresses, and the port of the federation's.")
    ] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help="HOST:PORT of a listener for Prometheus.")] = None,
    client_certificates: Annotated[
        Certificates, typer.Option("--client-certificates", help="Also check sites' certificates in TLS.")
    ] = Certificates.off,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="PEM chain of a public authority, instead of our own.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="PEM key of --certificate.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A reverse proxy next to it: X-Forwarded-For tells who calls.")
    ] = False,
    plain_http: Annotated[
        bool, typer.Option("--plain-http", help="No TLS, which ends at that proxy; only at a near --listen address.")
    ] = False,
) -> None:
    """Serve the federation and carry out its runs, until stopped (Ctrl-C, SIGTERM: exit code 0).

    It may be stopped or killed at any time: everything is durable and goes on at the next start. What it
    does is on standard error: JSON lines, readable ones on a terminal.

    Examples: `wardround coordinator serve /srv/federation`,
    `wardround coordinator serve /srv/federation --listen 127.0.0.1:8443 --metrics 127.0.0.1:9108`,
    `wardround coordinator serve /srv/federation --behind-proxy --plain-http --listen 127.0.0.1:8080`
    """
    from wardround.runtimes.https.office import open_office  # noqa: PLC0415 - keeps the command line's start fast
    from wardround.runtimes.https.people_wire import is_carried  # noqa: PLC0415
    from wardround.runtimes.https.server import Serving  # noqa: PLC0415

    if (certificate is None) != (key is None):
        raise InputError("--certificate and --key go together")
    host, port = _address(listen)
    office = open_office(directory)
    if is_carried(office.settings.url):
        office.close()
        raise InputError(f"{directory} is served by the jobs of an NVFlare federation: wardround nvflare keep")
    serving = Serving(host, port, client_certificates.value, metrics, certificate, key, behind_proxy, plain_http)
    try:
        _serve(office, serving)
    finally:
        office.close()


def _serve(office: Office, serving: Serving) -> None:
    """Until a signal; runs begin when requests are taken, and while the folder is locked."""
    from wardround.faces.report.page import write_report  # noqa: PLC0415
    from wardround.runtimes.https import logs  # noqa: PLC0415
    from wardround.runtimes.https.driver import Driver  # noqa: PLC0415
    from wardround.runtimes.https.server import Server  # noqa: PLC0415

    logs.set_up()
    driver = Driver(office, write_report, lambda event, facts: logs.say(event, _level(event), **facts))
    server = Server(office, serving)

    def stop(*_: object) -> None:
        driver.stopping.set()
        server.stop()

    # The server has handlers of its own while it serves, and raises what it caught again at its end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    def started(port: int) -> None:
        settings = office.settings
        logs.say("serving", federation=settings.name, url=settings.url, port=port, folder=str(office.folder))
        driver.start()

    try:
        server.run(started)
    finally:
        driver.stop()
        logs.say("stopped")


def _level(event: str) -> int:
    return logging.ERROR if event in TROUBLE else logging.INFO


def _address(text: str | None) -> tuple[str, int | None]:
    """HOST and PORT; either may be left out. Raises InputError."""
    if text is None:
        return EVERYWHERE, None
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InputError(f"--listen {text}: must be HOST:PORT, as 0.0.0.0:443 or [::]:8443")
    return host.strip("[]") or EVERYWHERE, int(port)
