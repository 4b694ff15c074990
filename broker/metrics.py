"""What /metrics shows, in one object that is handed to whoever counts."""

from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from broker.core.messages import Anomaly

_FAST = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SLOW = (*_FAST, 15.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


_KINDS = (
    ("/webhooks/", "callback"),
    ("/admin/", "admin"),
    ("/api/v1/trades", "orders"),
    ("/api/v1/orders", "orders"),
    ("/v2/orders", "orders"),
    ("/api/", "account_and_market"),
    ("/v2/", "account_and_market"),
)


def kind_of_request(method: str, route: str) -> str:
    """What a request is about, in few words: to place an order is a kind of its own."""
    kind = next((kind for beginning, kind in _KINDS if route.startswith(beginning)), "other")
    return "place" if kind == "orders" and method == "POST" else kind


class Pooled(Protocol):
    """Whose connections are counted. `broker.db.Database` is one."""

    def pool_use(self) -> tuple[int, int, int]:
        """How many connections are idle, how many in use, and how many queries wait for one."""


@dataclass(slots=True)
class Metrics:
    """The counters, gauges and histograms of one broker."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    trades: Counter = field(init=False)
    place_seconds: Histogram = field(init=False)
    settle_seconds: Histogram = field(init=False)
    requests: Counter = field(init=False)
    queue_depth: Gauge = field(init=False)
    open_trades: Gauge = field(init=False)
    batch_size: Histogram = field(init=False)
    commit_seconds: Histogram = field(init=False)
    commit_retries: Counter = field(init=False)
    overloaded: Counter = field(init=False)
    duplicates: Counter = field(init=False)
    anomalies: Counter = field(init=False)
    webhook_refusals: Counter = field(init=False)
    sent: Counter = field(init=False)
    exchange_failures: Counter = field(init=False)
    sweep_findings: Counter = field(init=False)
    exchange_up: Gauge = field(init=False)
    streams: Gauge = field(init=False)
    stream_messages: Counter = field(init=False)
    stream_conflated: Counter = field(init=False)
    stream_cut: Counter = field(init=False)
    hook_deliveries: Counter = field(init=False)
    bars_saved: Counter = field(init=False)
    request_seconds: Histogram = field(init=False)
    exchange_seconds: Histogram = field(init=False)
    refusals: Counter = field(init=False)
    database_up: Gauge = field(init=False)
    pool_connections: Gauge = field(init=False)
    pool_waiting: Gauge = field(init=False)
    cash_held: Gauge = field(init=False)
    shares_held: Gauge = field(init=False)
    oldest_trade_seconds: Gauge = field(init=False)
    oldest_unacknowledged_seconds: Gauge = field(init=False)
    oldest_transaction_seconds: Gauge = field(init=False)
    oldest_transaction_age: Gauge = field(init=False)
    audit_records: Gauge = field(init=False)
    loop_lag_seconds: Histogram = field(init=False)
    quotes_stale: Gauge = field(init=False)

    def __post_init__(self) -> None:
        """Register everything, and the process's own figures."""

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"broker_{name}", help_, labels, registry=self.registry)

        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(f"broker_{name}", help_, labels, registry=self.registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"broker_{name}", help_, labels, buckets=buckets, registry=self.registry)

        self.trades = counter("trades", "Steps that trades took, by the status that they reached", "status")
        self.place_seconds = histogram("place_seconds", "From an order's coming to its shard to its answer", _FAST)
        self.settle_seconds = histogram("settle_seconds", "From a trade's placing to its end", _SLOW)
        self.requests = counter("http_requests", "Answers, by route and status code", "route", "code")
        self.queue_depth = gauge("queue_depth", "Commands that wait in a shard", "shard")
        self.open_trades = gauge("open_trades", "Trades in memory that are not finished", "shard")
        self.batch_size = histogram("batch_size", "Commands in one commit", _SIZES)
        self.commit_seconds = histogram("commit_seconds", "Duration of one commit", _FAST)
        self.commit_retries = counter("commit_retries", "Batches that were decided again, by why", "why")
        self.overloaded = counter("overloaded", "Requests refused where there was no room, by where", "queue")
        self.duplicates = counter("duplicate_callbacks", "Reports of the exchange that said nothing new")
        self.anomalies = counter("anomalies", "Reports that went to the inbox: somebody should look", "cause")
        self.webhook_refusals = counter("webhook_refusals", "Callbacks that were not let in, by why", "why")
        self.sent = counter("orders_sent", "Orders sent to the exchange, repeats included")
        self.exchange_failures = counter("exchange_failures", "Calls to the exchange without a usable answer", "call")
        self.sweep_findings = counter("sweep_findings", "What asking about overdue trades found", "found")
        self.exchange_up = gauge("exchange_up", "0 while quotes are not heard and a call about an order has failed")
        self.streams = gauge("streams", "Open streams of customers")
        self.stream_messages = counter("stream_messages", "Messages of market data that were sent to streams")
        self.stream_conflated = counter("stream_conflated", "Messages that a slow client's newer ones replaced")
        self.stream_cut = counter("stream_cut", "Streams that were cut off because they took nothing for too long")
        self.hook_deliveries = counter(
            "hook_deliveries", "Tries to deliver an event to a webhook, by how they ended", "end"
        )
        self.bars_saved = counter("bars_saved", "Bars written to the database")
        self.request_seconds = histogram("request_seconds", "From a request to its answer, by its kind", _FAST, "kind")
        self.exchange_seconds = histogram("exchange_seconds", "Duration of a call to the exchange", _FAST, "call")
        self.refusals = counter("refusals", "Orders that were refused, by the check that refused them", "check")
        self.database_up = gauge("database_up", "1 while the database answers: looked at with the figures below")
        self.pool_connections = gauge("pool_connections", "Connections of the readers' pool, by what they do", "state")
        self.pool_waiting = gauge("pool_waiting", "Queries that wait for a connection of the pool")
        self.cash_held = gauge("cash_held_dollars", "Cash that open orders hold")
        self.shares_held = gauge("shares_held", "Shares that open orders hold")
        self.oldest_trade_seconds = gauge("oldest_trade_seconds", "Since the oldest open order was placed")
        self.oldest_unacknowledged_seconds = gauge(
            "oldest_unacknowledged_seconds", "Since the oldest order was placed that is at work and not acknowledged"
        )
        self.oldest_transaction_seconds = gauge(
            "oldest_transaction_seconds", "Since the oldest transaction of the database began"
        )
        self.oldest_transaction_age = gauge(
            "oldest_transaction_age", "Transactions since the oldest that somebody still sees: held from cleaning up"
        )
        self.audit_records = gauge("audit_records", "Records in the audit log, by what they are about", "about")
        self.loop_lag_seconds = histogram("loop_lag_seconds", "How late the event loop is for a timer", _FAST)
        self.quotes_stale = gauge(
            "quotes_stale", "Exchanges whose quotes have not been heard of late: market orders there are refused"
        )
        for cause in Anomaly:  # a series that begins at 1 has not increased: the first one would alarm nobody
            self.anomalies.labels(cause.value)
        for why in ("stale", "unavailable", "refused"):
            self.commit_retries.labels(why)
        for why in ("bad_signature", "invalid_event", "too_many_events", "late_asked_instead"):
            self.webhook_refusals.labels(why)
        for queue in ("door", "shard", "customer", "open_trades", "connections"):
            self.overloaded.labels(queue)
        for found in ("known", "denied", "lost_after_partial", "resent", "withdrawn", "open_after_end"):
            self.sweep_findings.labels(found)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def follow_pool(self, database: Pooled) -> None:
        """Show how a pool is used, at the moment in which it is asked for."""
        self.pool_connections.labels("idle").set_function(lambda: database.pool_use()[0])
        self.pool_connections.labels("used").set_function(lambda: database.pool_use()[1])
        self.pool_waiting.set_function(lambda: database.pool_use()[2])

    def exposition(self) -> bytes:
        """All of it, as Prometheus text."""
        return generate_latest(self.registry)
