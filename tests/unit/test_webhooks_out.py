"""Where webhooks may lead, what an answer means, and when the next try is."""

import asyncio
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.addresses import AddressRefused, Resolver, check_url, connector, is_public
from broker.webhooks import Failure, backoff_s, explain, read_answer

# ------------------------------------------------------------------ addresses

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:82b::200e",
    "2001:200::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",  # the old way to hold an IPv4 address
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:8.8.8.8",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:20::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]


@pytest.mark.parametrize("text", PUBLIC)
def test_a_public_address_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_no_other_address_is_public(text: str) -> None:
    assert not is_public(ip_address(text))


def _seen(address: IPv4Address | IPv6Address) -> bool:
    """Python's own opinion on what is surely not public, in every version."""
    return address.is_private or address.is_loopback or address.is_link_local or address.is_multicast


@given(st.ip_addresses(v=4))
def test_what_python_calls_private_is_not_public_in_any_form(address: IPv4Address) -> None:
    number = int(address)
    forms = [address, IPv6Address(0xFFFF << 32 | number), IPv6Address(0x64FF9B << 96 | number)]
    assert {is_public(form) for form in forms} == {is_public(address)}
    assert not is_public(IPv6Address(0x2002 << 112 | number << 80))
    assert not is_public(IPv6Address(number))
    assert not (is_public(address) and (_seen(address) or address.is_reserved))


@given(st.ip_addresses(v=6))
def test_a_public_address_of_version_6_is_global_unicast(address: IPv6Address) -> None:
    nat64 = address in ip_network("64:ff9b::/96")
    if is_public(address) and address.ipv4_mapped is None and not nat64:
        assert address in ip_network("2000::/3")
        assert not _seen(address)


# ------------------------------------------------------------------ URLs


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://example.com", "https://example.com"),
        ("https://Example.COM:443/a?b=c#d", "https://example.com/a?b=c"),
        ("https://example.com:8443/a", "https://example.com:8443/a"),
        ("https://1.1.1.1/", "https://1.1.1.1/"),
        ("https://[2606:4700::1111]/", "https://[2606:4700::1111]/"),
        ("https://bücher.example/ü", "https://xn--bcher-kva.example/%C3%BC"),
        ("https://localhost/", "https://localhost/"),  # a name: judged when it is connected to
    ],
)
def test_a_usable_url_gets_one_form(text: str, normal: str) -> None:
    assert check_url(text, "public") == normal
    assert check_url(normal, "public") == normal


@pytest.mark.parametrize(
    "text",
    [
        "https://127.0.0.1/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://127.0.1/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://017700000001/",
        "https://2130706433/",
        "https://4294967297/",
        "https://127.0.0.1.1/",
        "https://8.8.8.8./",
        "https://0/",
        "https://169.254.169.254/latest/meta-data",
        "https://0xA9FEA9FE/",
        "https://１２７.０.０.１/",
        "https://127。0。0。1/",
        "https://①②⑦.1/",
        "https://%31%32%37.0.0.1/",
        "https://127%2e0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:7f00:1]/",
        "https://[0:0:0:0:0:ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fd00:ec2::254]/",
        "http://example.com/",
        "https://example.com:80/",
        "https://example.com:22/",
    ],
)
def test_an_address_that_is_not_public_is_refused_in_every_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r"^url must .*\.$"):
        check_url(text, "public")


UNUSABLE = [
    "",
    "x",
    "//example.com",
    "https:",
    "https://",
    "https:///path",
    "ftp://example.com/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "unix://run/x.sock",
    "https://a..b/",
    "https://.a/",
    f"https://{'a' * 64}.com/",
    "https://example.com:0/",
    "https://example.com:65536/",
    "https://example.com:-1/",
    "https://[::1/",
    "https://exa mple.com/",
    "https://exa%20mple.com/",
    "https://¨/",  # its ASCII form has a blank in it
    "https://exa<mple.com/",
    "https://example.com/a b",
    "https://example.com\\@127.0.0.1/",
    "https://example.com/\r\nX-Injected: 1",
    "https://example.com/\0",
    "https://example.com/\u2028",
    "https://user@example.com/",
    "https://user:password@example.com/",
    "https://:password@example.com/",
    f"https://example.com/{'a' * 2000}",
    f"https://example.com/{'ü' * 500}",
]


@pytest.mark.parametrize("allowed", ["public", "any"])
@pytest.mark.parametrize("text", UNUSABLE)
def test_an_unusable_url_is_refused_with_a_sentence(text: str, allowed: Any) -> None:
    with pytest.raises(ValueError, match=r"^url must .*\.$"):
        check_url(text, allowed)


@given(st.text(max_size=80), st.sampled_from(["", "https://", "https://a.b/", "https://a.b:"]))
def test_any_text_gives_a_url_or_a_sentence(text: str, before: str) -> None:
    normal, sentence = _checked(before + text)
    if normal is not None:
        assert normal.isascii()
        assert _checked(normal) == (normal, None)
    else:
        assert sentence is not None
        assert sentence.startswith("url must ")
        assert len(sentence) <= 200


def _checked(text: str) -> tuple[str | None, str | None]:
    try:
        return check_url(text, "public"), None
    except ValueError as error:
        return None, str(error)


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8080/events",
        "http://localhost/",
        "https://10.0.0.1/",
        "http://[::1]:80/",
        "http://example.com/",
    ],
)
def test_any_address_may_be_allowed(text: str) -> None:
    assert check_url(text, "any")
    with pytest.raises(ValueError, match="url must"):
        check_url(text, "public")


# ------------------------------------------------------------------ connecting


def resolves_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name now leads to these."""

    def getaddrinfo(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        kinds = {4: socket.AF_INET, 6: socket.AF_INET6}
        return [(kinds[ip_address(each).version], 1, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture
async def resolver() -> Any:
    made = Resolver("public")
    yield made
    await made.close()


async def test_a_name_that_leads_to_public_addresses_resolves(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    resolves_to(monkeypatch, "8.8.8.8", "2606:4700::1111")
    assert [each["host"] for each in await resolver.resolve("example.com", 443)] == ["8.8.8.8", "2606:4700::1111"]


@pytest.mark.parametrize("other", ["127.0.0.1", "::1", "169.254.169.254", "::ffff:10.0.0.1", "fe80::1%lo"])
async def test_a_name_that_leads_elsewhere_as_well_does_not(
    other: str, monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    resolves_to(monkeypatch, "8.8.8.8", other)
    with pytest.raises(AddressRefused) as refused:
        await resolver.resolve("example.com", 443)
    assert other not in str(refused.value)


async def test_where_any_address_is_allowed_every_name_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "127.0.0.1")
    resolver = Resolver("any")
    assert [each["host"] for each in await resolver.resolve("example.com", 80)] == ["127.0.0.1"]
    await resolver.close()


async def test_a_name_without_an_address_and_one_that_cannot_be_asked_for_are_told(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    for error in (socket.gaierror(-2, "unknown"), UnicodeError("label too long"), MemoryError()):

        def getaddrinfo(*_: object, error: Exception = error, **__: object) -> list[Any]:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        with pytest.raises(type(error)):
            await resolver.resolve("example.com", 443)


async def test_names_that_never_answer_hold_up_a_bounded_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, resolver: Resolver
) -> None:
    """Whoever asked for them waits no longer; their threads do, until they have an answer."""
    answers, asked = threading.Event(), []

    def getaddrinfo(host: str, *_: object, **__: object) -> list[Any]:
        asked.append(host)
        answers.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    waiting = [asyncio.create_task(resolver.resolve(f"{number}.example")) for number in range(20)]
    async with asyncio.timeout(20):
        while len(asked) < 16:
            await asyncio.sleep(0.01)
    await asyncio.wait(waiting, timeout=0.2)
    assert len(asked) == 16
    for each in waiting[:18]:
        each.cancel()
    await asyncio.wait(waiting[:18])
    assert len(asked) == 16
    answers.set()
    assert await asyncio.gather(*waiting[18:]) == [[], []]
    assert asked[16:] == ["18.example", "19.example"]


def test_a_name_that_never_answers_holds_up_nobodys_end() -> None:
    """The interpreter ends at once, though a thread still asks."""
    program = """
import asyncio, socket, time
from broker.addresses import Resolver
socket.getaddrinfo = lambda *_, **__: time.sleep(30)
async def main():
    resolver = Resolver("public")
    asking = asyncio.create_task(resolver.resolve("example.com"))
    await asyncio.sleep(0.1)
    asking.cancel()
    await resolver.close()
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=15)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f000001"])
async def test_no_spelling_of_an_address_in_the_url_gets_a_socket(host: str, resolver: Resolver) -> None:
    """Even if check_url let it through: the client does not resolve addresses."""
    async with await _listening() as server:
        port = server.sockets[0].getsockname()[1]
        async with aiohttp.ClientSession(connector=connector("public", resolver, 4, 1.0)) as session:
            with pytest.raises(aiohttp.ClientError) as refused:
                await session.get(f"http://{host}:{port}/")
        assert explain(refused.value) in {
            "The URL leads to an address that is not public.",
            "The URL's host cannot be connected to.",
        }


async def _listening() -> asyncio.Server:
    def never(*_: object) -> None:
        pytest.fail("somebody got through")

    return await asyncio.start_server(never, "127.0.0.1", 0)


# ------------------------------------------------------------------ answers

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_an_answer_of_2xx_takes_the_event(status: int) -> None:
    assert read_answer(status, None, NOW) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "failure"),
    [
        (100, None, Failure("The receiver answered 100.")),
        (301, None, Failure("The receiver answered 301; a redirect is not followed.")),
        (304, None, Failure("The receiver answered 304; a redirect is not followed.")),
        (400, "9", Failure("The receiver answered 400.")),
        (410, None, Failure("The receiver answered 410: it wants no more.", is_final=True)),
        (429, None, Failure("The receiver answered 429.")),
        (429, "120", Failure("The receiver answered 429.", 120.0)),
        (500, "120", Failure("The receiver answered 500.")),
        (503, format_datetime(NOW.replace(minute=2), usegmt=True), Failure("The receiver answered 503.", 120.0)),
        (503, format_datetime(NOW.replace(hour=1), usegmt=True), Failure("The receiver answered 503.", 0.0)),
        (503, "soon", Failure("The receiver answered 503.", 0.0)),
        (503, "-5", Failure("The receiver answered 503.", 0.0)),
        (503, "99999999999 Jan 2026 00:00:00 GMT", Failure("The receiver answered 503.", 0.0)),
        (503, "1 Jan 26 0:0:0 +99999999999999999999", Failure("The receiver answered 503.", 0.0)),
        (503, "9" * 5000, Failure("The receiver answered 503.", 999_999_999.0)),
    ],
)
def test_every_other_answer_is_a_failure(status: int, retry_after: str | None, failure: Failure) -> None:
    assert read_answer(status, retry_after, NOW) == failure


@given(
    st.text(max_size=60)
    | st.from_regex(r"Sun, 22 Nov [0-9]{1,5} [0-9]{2}:[0-9]{2}:[0-9]{2} [+-][0-9]{4}", fullmatch=True)
    | st.from_regex(
        r"[0-9]{1,14} Jan [0-9]{1,14} [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,12} ([+-][0-9]{1,20}|GMT)", fullmatch=True
    )
)
def test_no_retry_after_breaks_anything(text: str) -> None:
    failure = read_answer(503, text, NOW)
    assert failure is not None
    assert failure.retry_after_s >= 0


def test_pauses_double_up_to_the_longest_and_differ() -> None:
    rng = random.Random(7)
    pauses = [backoff_s(failures, 0, 60, rng) for failures in range(1, 9)]
    assert all(0.5 * most <= pause <= most for pause, most in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60], strict=True))
    assert 30 <= backoff_s(10**6, 0, 60, rng) <= 60
    assert len({backoff_s(3, 0, 60, rng) for _ in range(20)}) == 20


def test_the_receiver_may_ask_for_a_longer_pause_within_the_limit() -> None:
    rng = random.Random(7)
    assert backoff_s(1, 30, 60, rng) == 30
    assert backoff_s(1, 1e9, 60, rng) == 60
    assert backoff_s(6, 1, 60, rng) >= 16


def _errors() -> Iterator[tuple[Exception, str]]:
    key = cast(Any, SimpleNamespace(ssl=True, host="h", port=1, is_ssl=True))
    yield TimeoutError(), "No answer in time."
    yield aiohttp.ConnectionTimeoutError(), "No answer in time."
    yield aiohttp.ClientConnectorDNSError(key, socket.gaierror(-2, "x")), "The URL's host was not found."
    yield (
        aiohttp.ClientConnectorDNSError(key, AddressRefused("x")),
        "The URL leads to an address that is not public.",
    )
    yield aiohttp.ClientConnectorError(key, AddressRefused("x")), "The URL leads to an address that is not public."
    yield aiohttp.ClientConnectorError(key, ConnectionRefusedError(111, "x")), "No connection: it was refused."
    yield aiohttp.ClientConnectorError(key, OSError(113, "x")), "No connection."
    yield (
        aiohttp.ClientConnectorCertificateError(key, ssl.CertificateError("x")),
        "The receiver's certificate is not valid.",
    )
    yield aiohttp.ClientConnectorSSLError(key, ssl.SSLError("x")), "No connection: TLS failed."
    yield aiohttp.InvalidURL("x"), "The URL's host cannot be connected to."
    yield aiohttp.ServerDisconnectedError(), "The receiver closed the connection without an answer."
    yield aiohttp.ClientResponseError(cast(Any, None), ()), "The receiver's answer is not HTTP."
    yield aiohttp.ClientOSError(104, "x"), "The connection broke."
    yield RuntimeError("x"), "The connection broke."


@pytest.mark.parametrize(("error", "sentence"), list(_errors()))
def test_every_way_to_get_no_answer_has_its_sentence(error: Exception, sentence: str) -> None:
    assert explain(error) == sentence
