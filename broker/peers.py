"""From which address somebody comes, where wrong tokens and strangers are counted by it."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from aiohttp import web

Network = IPv4Network | IPv6Network

ADDRESS = web.RequestKey("address", str)
"""The address of whoever sent a request, as `address_of` has it. Set by the gate, before any handler runs."""


def read_proxies(text: str) -> tuple[Network, ...]:
    """The networks in "127.0.0.1,10.0.0.0/8". Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def address_of(request: web.BaseRequest, proxies: Sequence[Network]) -> str:
    """The connection's address or, where that is a proxy's, the one that the proxy names; of IPv6 the /64.

    A proxy adds to the end of X-Forwarded-For. Its client may have made up what stands before that.
    """
    peer = request.remote or ""
    hops = ",".join(request.headers.getall("X-Forwarded-For", ())).split(",") if proxies else []
    while hops and _is_in(peer, proxies):
        hop = hops.pop().strip()
        if _read(hop) is None:
            break
        peer = hop
    return _place_of(peer) if ":" in peer else peer


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    ip = _read(address)
    return ip is not None and any(ip in network for network in networks)


def _read(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip


@lru_cache(10_000)
def _place_of(address: str) -> str:
    """Of IPv6 the /64, since whoever has one address of it has them all; of IPv4 within IPv6 the IPv4 address."""
    ip = _read(address)
    return str(IPv6Network((int(ip) >> 64 << 64, 64)) if isinstance(ip, IPv6Address) else ip or address)


def host_of(address: str, apart: Sequence[Network]) -> str:
    """As whose a connection from this address counts: of IPv6 the /64. Empty for this machine's own and for `apart`."""
    ip = _read(address)
    return "" if ip is None or ip.is_loopback or _is_in(address, apart) else _place_of(address)
