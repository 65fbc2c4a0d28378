"""A federation in one process: startup kits made here, a bridge, and agents whose requests are carried by a call."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tiny import write_site
from wardround.runtimes.https.agent import Agent, Parts
from wardround.runtimes.https.home import Home
from wardround.runtimes.https.office import Office, found_office
from wardround.runtimes.https.patience import Hold, Patience
from wardround.runtimes.nvflare.enrolment import enrol, register
from wardround.runtimes.nvflare.pipe import Bridge, PipeLink, Request, Response
from wardround.runtimes.nvflare.places import URL, SitePlace

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Root:
    """A certificate authority as NVFlare makes one."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def kit(self, folder: Path, name: str, days: int = 30) -> Path:
        """The ``startup`` folder of a site."""
        folder.mkdir(parents=True, exist_ok=True)
        key = rsa.generate_private_key(65537, 2048)
        certificate = _certificate(name, key, self.certificate.subject, self.key, datetime.now(UTC) + days * DAY)
        (folder / "client.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
        private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (folder / "client.key").write_bytes(private)
        return folder


def make_root() -> Root:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trial")])
    return Root(key, _certificate("trial", key, name, key, datetime.now(UTC) + 300 * DAY, authority=True))


def _certificate(
    name: str,
    key: rsa.RSAPrivateKey,
    issuer: x509.Name,
    signer: rsa.RSAPrivateKey,
    end: datetime,
    authority: bool = False,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    building = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    building = (
        building.serial_number(x509.random_serial_number()).not_valid_before(end - 400 * DAY).not_valid_after(end)
    )
    return building.add_extension(x509.BasicConstraints(authority, None), critical=True).sign(signer, SHA256())


@dataclass
class Federation:
    """A coordinator's folder and sites beside it."""

    folder: Path
    root: Root = field(default_factory=make_root)

    def __post_init__(self) -> None:
        self.office: Office = found_office(self.folder / "coordinator", URL, "Trial")
        self.bridge: Bridge | None = None
        self.cut = threading.Event()  # while it is set, nothing is carried
        self.largest = 0  # bytes in one message

    def open(self) -> Bridge:
        self.bridge = Bridge(self.office)
        return self.bridge

    def close(self) -> None:
        if self.bridge is not None:
            self.bridge.close()
        self.office.close()

    def home(self, name: str) -> Home:
        return Home(self.folder / f"site-{name}")

    def place(self, name: str) -> SitePlace:
        data = self.folder / f"data-{name}"
        if not data.exists():
            write_site(data, cases=6)
        store = os.environ["WARDROUND_STORE"]
        return SitePlace(folder=str(self.home(name).root), data=str(data), store=store, threads=1, device="cpu")

    def kit(self, name: str) -> Path:
        folder = self.folder / f"kit-{name}"
        return folder if folder.exists() else self.root.kit(folder, name)

    def enrol(self, name: str, ask: Callable[[bytes], bytes] | None = None, kit: Path | None = None) -> Home:
        home = self.home(name)
        carry = ask or (lambda body: register(self.office, self.root.pem, body))
        enrol(home, self.place(name), kit or self.kit(name), name, carry)
        return home

    def carry(self, name: str) -> Callable[[Request, float], Response]:
        def carrying(request: Request, _seconds: float) -> Response:
            if self.cut.is_set() or self.bridge is None:
                raise ConnectionError("cut")
            response = self.bridge.answer(name, request)
            self.largest = max(self.largest, len(request.body), len(response.body))
            return response

        return carrying

    def agent(self, name: str, make: Any) -> Agent:
        link = PipeLink(self.carry(name), "NVFlare")
        patience = Patience(tries=3, pause=lambda _seconds: None)
        parts = Parts(make=make, patience=patience, hold=Hold(2.0), link=lambda *_: link, renews=False)
        return Agent(self.home(name), parts)
