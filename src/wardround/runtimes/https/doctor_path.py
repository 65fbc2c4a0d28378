"""The way from a hospital to the coordinator, step by step: name, proxy, connection, TLS. Says who stands in it."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from wardround.core.errors import WardRoundError
from wardround.runtimes.https.connection import Proxy, tls

State = Literal["ok", "warn", "fail", "skipped"]
SECONDS = 20.0
HEAD = 16 << 10  # most bytes of a proxy's answer that are read
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})")


@dataclass(frozen=True)
class Finding:
    """One check: what was seen, and where it is not right what to do."""

    name: str
    state: State
    seen: str
    remedy: str = ""


class Trouble(WardRoundError):
    """A step of the way does not work."""

    def __init__(self, seen: str, remedy: str) -> None:
        self.seen, self.remedy = seen, remedy
        super().__init__(f"{seen}: {remedy}")


@dataclass(frozen=True)
class Way:
    """Where to, and through what."""

    url: str
    proxy: Proxy | None

    @property
    def target(self) -> tuple[str, int]:
        """The coordinator's host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 443

    @property
    def first(self) -> tuple[str, int]:
        """Whom this machine connects to: the proxy or the coordinator."""
        if self.proxy is None:
            return self.target
        parts = urlsplit(self.proxy.url)
        return parts.hostname or "", parts.port or 0


def check_name(way: Way) -> Finding:
    """Whether the name is known here. Behind a proxy only the proxy's name need be."""
    host, port = way.first
    begin = time.perf_counter()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        remedy = "ask IT for the name's entry in DNS, or set HTTPS_PROXY where outside names are the proxy's business"
        if way.proxy is not None:
            remedy = "is HTTPS_PROXY spelt right?"
        return Finding("name (DNS)", "fail", f"{host} is not known here ({_plain(error)})", remedy)
    addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    said = f"{host} is {addresses} ({_ms(begin)})"
    return Finding("name (DNS)", "ok", f"proxy {said}" if way.proxy is not None else said)


def check_connection(way: Way) -> Finding:
    """Whether anything answers, and what a proxy says."""
    name = "proxy" if way.proxy is not None else "connection (TCP)"
    begin = time.perf_counter()
    try:
        reach(way).close()
    except Trouble as trouble:
        return Finding(name, "fail", trouble.seen, trouble.remedy)
    host, port = way.target
    if way.proxy is None:
        return Finding(name, "ok", f"{host}:{port} answers ({_ms(begin)}); no proxy is set in the environment")
    user = f"as the user {way.proxy.user}" if way.proxy.user is not None else "without a user"
    return Finding(name, "ok", f"{way.proxy.url} lets {host}:{port} through, {user} ({_ms(begin)})")


def reach(way: Way) -> socket.socket | ssl.SSLSocket:
    """A connection to the coordinator, through the proxy where there is one; TLS has not begun.

    Raises:
        Trouble: there is none.
    """
    host, port = way.first
    who = f"the proxy {way.proxy.url}" if way.proxy is not None else f"{host}:{port}"
    try:
        made = socket.create_connection((host, port), timeout=SECONDS)
    except ConnectionRefusedError:
        raise Trouble(f"{who} refuses connections", _REFUSED[way.proxy is None]) from None
    except TimeoutError:
        raise Trouble(f"{who} does not answer within {SECONDS:.0f} s", _SILENT[way.proxy is None]) from None
    except OSError as error:
        raise Trouble(f"{who} cannot be reached ({_plain(error)})", _REFUSED[way.proxy is None]) from error
    if way.proxy is None:
        return made
    try:
        if way.proxy.url.startswith("https:"):
            made = ssl.create_default_context().wrap_socket(made, server_hostname=host)
        return _tunnel(made, way, way.proxy)
    except OSError as error:
        made.close()
        raise Trouble(f"{who} broke the connection off ({_plain(error)})", _REFUSED[False]) from error
    except Trouble:
        made.close()
        raise


_REFUSED = {
    True: "is the coordinator running, and is its address right? Otherwise ask IT to allow outbound HTTPS to it",
    False: "is HTTPS_PROXY right? It names the proxy as http://host:port",
}
_SILENT = {
    True: "a firewall holds it back: ask IT to allow outbound HTTPS to this host, or set HTTPS_PROXY",
    False: "is HTTPS_PROXY right, and may this machine use the proxy?",
}


def _tunnel(made: socket.socket, way: Way, proxy: Proxy) -> socket.socket:
    host, port = way.target
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
    if proxy.user is not None:
        word = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {word}")
    made.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head and len(head) < HEAD:
        data = made.recv(4096)
        if not data:
            break
        head += data
    match = _STATUS.match(head)
    if match is None:
        raise Trouble(f"{proxy.url} does not answer as a proxy does", _REFUSED[False])
    if match[1] != b"200":
        raise _refused(int(match[1]), head, proxy, host)
    return made


def _refused(status: int, head: bytes, proxy: Proxy, host: str) -> Trouble:
    if status != 407:
        return Trouble(
            f"the proxy {proxy.url} does not let {host} through (HTTP {status})",
            f"ask IT to allow CONNECT to {host} for this machine",
        )
    offers = re.findall(rb"(?im)^proxy-authenticate:[ \t]*([A-Za-z]+)", head)
    schemes = sorted({offer.decode().capitalize().replace("Ntlm", "NTLM") for offer in offers})
    if schemes and "Basic" not in schemes:
        return Trouble(
            f"the proxy {proxy.url} asks for {' or '.join(schemes)} (HTTP 407), which is not spoken here",
            "ask IT to let this machine through without it, or to run a helper on it that logs in to the proxy, and "
            "set HTTPS_PROXY to the helper",
        )
    if proxy.user is not None:
        what, remedy = (
            "refused this user and password",
            "put the right ones into HTTPS_PROXY (% codes for @ : / in them)",
        )
    else:
        what, remedy = "asks for a user and password", "set HTTPS_PROXY=http://user:password@host:port"
    return Trouble(f"the proxy {proxy.url} {what} (HTTP 407)", remedy)


def check_tls(way: Way, authority: str, dial: Callable[[Way], socket.socket] = reach) -> Finding:
    """Who vouches for what answers; a proxy that opens TLS shows by its certificate.

    Args:
        way: to the coordinator.
        authority: PEM of the federation's own certificate authority.
        dial: makes the connection.
    """
    begin = time.perf_counter()
    try:
        leaf, trusted = _handshake(way, authority, dial)
    except Trouble as trouble:
        return Finding("TLS", "fail", trouble.seen, trouble.remedy)
    issuer, ours = issuer_of(leaf), issued_by(leaf, authority)
    if ours and trusted == "":
        return Finding("TLS", "ok", f"certificate of the federation's own authority: nobody opens TLS ({_ms(begin)})")
    if ours:
        return Finding(
            "TLS",
            "fail",
            f"the coordinator's certificate does not fit ({trusted})",
            "tell the coordinator: its certificate has another name or has ended",
        )
    if trusted:
        return Finding(
            "TLS",
            "fail",
            f"a certificate of '{issuer}' answers, which this machine does not trust ({trusted})",
            f"where the hospital's proxy opens TLS: ask IT for the certificate of '{issuer}', and name its file with "
            "SSL_CERT_FILE, or have it added to this machine's trust store. Where it does not, somebody is listening",
        )
    return Finding(
        "TLS",
        "warn",
        f"a certificate of '{issuer}' answers, not of the federation's own authority: a proxy on the way opens TLS, or "
        "the coordinator stands behind a reverse proxy with a certificate of its own",
        "safe against changes, because every message is signed; but who opens TLS can read what leaves: trained "
        "weights and sums. Ask the coordinator which of the two it is; where that must not be, ask IT not to open TLS "
        f"to {way.target[0]}",
    )


def _handshake(way: Way, authority: str, dial: Callable[[Way], socket.socket]) -> tuple[x509.Certificate, str]:
    """The certificate that is shown, and why it is not trusted; empty where it is."""
    try:
        return _shown(dial(way), tls(authority), way), ""
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message
    except (OSError, ValueError) as error:
        raise Trouble(
            f"TLS could not be agreed on ({_plain(error)})",
            "does another program answer at this port, or does a proxy block TLS? Show this line to IT",
        ) from error
    try:
        return _shown(dial(way), tls(None), way), why
    except (OSError, ValueError) as error:
        raise Trouble(f"TLS fails ({why}, then {_plain(error)})", "show this line to IT") from error


def _shown(made: socket.socket, context: ssl.SSLContext, way: Way) -> x509.Certificate:
    with made:
        if isinstance(made, ssl.SSLSocket):  # to a proxy that speaks TLS itself
            from urllib3.util.ssltransport import SSLTransport  # noqa: PLC0415 - rarely needed

            der = SSLTransport(made, context, way.target[0]).getpeercert(binary_form=True)
        else:
            with context.wrap_socket(made, server_hostname=way.target[0]) as secured:
                der = secured.getpeercert(binary_form=True)
    if not isinstance(der, bytes):
        raise ValueError("no certificate was shown")
    return x509.load_der_x509_certificate(der)


def issued_by(leaf: x509.Certificate, authority: str) -> bool:
    """Whether the federation's authority signed a certificate."""
    try:
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.encode()))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def issuer_of(leaf: x509.Certificate) -> str:
    """Who signed a certificate, in words that can be shown."""
    names: Mapping[x509.ObjectIdentifier, str] = {
        part.oid: str(part.value) for part in leaf.issuer
    }  # fmt: skip
    words = [names[oid] for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME) if oid in names]
    text = ", ".join(dict.fromkeys(words)) or leaf.issuer.rfc4514_string()
    return "".join(letter for letter in text[:100] if letter.isprintable()) or "nobody"


def _ms(begin: float) -> str:
    return f"{1000 * (time.perf_counter() - begin):.0f} ms"


def _plain(error: Exception) -> str:
    text = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "".join(letter for letter in str(text)[:100] if letter.isprintable())
