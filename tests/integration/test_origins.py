"""Web pages of other hosts cannot open a WebSocket here, on any route: browsers say where a page is from."""

import re
from dataclasses import replace

import aiohttp
import pytest

from broker.config import Config, ConfigError
from broker.origins import may_connect, read_origins
from tests import documented
from tests.conftest import run_broker

ALLOWED = read_origins("https://desk.example.com, http://localhost:3000")
NOWHERE = ("a:99999", "[1]", "[:::]", "[1.2.3.4]", "[::1]:65536")
"""These look like hosts and are none."""


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, "127.0.0.1:8080"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://broker.example.com", "broker.example.com"),
        ("http://broker.example.com:80", "broker.example.com"),
        ("https://broker.example.com", "broker.example.com"),  # a proxy in front speaks TLS
        ("https://broker.example.com", "broker.example.com:443"),
        ("HTTPS://Broker.Example.com", "broker.example.COM"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("https://desk.example.com", "broker.example.com"),
        ("https://desk.example.com:443", "broker.example.com"),
        ("http://localhost:3000", "127.0.0.1:8080"),
    ],
)
def test_programs_pages_of_this_host_and_allowed_ones_may_connect(origin: str | None, host: str) -> None:
    headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
    assert may_connect(headers, ALLOWED)


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8080"),
        ("http://127.0.0.1:3000", "127.0.0.1:8080"),
        ("http://127.0.0.1", "127.0.0.1:8080"),
        ("https://broker.example.com:8443", "broker.example.com"),
        ("http://broker.example.com.evil.example", "broker.example.com"),
        ("http://evil.example/broker.example.com", "broker.example.com"),
        ("http://broker.example.com@evil.example", "broker.example.com"),
        ("http://desk.example.com", "broker.example.com"),  # allowed over TLS only
        ("https://desk.example.com:444", "broker.example.com"),
        ("https://sub.desk.example.com", "broker.example.com"),
        ("null", "broker.example.com"),
        ("", "broker.example.com"),
        ("", ""),
        ("null", "null"),
        ("file://", "broker.example.com"),
        ("http://broker.example.com\n", "broker.example.com"),
        ("http://broker.example.com http://evil.example", "broker.example.com"),
        *((f"http://{nowhere}", host) for nowhere in NOWHERE for host in ("broker.example.com", nowhere)),
        *(("http://broker.example.com", nowhere) for nowhere in NOWHERE),
    ],
)
def test_every_other_page_may_not(origin: str, host: str) -> None:
    assert not may_connect({"Host": host, "Origin": origin}, ALLOWED)


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "desk.example.com",
        "https://desk.example.com/",
        "ftp://desk.example.com",
        "null",
        "http://a:99999",
        "http://[1]",
    ],
)
def test_what_is_no_origin_cannot_be_allowed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^allowed_origins cannot be used: .* is not scheme://host"):
        Config(allowed_origins=text)


async def test_every_route_that_opens_a_websocket_looks_at_the_origin(config: Config) -> None:
    """Of all routes there are, so that a new one cannot be forgotten."""
    paths = {re.sub(r"\{[^}]*\}", "1", route.path) for route in documented.routes() if route.method == "GET"}
    async with run_broker(replace(config, allowed_origins="https://desk.example.com")) as broker:
        customer = await broker.customer()

        async def handshake(path: str, origin: str | None) -> tuple[int, object]:
            headers = {"Origin": origin} if origin else {}
            try:
                async with customer.http.ws_connect(broker.running.url + path, headers=headers):
                    return 101, None
            except aiohttp.WSServerHandshakeError as error:
                return error.status, error.headers

        opened = {path for path in sorted(paths) if (await handshake(path, None))[0] == 101}
        assert opened >= {"/api/v1/stream", "/api/v1/orders/stream", "/stream", "/v2/iex", "/v2/sip"}
        for path in sorted(opened):
            for origin in (broker.running.url, "https://desk.example.com"):
                assert (await handshake(path, origin))[0] == 101, (path, origin)
        for path in sorted(paths):
            for origin in ("https://evil.example", "null", broker.running.url + "0"):
                status, _ = await handshake(path, origin)
                assert status == 403 if path in opened else status != 101, (path, origin, status)


async def test_it_is_refused_in_the_form_of_an_error(config: Config) -> None:
    async with run_broker(config) as broker:
        headers = {
            "Origin": "https://evil.example",
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
        }
        sentence = "A page of this origin may not open a WebSocket here. The operator can allow it."
        async with broker.http.get(broker.running.url + "/api/v1/stream", headers=headers) as response:
            assert response.status == 403
            assert await response.json() == {"error": sentence, "code": "origin_not_allowed"}
        async with broker.http.get(broker.running.url + "/v2/iex", headers=headers) as response:
            assert response.status == 403
            assert await response.json() == {"message": sentence, "code": 40310000}
        async with broker.http.get(
            broker.running.url + "/api/v1/stream", headers=headers | {"Origin": "http://[1]"}
        ) as response:
            assert (response.status, (await response.json())["code"]) == (403, "origin_not_allowed")
