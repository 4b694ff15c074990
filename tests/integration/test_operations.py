"""What whoever runs the broker sees of it: health, readiness, metrics."""

import asyncio
from collections.abc import Callable
from unittest.mock import AsyncMock, Mock

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from broker.api.operations import OperationsApi
from broker.config import Config
from broker.core import signing
from broker.metrics import Metrics
from broker.simulator.server import SimulatedExchange
from broker.simulator.settings import ExchangeSettings
from tests.conftest import Broker, eventually, run_broker

KEY = bytes(32)

LABELS = {
    "broker_trades": {"status"},
    "broker_place_seconds": {"le"},
    "broker_settle_seconds": {"le"},
    "broker_http_requests": {"route", "code"},
    "broker_queue_depth": {"shard"},
    "broker_open_trades": {"shard"},
    "broker_batch_size": {"le"},
    "broker_commit_seconds": {"le"},
    "broker_commit_retries": {"why"},
    "broker_overloaded": {"queue"},
    "broker_duplicate_callbacks": set(),
    "broker_anomalies": {"cause"},
    "broker_webhook_refusals": {"why"},
    "broker_orders_sent": set(),
    "broker_exchange_failures": {"call"},
    "broker_sweep_findings": {"found"},
    "broker_exchange_up": set(),
    "broker_streams": set(),
    "broker_stream_messages": set(),
    "broker_stream_conflated": set(),
    "broker_stream_cut": set(),
    "broker_hook_deliveries": {"end"},
    "broker_bars_saved": set(),
    "broker_request_seconds": {"kind", "le"},
    "broker_exchange_seconds": {"call", "le"},
    "broker_refusals": {"check"},
    "broker_database_up": set(),
    "broker_quotes_stale": set(),
    "broker_pool_connections": {"state"},
    "broker_pool_waiting": set(),
    "broker_cash_held_dollars": set(),
    "broker_shares_held": set(),
    "broker_oldest_trade_seconds": set(),
    "broker_oldest_unacknowledged_seconds": set(),
    "broker_oldest_transaction_seconds": set(),
    "broker_oldest_transaction_age": set(),
    "broker_audit_records": {"about"},
    "broker_loop_lag_seconds": {"le"},
}
"""Everything that is measured, and by what it is told apart: never by a customer, a trade or a token."""


async def metrics(broker: Broker) -> dict[str, Metric]:
    async with broker.http.get(f"{broker.running.url}/metrics") as response:
        assert (response.status, response.content_type) == (200, "text/plain")
        families = list(text_string_to_metric_families(await response.text()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    return {family.name: family for family in families}


def value(family: Metric, suffix: str = "", **labels: str) -> float:
    """The one sample of a family with this name and these labels."""
    (found,) = [
        sample.value
        for sample in family.samples
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items()
    ]
    return found


def is_ours(name: str) -> bool:
    return name.startswith("broker_") and not name.endswith("_created")


def by_label(family: Metric, suffix: str = "") -> dict[str, float]:
    """The samples of a family with one label, by what that says."""
    return {
        label: sample.value
        for sample in family.samples
        for label in sample.labels.values()
        if sample.name == family.name + suffix
    }


def series(families: dict[str, Metric]) -> set[tuple[str, ...]]:
    """Every line of /metrics that tells requests apart, without its figure: others may come with what runs beside."""
    names = ("broker_http_requests", "broker_request_seconds")
    return {(sample.name, *sample.labels.values()) for name in names for sample in families[name].samples}


# ------------------------------------------------------------------ health


async def test_a_broker_with_database_and_exchange_is_alive_and_ready(broker: Broker) -> None:
    assert await broker.stranger.call("GET", "/healthz") == (200, {"status": "ok"})
    ready = {"status": "ready", "database": "ok", "exchange": "ok"}
    assert await broker.stranger.call("GET", "/readyz") == (200, ready)
    for path in ("/healthz", "/readyz", "/metrics"):
        async with broker.http.head(broker.running.url + path) as response:
            assert (response.status, await response.read()) == (200, b"")


async def answers_503(broker: Broker) -> object:
    """What /readyz says, once it is that something does not answer: a look holds for a second."""
    status, answer = await broker.stranger.call("GET", "/readyz")
    return answer if status == 503 else None


async def test_however_many_ask_whether_it_is_ready_one_looks() -> None:
    """Anybody may ask; each look takes connections of those that carry orders."""
    looks, go = 0, asyncio.Event()

    async def exchange_answers() -> bool:
        nonlocal looks
        looks += 1
        await go.wait()
        return True

    operations = OperationsApi(AsyncMock(), exchange_answers, Metrics())
    asking = [asyncio.create_task(operations.readyz(Mock())) for _ in range(100)]
    await asyncio.sleep(0.01)
    asking[0].cancel()  # who leaves takes the answer from nobody
    go.set()
    assert {(await each).status for each in asking[1:]} == {200}
    assert (await operations.readyz(Mock())).status == 200
    assert looks == 1
    operations._looked_at -= 1.0
    await operations.readyz(Mock())
    assert looks == 2


async def test_without_its_exchange_a_broker_is_alive_but_not_ready(with_settings: Callable[..., Config]) -> None:
    exchange = SimulatedExchange(ExchangeSettings(), KEY)
    url = await exchange.start()
    secret = signing.encode_secret(KEY)
    async with run_broker(with_settings(exchange=url, webhook_secrets=secret)) as broker:
        assert (await broker.stranger.call("GET", "/readyz"))[0] == 200
        await exchange.stop()
        not_ready = {"status": "not ready", "database": "ok", "exchange": "does not answer"}
        assert await eventually(lambda: answers_503(broker)) == not_ready
        assert (await broker.stranger.call("GET", "/healthz"))[0] == 200


async def test_without_its_database_a_broker_is_not_ready_until_it_is_back(broker: Broker) -> None:
    name = broker.dsn.rpartition("@/")[2].partition("?")[0]
    elsewhere = Broker(broker.running, broker.http, broker.dsn.replace(f"@/{name}", "@/postgres"), broker.config)
    await elsewhere.fetch(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await elsewhere.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
    not_ready = {"status": "not ready", "database": "does not answer", "exchange": "ok"}
    assert await eventually(lambda: answers_503(broker)) == not_ready
    assert await broker.stranger.call("GET", "/healthz") == (200, {"status": "ok"})
    await elsewhere.fetch(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    async def ready_again() -> bool:
        return (await broker.stranger.call("GET", "/readyz"))[0] == 200

    await eventually(ready_again)


# ------------------------------------------------------------------ metrics


async def test_the_metrics_count_what_happened(broker: Broker) -> None:
    customer = await broker.customer(cash="1000.00")
    for symbol in ("AAPL", "AAPL", "NOSUCH"):
        _, placed = await customer.place("BUY", symbol, 1)
        await customer.ended(placed["tradeId"])
    await broker.stranger.call("POST", "/webhooks/exchange", {})

    async def all_counted() -> dict[str, Metric] | None:
        found = await metrics(broker)
        return found if value(found["broker_settle_seconds"], "_count") == 3 else None

    found = await eventually(all_counted)
    counted = by_label(found["broker_trades"], "_total")
    assert {status: count for status, count in counted.items() if count} == {
        "PLACED": 3,
        "IN PROGRESS": 2,
        "FILLED": 2,
        "REJECTED": 1,
    }
    assert value(found["broker_place_seconds"], "_count") == 3
    assert 0 < value(found["broker_place_seconds"], "_sum") < 10
    assert 0 < value(found["broker_settle_seconds"], "_sum") < 30
    assert value(found["broker_batch_size"], "_count") == value(found["broker_commit_seconds"], "_count") >= 3
    assert value(found["broker_orders_sent"], "_total") >= 2, "an answer that came late is asked for again"
    refused = by_label(found["broker_webhook_refusals"], "_total")
    assert {why: count for why, count in refused.items() if count} == {"bad_signature": 1}
    assert by_label(found["broker_queue_depth"]) == by_label(found["broker_open_trades"]) == {"0": 0, "1": 0}
    assert value(found["broker_http_requests"], "_total", route="/api/v1/trades", code="201") == 3
    assert value(found["broker_http_requests"], "_total", route="/webhooks/exchange", code="401") == 1
    assert value(found["broker_exchange_up"]) == 1
    assert found["broker_sweep_findings"].type == "counter"


async def test_the_metrics_know_no_customer_and_do_not_grow_with_what_is_sent(broker: Broker) -> None:
    customer = await broker.customer()
    _, placed = await customer.place("BUY", "AAPL", 1)
    await customer.ended(placed["tradeId"])

    async def send(word: str) -> None:
        for method, path in (
            *(("GET", f"/api/v1/trades/{word}"), ("GET", f"/api/v1/trades?symbol={word}"), ("GET", f"/{word}")),
            *(("GET", f"/admin/v1/customers/{word}"), ("DELETE", f"/admin/v1/customers/1/keys/{word}")),
            *(("PUT", f"/{word}"), ("PUT", "/api/v1/trades"), ("GET", "/metrics")),
        ):
            for client in (customer, broker.operator, broker.stranger):
                await client.call(method, path)

    await send("WORD0")
    before = await metrics(broker)
    for number in range(1, 10):
        await send(f"WORD{number}")
    await broker.customer()
    after = await metrics(broker)

    assert series(after) == series(before)
    measured = {name: family for name, family in after.items() if is_ours(name)}
    labels = {
        name: {label for sample in family.samples for label in sample.labels} or LABELS[name]
        for name, family in measured.items()
    }
    assert labels == LABELS
    shown = {label for family in after.values() for sample in family.samples for label in sample.labels.values()}
    unfit = {"WORD0", placed["tradeId"], customer.customer_id, customer.token, broker.running.admin_token}
    assert shown & unfit == set()


# ------------------------------------------------------------------ every answer


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "no_such_route"),
        ("POST", "/metrics", 405, "method_not_allowed"),
        ("DELETE", "/api/v1/trades", 405, "method_not_allowed"),
        ("GET", "/admin/v1/customers", 405, "method_not_allowed"),
        ("GET", "/api/v1/balance", 401, "unauthorized"),
        ("POST", "/webhooks/exchange", 401, "bad_signature"),
    ],
)
async def test_every_refusal_is_a_sentence_and_a_code_with_a_request_id(
    broker: Broker, method: str, path: str, status: int, code: str
) -> None:
    ids = set()
    for _ in range(2):
        async with broker.http.request(method, broker.running.url + path) as response:
            body = await response.json()
        assert (response.status, body) == (status, {"error": body["error"], "code": code})
        assert body["error"].endswith(".")
        ids.add(response.headers["X-Request-Id"])
    assert len(ids) == 2
