"""Which web pages may open a WebSocket here: browsers let any page try, and say in Origin which one it is."""

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}
_Place = tuple[str, int | None]


def read_origins(text: str) -> frozenset[str]:
    """The origins in "https://desk.example.com,http://localhost:3000". Raises ValueError."""
    return frozenset(_checked(part.strip()) for part in text.split(",") if part.strip())


def _checked(text: str) -> str:
    origin = _normal(text)
    if origin is None:
        raise ValueError(f"{text[:80]!r} is not scheme://host or scheme://host:port, like https://desk.example.com")
    return origin


def may_connect(headers: Mapping[str, str], allowed: frozenset[str]) -> bool:
    """Whether who sent these headers is no browser, a page from this host itself, or one that is allowed.

    The scheme does not count for this host itself: a proxy in front may speak TLS where we do not.
    """
    text = headers.get("Origin")
    if text is None:  # programs send none
        return True
    origin = _normal(text)
    if origin is None:  # "null", of a page without a home, among others
        return False
    return origin in allowed or _place(origin) == _host(headers.get("Host", ""), origin)


def _normal(text: str) -> str | None:
    """An origin in one spelling; None where it is none."""
    match = re.fullmatch(r"(https?)://(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(?::([0-9]{1,5}))?", text.lower(), re.ASCII)
    if match is None:
        return None
    scheme, host, port = match.groups()
    origin = f"{scheme}://{host}:{int(port or _DEFAULT_PORTS[scheme])}"
    try:
        _place(origin)
    except ValueError:  # a port above 65535, or no address in the brackets
        return None
    return origin


def _place(origin: str) -> _Place:
    parts = urlsplit(origin)
    return (parts.hostname or "", parts.port)


def _host(header: str, origin: str) -> _Place | None:
    """What a Host header names, with the port that the origin's scheme has by default."""
    normal = _normal(f"{urlsplit(origin).scheme}://{header}")
    return _place(normal) if normal else None
