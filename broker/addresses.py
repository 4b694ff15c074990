"""Where requests may go whose URL a customer chose: to the public Internet, never into the operator's own network.

An address is judged when a socket for it is made, whatever name or spelling led there: what a name resolved to a moment
ago says nothing about what it resolves to now.
"""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Hashable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Literal
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

Allowed = Literal["public", "any"]
_Name = tuple[str, socket.AddressFamily]
_Found = Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]

URL_MAX = 2_000
_HOST = re.compile(r"[0-9A-Za-z._-]+|[0-9A-Fa-f.:]+", re.ASCII)
_THREADS_MAX = 16
_THREADS_OF_ONE = 2
"""One customer's webhooks seldom lead to more than two names; eight customers with slow ones take all threads."""
_WAIT_S = 5.0
"""How long a name waits for a thread: half of what a delivery has by default, which then has not even begun."""
_KEPT_S = 10.0
"""So long a name is not asked for again: as long as aiohttp keeps one. What it led to is judged each time."""
_KEPT_MAX = 1_000
"""Names that are kept, at about 500 bytes each."""

ASKS_FOR: ContextVar[Hashable] = ContextVar("ASKS_FOR")
"""The customer for whom a task resolves names; with none there is only the limit for all."""


class AddressRefused(OSError):
    """The address is not public. Which one it is stays unsaid: it would show what the operator's names resolve to."""


# ------------------------------------------------------------------ rules

_NOT_PUBLIC_4 = [
    ip_network(text)
    for text in (
        "0.0.0.0/8",  # "this network": Linux connects to itself
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT; one cloud's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # the platform's own agent on Azure: a public number that does not leave the machine's host
        "169.254.0.0/16",  # link-local: most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols' own; one more cloud's metadata
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved; broadcast
    )
]
_GLOBAL_UNICAST_6 = ip_network("2000::/3")
_NOT_PUBLIC_6 = [
    ip_network(text)
    for text in (
        "2001::/23",  # protocols' own; Teredo, which holds an IPv4 address
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
]
_NAT64 = ip_network("64:ff9b::/96")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether this is one machine on the public Internet. (Not `is_global`: Python's versions disagree on it.)"""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def check_url(text: str, allowed: Allowed) -> str:
    """The URL in the form that is requested. Raises ValueError with a sentence for one that may not be.

    A name is not resolved here: what it leads to is judged when it is connected to.
    """
    url = _parsed(text)
    if url.user is not None or url.password is not None:
        raise ValueError("url must be without a user and a password: the signature says who sends.")
    if allowed == "public":
        _check_public(url)
    normal = str(url.with_fragment(None))
    if len(normal) > URL_MAX:
        raise ValueError(f"url must have at most {URL_MAX} characters.")
    return normal


def _parsed(text: str) -> URL:
    """As the client will read it: with another parser there would be two opinions about what the host is."""
    unusable = ValueError("url must be a URL like https://example.com/events, with printable characters and no blanks.")
    if not text.isprintable() or " " in text or "\\" in text:
        raise unusable
    try:
        url = URL(text)
        host = url.raw_host or ""
        if url.scheme not in {"http", "https"} or _HOST.fullmatch(host) is None or url.port == 0:
            raise unusable
        host.encode("idna")  # as resolving it will: no empty label, none of more than 63 characters
    except ValueError as error:
        raise unusable from error
    return url


def _check_public(url: URL) -> None:
    if url.scheme != "https":
        raise ValueError("url must begin with https://.")
    if url.port != 443 and (url.port or 0) < 1024:
        raise ValueError("url must have port 443, or one from 1024 on.")
    host = url.raw_host or ""
    try:
        address = ip_address(host)
    except ValueError:
        if _is_number(host):
            raise ValueError("url must have a host name, or an address in its usual form.") from None
        return
    if not is_public(address):
        raise ValueError("url must lead to a public address.")


def _is_number(host: str) -> bool:
    """Another way to write an IPv4 address: 127.1, 0x7f000001, 2130706433."""
    try:
        socket.inet_aton(host.rstrip("."))
    except OSError:
        return host.replace(".", "").isdigit()  # a number of another kind, which is no name either
    return True


# ------------------------------------------------------------------ connecting


@dataclass(frozen=True, slots=True)
class _Places:
    """What a lookup takes up until its thread is done, however long anybody waits for it."""

    room: asyncio.Semaphore
    share: asyncio.Semaphore

    async def take(self) -> None:
        """Wait for a thread, in one's own queue first: there one's slow names hold up none but one's own."""
        async with asyncio.timeout(_WAIT_S):
            await self.share.acquire()
            try:
                await self.room.acquire()
            except BaseException:
                self.share.release()
                raise

    def give_back(self) -> None:
        """The thread is done, or there was none."""
        self.room.release()
        self.share.release()


class Resolver(AbstractResolver):
    """Resolves on threads of its own, which the broker's end does not wait for: it would for those of an executor.

    A thread that asks for a name cannot be stopped, so names that never answer keep theirs for as long as the system
    waits. Those of one customer (ASKS_FOR) keep at most two of the sixteen, and hold up that customer's others. They
    hold up somebody else's only while eight customers have such names at once; then whoever gets no thread within 5 s
    is told so. A name has one thread, whoever asks for it. Whoever has stopped waiting has left the queue: this needs a
    client that does not shield its lookups, as `connector` makes it.

    Of a name that leads to public addresses and to others as well, none is used.
    """

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._room = asyncio.Semaphore(_THREADS_MAX)
        self._shares: WeakValueDictionary[Hashable, asyncio.Semaphore] = WeakValueDictionary()
        self._asked: dict[_Name, asyncio.Future[_Found]] = {}  # those that a thread asks for
        self._kept: dict[_Name, tuple[float, _Found]] = {}  # the oldest first, with the time at which each ends

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError; AddressRefused where one is not public, TimeoutError without one."""
        found = await self._look_up((host, family))
        if self._allowed == "public" and not all(is_public(ip_address(address[0])) for *_, address in found):
            raise AddressRefused("it leads to an address that is not public")
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=flags)
            for kind, _, proto, _, address in found
        ]

    async def _look_up(self, name: _Name) -> _Found:
        if (found := self._known(name)) is None and name not in self._asked:
            places = self._places()
            await places.take()
            if (found := self._known(name)) is None and name not in self._asked:
                self._ask(name, places)
            else:  # somebody else's lookup was faster
                places.give_back()
        if found is not None:
            return found
        answer = self._asked[name]
        await asyncio.wait([answer])  # not the future itself: who leaves would end it for all
        return answer.result()

    def _places(self) -> _Places:
        asker = ASKS_FOR.get(None)
        most = _THREADS_MAX if asker is None else _THREADS_OF_ONE
        return _Places(self._room, self._shares.setdefault(asker, asyncio.Semaphore(most)))

    def _ask(self, name: _Name, places: _Places) -> None:
        """Start a thread that asks for it. Raises RuntimeError where there can be no more threads."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_Found] = loop.create_future()

        def tell(found: _Found, error: Exception | None) -> None:
            places.give_back()
            del self._asked[name]
            if error is None:
                self._keep(name, found)
                answer.set_result(found)
            else:
                answer.set_exception(error)
                answer.exception()  # maybe nobody waits for it any more

        def work() -> None:
            found: _Found = ()
            error = None
            try:
                found = socket.getaddrinfo(name[0], 0, name[1], socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
            except Exception as caught:  # noqa: BLE001 - whatever it is, it is for whoever asked
                error = caught
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(tell, found, error)

        try:
            threading.Thread(target=work, name="webhook-names", daemon=True).start()
        except RuntimeError:
            places.give_back()
            raise
        self._asked[name] = answer

    def _known(self, name: _Name) -> _Found | None:
        until, found = self._kept.get(name, (0.0, None))
        return found if time.monotonic() < until else None

    def _keep(self, name: _Name, found: _Found) -> None:
        self._kept.pop(name, None)
        if len(self._kept) >= _KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = time.monotonic() + _KEPT_S, found

    async def close(self) -> None:
        """Wait for nobody: what still runs ends with the interpreter, if no earlier."""


def _public_socket(info: aiohttp.AddrInfoType) -> socket.socket:
    """The last word: an address that stands in the URL is never resolved."""
    family, kind, proto, _, address = info
    if not is_public(ip_address(address[0])):
        raise AddressRefused("it is an address that is not public")
    return socket.socket(family, kind, proto)


def connector(allowed: Allowed, resolver: Resolver, connections_max: int, idle_s: float) -> aiohttp.TCPConnector:
    """What connects to allowed addresses only."""
    return aiohttp.TCPConnector(
        resolver=resolver,
        use_dns_cache=False,  # its cache shields lookups: they would go on for those who have left
        socket_factory=_public_socket if allowed == "public" else None,
        limit=connections_max,
        keepalive_timeout=idle_s,
    )
