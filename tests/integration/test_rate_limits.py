"""How often somebody may ask, what every answer says of it, and what a request that is not as it should be is told."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from broker.config import Config
from broker.db import Database
from tests.conftest import Broker, Client, eventually, run_broker

SLOW: dict[str, Any] = {"requests_per_second": 1, "requests_burst": 5}


async def head(client: Client, method: str, path: str, **kwargs: Any) -> tuple[int, Any, Any]:
    """The status, the headers and the body of an answer."""
    headers = {"Authorization": f"Bearer {client.token}"} | kwargs.pop("headers", {})
    async with client.http.request(method, client.url + path, headers=headers, **kwargs) as response:
        content = await response.json(content_type=None)
        return response.status, response.headers, content


class Stopped:
    """Time that passes only when the test says so, in nanoseconds: no token comes back in between."""

    now = 10**18

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def budget_clock(monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """The time that customers' budgets see."""
    clock = Stopped()
    monkeypatch.setattr("broker.gate.monotonic_ns", clock)
    return clock


@pytest.fixture
def failures_clock(monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """The time that wrong tokens are counted in."""
    clock = Stopped()
    monkeypatch.setattr("broker.auth._now_ns", clock)
    return clock


# ------------------------------------------------------------------ the budget of a customer


async def test_every_answer_says_what_is_left_and_who_has_nothing_left_is_told_when_to_come_again(
    with_settings: Callable[..., Config], budget_clock: Stopped
) -> None:
    async with run_broker(with_settings(**SLOW)) as broker:
        customer, other = await broker.customer(), await broker.customer()
        # Refusals have the headers as well: of what there is not.
        paths = ["/api/v1/balance", "/api/v1/orders/nothing"] * 15
        answers = await asyncio.gather(*(head(customer, "GET", path) for path in paths))
        assert {status for status, _, _ in answers} == {200, 404, 429}
        assert {headers["RateLimit-Policy"] for _, headers, _ in answers} == {'"requests";q=5;w=5'}
        assert all(re.fullmatch('"requests";r=[0-4];t=[1-5]', headers["RateLimit"]) for _, headers, _ in answers)
        for status, headers, body in answers:
            assert ("Retry-After" in headers) is (status == 429)
            if status == 429:
                assert (body["code"], headers["Retry-After"]) == ("rate_limited", "1")
                assert headers["RateLimit"].startswith('"requests";r=0;')

        status, headers, _ = await head(other, "GET", "/api/v1/balance")
        assert (status, headers["RateLimit"]) == (200, '"requests";r=4;t=1'), "each customer has its own"

        budget_clock.now += 999_999_999
        assert (await head(customer, "GET", "/api/v1/balance"))[0] == 429
        budget_clock.now += 1
        assert (await head(customer, "GET", "/api/v1/balance"))[0] == 200


async def test_a_flood_of_orders_does_not_keep_its_customer_from_cancelling(
    with_settings: Callable[..., Config], budget_clock: Stopped
) -> None:
    async with run_broker(with_settings(**SLOW)) as broker:
        customer = await broker.customer()
        order = {"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}
        answers = await asyncio.gather(*(customer.call("POST", "/api/v1/orders", order) for _ in range(30)))
        assert {status for status, _ in answers} == {201, 429}
        placed = [body["id"] for status, body in answers if status == 201]
        for path in (f"/api/v1/orders/{placed[0]}", "/api/v1/orders", "/v2/orders"):
            assert (await head(customer, "DELETE", path))[0] < 300
        body = {"suspend_trade": True}
        assert (await head(customer, "PATCH", "/v2/account/configurations", json=body))[0] == 200, "its kill switch"
        admin = f"/admin/v1/customers/{customer.customer_id}"
        assert (await broker.operator.call("POST", f"{admin}/suspend"))[0] == 200
        rows = await broker.fetch("SELECT count(*) FROM trade WHERE customer_id = $1", int(customer.customer_id))
        assert rows[0][0] == len(placed), "what was answered with 429 was not done"


async def test_alpacas_clients_are_told_in_their_words(
    with_settings: Callable[..., Config], budget_clock: Stopped
) -> None:
    async with run_broker(with_settings(**SLOW)) as broker:
        customer = await broker.customer()
        answers = await asyncio.gather(*(head(customer, "GET", "/v2/account") for _ in range(30)))
        assert {status for status, _, _ in answers} == {200, 429}
        for status, headers, body in answers:
            assert headers["X-Ratelimit-Limit"] == "5"
            assert headers["X-Ratelimit-Reset"].isdigit()
            assert int(headers["X-Ratelimit-Remaining"]) in (range(5) if status == 200 else {0})
            if status == 429:
                assert (body["code"], sorted(body)) == (42910000, ["code", "message"])
                assert headers["Retry-After"] == "1"


async def test_a_stream_that_is_opened_is_a_request_of_its_customers(
    with_settings: Callable[..., Config], budget_clock: Stopped
) -> None:
    async with run_broker(with_settings(requests_per_second=1, requests_burst=30)) as broker:
        customer, other = await broker.customer(), await broker.customer()
        url, key = broker.running.url, str(customer.token).partition(".")
        headers = {"Authorization": f"Bearer {customer.token}"}
        stream = f"{url}/api/v1/orders/stream"
        await head(customer, "GET", "/api/v1/balance")
        async with broker.http.get(stream, headers=headers), broker.http.ws_connect(stream, headers=headers):
            _, answered, _ = await head(customer, "GET", "/api/v1/balance")
            left = int(answered["RateLimit"].split(";")[1].removeprefix("r="))
            assert left == 26, "one for each, though it is asked twice who opens a socket"
        await asyncio.gather(*(head(customer, "GET", "/api/v1/balance") for _ in range(40)))

        for path in ("/api/v1/orders/stream", "/api/v1/stream"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await broker.http.ws_connect(url + path, headers=headers)
            assert refused.value.status == 429
            async with broker.http.ws_connect(url + path) as ws:
                await ws.send_json({"action": "authenticate", "token": customer.token})
                assert (await ws.receive_json(timeout=30))["code"] == "rate_limited"
        status, answered, body = await head(customer, "GET", "/api/v1/orders/stream")
        assert (status, body["code"], answered["Retry-After"]) == (429, "rate_limited", "1")
        async with broker.http.ws_connect(f"{url}/v2/iex") as ws:
            assert (await ws.receive_json(timeout=30))[0]["msg"] == "connected"
            await ws.send_json({"action": "auth", "key": key[0], "secret": key[2]})
            assert (await ws.receive_json(timeout=30))[0]["code"] == 406
        async with broker.http.ws_connect(f"{url}/stream") as ws:
            await ws.send_json({"action": "auth", "key": key[0], "secret": key[2]})
            assert (await ws.receive_json(timeout=30))["data"]["status"] == "unauthorized"
        assert (await head(other, "GET", "/api/v1/balance"))[0] == 200


async def test_sockets_that_do_not_say_whose_they_are_are_few_from_one_address(
    with_settings: Callable[..., Config],
) -> None:
    async with run_broker(with_settings(stream_address_strangers_max=2, trusted_proxies="127.0.0.1")) as broker:
        url = f"{broker.running.url}/api/v1/stream"
        here, there = ({"X-Forwarded-For": address} for address in ("192.0.2.1", "192.0.2.2"))
        async with broker.http.ws_connect(url, headers=here), broker.http.ws_connect(url, headers=here):
            for path in ("/api/v1/stream", "/api/v1/orders/stream", "/stream"):
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await broker.http.ws_connect(broker.running.url + path, headers=here)
                assert refused.value.status == 503
            async with broker.http.ws_connect(url, headers=there) as ws:
                assert not ws.closed


# ------------------------------------------------------------------ wrong tokens


async def test_behind_a_proxy_that_is_named_wrong_tokens_keep_out_only_those_of_the_same_address(
    with_settings: Callable[..., Config], failures_clock: Stopped
) -> None:
    async with run_broker(with_settings(auth_failures_per_minute=10, trusted_proxies="127.0.0.1")) as broker:
        customer = await broker.customer()
        url, token = broker.running.url, str(customer.token)

        async def ask(address: str, token: str, path: str = "/api/v1/balance") -> int:
            headers = {"X-Forwarded-For": f"{token[-5:]}, {address}"}
            return (await head(replace(customer, token=token), "GET", path, headers=headers))[0]

        for number in range(10):
            assert await ask("2001:db8::1", f"key_{number}.wrong") == 401
        paths = ("/api/v1/balance", "/v2/account", "/admin/v1/keys", "/api/v1/orders/stream")
        for path in paths:
            assert await ask("2001:db8::2", "key_x.wrong", path) == 429, path
            assert await ask("2001:db8:0:1::1", "key_x.wrong", path) == 401, path
        assert await ask("2001:db8::1", token) == 429, "it is not in memory"
        assert await ask("192.0.2.1", token) == 200
        for address, code in (("2001:db8::1", "too_many_failures"), ("192.0.2.1", "unauthorized")):
            async with broker.http.ws_connect(f"{url}/api/v1/stream", headers={"X-Forwarded-For": address}) as ws:
                await ws.send_json({"action": "authenticate", "token": "key_x.wrong"})
                assert (await ws.receive_json(timeout=30))["code"] == code


async def test_who_sends_many_wrong_tokens_hears_429_and_a_key_in_use_goes_on_working(
    with_settings: Callable[..., Config], looked_up: list[object], failures_clock: Stopped
) -> None:
    async with run_broker(with_settings(auth_failures_per_minute=10, key_cache_s=600.0)) as broker:
        customer = await broker.customer()

        async def is_in_memory() -> bool:
            """What is read while keys change is not kept; that a customer was made is such a change."""
            count = len(looked_up)
            assert (await customer.call("GET", "/api/v1/balance"))[0] == 200
            return len(looked_up) == count

        await eventually(is_in_memory)
        await asyncio.sleep(0.5)  # the news that a customer was made has come, also where it came late
        await eventually(is_in_memory)
        first = len(looked_up)
        tokens = [f"key_{number:016x}.wrong" for number in range(10)]
        for token in tokens:
            assert (await replace(customer, token=token).call("GET", "/api/v1/balance"))[0] == 401
        before = list(looked_up)
        assert len(before) == first + 10
        wrong = ["key_00000000000000ff.wrong", f"{str(customer.token).partition('.')[0]}.wrong", "nothing like it"]
        for token in wrong:
            status, headers, body = await head(replace(customer, token=token), "GET", "/api/v1/balance")
            assert (status, body["code"]) == (429, "too_many_failures")
            assert 0 < int(headers["Retry-After"]) <= 6
            status, _, body = await head(replace(customer, token=token), "GET", "/v2/account")
            assert (status, body["code"]) == (429, 42910000)
            status, _, _ = await head(replace(customer, token=token), "GET", "/admin/v1/keys")
            assert status == 429
        assert looked_up == before, "nothing was looked up for them"
        async with broker.http.ws_connect(f"{broker.running.url}/api/v1/stream") as ws:
            await ws.send_json({"action": "authenticate", "token": wrong[0]})
            assert (await ws.receive_json(timeout=30))["code"] == "too_many_failures"
        async with broker.http.get(f"{broker.running.url}/api/v1/balance") as response:
            assert response.status == 401, "no token at all is no try"
        assert (await customer.call("GET", "/api/v1/balance"))[0] == 200
        assert (await broker.operator.call("GET", "/admin/v1/keys"))[0] == 200


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The ids of keys that are looked for in the database."""
    ids: list[object] = []
    fetch = Database.fetch

    async def noted(self: Database, name: str, *arguments: object) -> Any:
        if name == "customer_of_key":
            ids.append(arguments[0])
        return await fetch(self, name, *arguments)

    monkeypatch.setattr(Database, "fetch", noted)
    return ids


# ------------------------------------------------------------------ what a body says that it is


async def test_a_body_that_says_it_is_something_else_than_json_is_refused(broker: Broker) -> None:
    customer = await broker.customer()
    order = b'{"symbol": "AAPL", "side": "buy", "quantity": 1, "order_type": "limit", "price": "150.00"}'

    async def post(content_type: str | None, path: str = "/api/v1/orders", body: bytes = order) -> tuple[int, Any]:
        headers = {} if content_type is None else {"Content-Type": content_type}
        skip = ["Content-Type"] if content_type is None else []
        status, _, answer = await head(customer, "POST", path, data=body, headers=headers, skip_auto_headers=skip)
        return status, answer

    for content_type in (
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
    ):
        status, answer = await post(content_type)
        assert status == 201, (content_type, answer)
    for content_type in (
        None,
        "application/x-www-form-urlencoded",
        "text/plain",
        "text/plain; application/json",
        "application/json; charset=latin-1",
        "application/jsonp",
        "multipart/form-data; boundary=x",
        "",
    ):
        status, answer = await post(content_type)
        assert (status, answer["code"]) == (415, "unsupported_content_type"), content_type
        assert "Content-Type: application/json" in answer["error"]
        if content_type is not None:
            status, answer = await post(content_type, "/v2/orders")
            assert (status, answer["code"]) == (415, 41510000)
    status, answer = await post("application/x-www-form-urlencoded")
    assert "-H 'Content-Type: application/json'" in answer["error"], "what curl -d needs"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, _ = await head(broker.operator, "POST", "/admin/v1/customers", data=b"", headers=headers)
    assert status == 201, "no body is no form"


async def test_private_answers_are_kept_by_nobody_and_none_is_taken_for_something_else(broker: Broker) -> None:
    customer = await broker.customer()
    for client, path, private in (
        (customer, "/api/v1/balance", True),
        (customer, "/v2/account", True),
        (broker.operator, "/admin/v1/keys", True),
        (customer, "/healthz", False),
    ):
        status, headers, _ = await head(client, "GET", path)
        assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
        assert headers.get("Cache-Control") == ("no-store" if private else None), path
        assert "Strict-Transport-Security" not in headers, "there is no TLS here"


async def test_a_url_or_a_header_that_is_too_large_is_refused_and_others_do_not_notice(broker: Broker) -> None:
    customer = await broker.customer()
    url, header = (414, "url_too_long"), (431, "headers_too_large")
    for refusal, path, headers in (
        (url, "/api/v1/balance?" + "a" * 40_000, {}),
        (header, "/api/v1/balance", {"X-Large": "a" * 40_000}),
        (header, "/api/v1/balance", {"Authorization": "Bearer " + "a" * 40_000}),
    ):
        async with aiohttp.ClientSession() as http:
            alone = replace(customer, http=http)
            status, _, answer = await head(alone, "GET", path, headers=headers)
            assert (status, answer["code"]) == refusal
    assert (await customer.call("GET", "/api/v1/balance"))[0] == 200
