"""/metrics is complete, and what is shipped with it (dashboard, alerts, runbook) speaks of what is there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from broker.config import Config
from broker.db import Database
from broker.metrics import Metrics, kind_of_request
from broker.sampled import Sampled
from tests import documented
from tests.conftest import Broker, eventually

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "operations.md").read_text("utf-8")
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]
PANELS = json.loads((ROOT / "ops" / "grafana" / "stockbroker.json").read_text("utf-8"))["panels"]


async def samples(broker: Broker) -> dict[tuple[str, ...], float]:
    """Every line of /metrics: its name and labels, and its figure."""
    async with broker.http.get(f"{broker.running.url}/metrics") as response:
        families = list(text_string_to_metric_families(await response.text()))
    return {
        (sample.name, *map("=".join, sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in ALERTS)
    yield from (target["expr"] for panel in PANELS for target in panel["targets"])


async def test_dashboard_and_alerts_ask_for_metrics_and_labels_that_there_are(broker: Broker) -> None:
    customer = await broker.customer()
    _, placed = await customer.place("BUY", "AAPL", 1)
    await customer.ended(placed["tradeId"])
    exposed = {key[0] for key in await samples(broker)} | {
        name for family in Metrics().registry.collect() for name in _names(family)
    }
    asked = {name for each in expressions() for name in re.findall(r"\b(?:broker|process)_\w+", each)}
    assert len(asked) > 30
    assert asked - exposed == set()
    ours = {name for name in exposed if name.startswith("broker_") and not name.endswith(("_created", "_bucket"))}
    unseen = {name for name in ours if not any(name.removesuffix("_sum").removesuffix("_count") in a for a in asked)}
    assert unseen == {"broker_orders_sent_total", "broker_shares_held", "broker_oldest_transaction_age",
                      "broker_stream_conflated_total", "broker_bars_saved_total"}  # fmt: skip


def _names(family: Any) -> Iterator[str]:
    """What a family without samples yet will be called."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
    yield from (family.name + suffix for suffix in suffixes)


def test_labels_that_are_asked_for_exist() -> None:
    known = {(family.name, label) for family in Metrics().registry.collect() for label in _labels(family.name)}
    for each in expressions():
        for name, inside in re.findall(r"\b(broker_\w+)\{([^}]*)\}", each):
            for label in re.findall(r"(\w+)=", inside):
                assert any(name.startswith(family) and label == there for family, there in known), each


def _labels(name: str) -> tuple[str, ...]:
    metrics = Metrics()
    found = next(
        (getattr(metrics, field) for field in Metrics.__slots__ if getattr(metrics, field) is not None
         and getattr(getattr(metrics, field), "_name", "") == name), None,
    )  # fmt: skip
    return tuple(getattr(found, "_labelnames", ()))


def test_every_alert_has_its_section_in_the_runbook_and_no_other_has() -> None:
    sections = re.findall(r"^### (Stockbroker\w+)$", RUNBOOK, re.MULTILINE)
    names = [rule["alert"] for rule in ALERTS]
    assert sections == names
    assert len(set(names)) == len(names) > 10
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"].endswith(".")


async def test_what_is_sampled_is_what_is_in_the_database(broker: Broker) -> None:
    customer = await broker.customer()
    order = {"symbol": "AAPL", "side": "buy", "quantity": 3, "order_type": "limit", "price": "1.00"}
    status, placed = await customer.call("POST", "/api/v1/orders", order | {"time_in_force": "gtc"})
    assert status == 201, placed
    database, metrics = Database(broker.dsn, Config()), Metrics()
    await database.open()
    held = await asyncpg.connect(broker.dsn)
    transaction = held.transaction()
    await transaction.start()
    await held.execute("SELECT pg_current_xact_id()")
    await Sampled(database, metrics, Config()).take()
    shown = {
        sample.name: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if not sample.labels
    }
    assert shown["broker_database_up"] == 1
    assert 3.0 <= shown["broker_cash_held_dollars"] < 10  # its fees too
    assert shown["broker_shares_held"] == 0
    assert 0 < shown["broker_oldest_trade_seconds"] < 60
    assert shown["broker_oldest_unacknowledged_seconds"] == 0
    assert 0 < shown["broker_oldest_transaction_seconds"] < 60
    assert shown["broker_oldest_transaction_age"] >= 0
    assert shown["broker_pool_waiting"] == 0
    await transaction.rollback()
    await held.close()
    await database.close()


async def test_a_database_that_is_away_is_a_figure_and_no_failure(dsn: str) -> None:
    database, metrics = Database(dsn.replace("@/", "@/no_such_"), Config(place_wait_s=2.0)), Metrics()
    database._pool = await asyncpg.create_pool(dsn, min_size=0, max_size=1, server_settings={"search_path": "nowhere"})
    await Sampled(database, metrics, Config()).take()
    assert metrics.database_up._value.get() == 0
    await database.close()


async def test_requests_calls_and_refusals_are_counted_by_few_words(broker: Broker) -> None:
    customer = await broker.customer(cash="1.00")
    _, placed = await customer.place("BUY", "AAPL", 1)
    await customer.ended(placed["tradeId"])
    rich = await broker.customer()
    _, placed = await rich.place("BUY", "AAPL", 1)
    await rich.ended(placed["tradeId"])
    found = await samples(broker)
    assert found["broker_refusals_total", "check=insufficient_funds"] == 1
    assert found["broker_request_seconds_count", "kind=place"] == 2
    assert found["broker_request_seconds_count", "kind=admin"] == 2
    assert found["broker_request_seconds_count", "kind=orders"] >= 2
    assert found["broker_exchange_seconds_count", "call=execute"] >= 1

    async def counted() -> bool:
        found = await samples(broker)
        return bool(found["broker_loop_lag_seconds_count",] and found["broker_database_up",])

    await eventually(counted)
    assert {kind_of_request(route.method, route.path) for route in documented.routes()} == {
        *("place", "orders", "account_and_market", "admin", "callback", "other"),
    }
