"""The way out of a hospital: TLS, proxies, and what is wrong with either in words that help.

A proxy comes from ``HTTPS_PROXY`` (or ``https_proxy``), with ``user:password@`` where it asks for that;
``NO_PROXY`` names hosts that are reached without. TLS trusts the system's authorities (or those of
``SSL_CERT_FILE``, or of a TLS-inspecting proxy that IT installed) and the federation's own.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Timeout, make_headers

from wardround.core.errors import InputError

CONNECT = 20.0  # seconds, also of a send that makes no progress
READ = 60.0  # seconds without a byte
_KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


@dataclass(frozen=True)
class Proxy:
    """A proxy; its password is in no text that is shown."""

    url: str  # scheme://host:port
    user: str | None = None
    password: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What the proxy is told, and nobody behind it."""
        if self.user is None:
            return {}
        return dict(make_headers(proxy_basic_auth=f"{self.user}:{self.password or ''}"))

    def __repr__(self) -> str:
        return f"Proxy({self.url}{' with a user' if self.user is not None else ''})"


@dataclass(frozen=True)
class Link:
    """Connections to one coordinator."""

    url: str  # https://host[:port]
    pool: urllib3.PoolManager
    proxy: Proxy | None

    @property
    def host(self) -> str:
        """Of the coordinator."""
        return urlsplit(self.url).hostname or ""

    def send(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, read: float) -> _Response:
        """One request; no redirect is followed and nothing is tried again.

        Raises:
            HTTPError, OSError: see `in_words`.
        """
        return self.pool.request(
            method,
            self.url + target,
            body=body,
            headers=dict(headers),
            timeout=Timeout(connect=CONNECT, read=read),
            retries=False,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )

    def close(self) -> None:
        """End idle connections."""
        self.pool.clear()

    def in_words(self, error: Exception) -> str:
        """What went wrong on the way, and what to do; holds no password."""
        way = f" through the proxy {self.proxy.url}" if self.proxy is not None else ""
        if isinstance(error, ProxyError):
            return self._proxy_in_words(error)
        if isinstance(error, SSLError | ssl.SSLError):
            return self._tls_in_words(error, way)
        if isinstance(error, NameResolutionError):
            return f"the name {self.host} is not known here (DNS): ask IT, or set HTTPS_PROXY where a proxy is needed"
        for kind, words in _WORDS.items():
            if isinstance(error, kind):
                return f"{self.url}{way} {words}"
        return f"the connection to {self.url}{way} broke ({type(error).__name__})"

    def _proxy_in_words(self, error: ProxyError) -> str:
        name = self.proxy.url if self.proxy is not None else "?"
        cause = str(error.original_error)
        if "407" in cause:
            what = "refused the user and password" if self.proxy and self.proxy.user else "asks for a user and password"
            return f"the proxy {name} {what} (407): set HTTPS_PROXY=http://user:password@host:port"
        if "Tunnel connection failed" in cause:
            reason = cause.partition("Tunnel connection failed")[2].strip(": ")[:80]
            return f"the proxy {name} does not let {self.host} through ({reason}): ask IT to allow it"
        return f"the proxy {name} cannot be reached: is HTTPS_PROXY right?"

    def _tls_in_words(self, error: Exception, way: str) -> str:
        cause = error.args[0] if error.args and isinstance(error.args[0], ssl.SSLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"the TLS certificate of {self.host}{way} is not trusted ({cause.verify_message}): where a proxy opens "
                "TLS, its authority must be in this machine's trust store, or in the file that SSL_CERT_FILE names"
            )
        return f"TLS to {self.host}{way} failed ({getattr(cause, 'reason', None) or type(error).__name__})"


_Response = urllib3.BaseHTTPResponse
_WORDS: dict[type[Exception], str] = {
    NewConnectionError: "cannot be reached: nothing listens there, or a firewall refuses",
    ConnectTimeoutError: "does not answer: a firewall may hold it back",
    ReadTimeoutError: "fell silent",
}


def proxy_for(url: str) -> Proxy | None:
    """The proxy that the environment names for ``url``.

    Raises:
        InputError: HTTPS_PROXY is no proxy's address; the text does not repeat it, it may hold a password.
    """
    host = urlsplit(url).netloc
    proxies = getproxies_environment()
    text = proxies.get("https") or proxies.get("all")
    if not text or proxy_bypass(host):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        return _proxy(parts)
    except ValueError as error:
        raise InputError("HTTPS_PROXY should be http://host:port or http://user:password@host:port") from error


def _proxy(parts: SplitResult) -> Proxy:
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no proxy")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = parts.port or (443 if parts.scheme == "https" else 3128)
    user = None if parts.username is None else unquote(parts.username)
    password = None if parts.password is None else unquote(parts.password)
    return Proxy(f"{parts.scheme}://{host}:{port}", user, password)


def tls(authority: str | None, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer.

    Args:
        authority: PEM of the federation's own authority, trusted besides the system's. None: nothing is
            verified; only for the one unsigned request whose answer is compared with an invitation.
        certificate: client certificate, presented where the path allows it.
        key: its key.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python 3.13 began to refuse what TLS-inspecting proxies commonly issue; who answers shows in its signature.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority)
    if certificate is not None and key is not None and certificate.is_file():
        # One of an older key (after a crash while renewing) is left away: who asks shows in the signature.
        with contextlib.suppress(ssl.SSLError):
            context.load_cert_chain(certificate, key)
    return context


def connect(url: str, context: ssl.SSLContext) -> Link:
    """Connections to a coordinator, through the proxy of the environment. Raises InputError as `proxy_for`."""
    proxy = proxy_for(url)
    if proxy is None:
        return Link(url, urllib3.PoolManager(ssl_context=context, maxsize=4, socket_options=_KEEPALIVE), None)
    pool = urllib3.ProxyManager(
        proxy.url, proxy_headers=proxy.headers, ssl_context=context, maxsize=4, socket_options=_KEEPALIVE
    )
    return Link(url, pool, proxy)


ERRORS = (HTTPError, OSError)
