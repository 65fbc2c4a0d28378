"""Behind a reverse proxy: which addresses count as near, and whose address a request came from."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

HEADER = "x-forwarded-for"


def near(host: str) -> bool:
    """Whether ``host`` is an address of this machine or of a private network; a name other than localhost is not."""
    if host == "localhost":
        return True
    found = _address(host.partition("%")[0])
    return found is not None and found.is_private and not found.is_unspecified


def caller_address(peer: str, headers: Mapping[str, str]) -> str:
    """The address for which a proxy asks.

    It is the last one in X-Forwarded-For, which the proxy itself wrote; what stands before it the caller may
    have made up. Nothing is believed of a peer that is not near.

    Args:
        peer: who opened the connection.
        headers: of the request, names in lower case.
    """
    said = _address(headers.get(HEADER, "").rpartition(",")[2].strip())
    return peer if said is None or not near(peer) else str(said)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
