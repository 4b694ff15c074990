"""What /metrics shows, in one object that is handed to whoever counts."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

_FAST = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_SLOW = (*_FAST, 15.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


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

    def __post_init__(self) -> None:
        """Register everything, and the process's own figures."""

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"broker_{name}", help_, labels, registry=self.registry)

        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(f"broker_{name}", help_, labels, registry=self.registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"broker_{name}", help_, buckets=buckets, registry=self.registry)

        self.trades = counter("trades", "Steps that trades took, by the status that they reached", "status")
        self.place_seconds = histogram("place_seconds", "From a PlaceTrade request to its durable answer", _FAST)
        self.settle_seconds = histogram("settle_seconds", "From a trade's placing to its end", _SLOW)
        self.requests = counter("http_requests", "Answers, by route and status code", "route", "code")
        self.queue_depth = gauge("queue_depth", "Commands that wait in a shard", "shard")
        self.open_trades = gauge("open_trades", "Trades in memory that are not finished", "shard")
        self.batch_size = histogram("batch_size", "Commands in one commit", _SIZES)
        self.commit_seconds = histogram("commit_seconds", "Duration of one commit", _FAST)
        self.commit_retries = counter("commit_retries", "Batches that were decided again, by why", "why")
        self.overloaded = counter("overloaded", "Commands refused because a queue was full", "queue")
        self.duplicates = counter("duplicate_callbacks", "Reports of the exchange that said nothing new")
        self.anomalies = counter("anomalies", "Reports that went to the inbox: somebody should look", "cause")
        self.webhook_refusals = counter("webhook_refusals", "Callbacks that were not let in, by why", "why")
        self.sent = counter("orders_sent", "Orders sent to the exchange, repeats included")
        self.exchange_failures = counter("exchange_failures", "Calls to the exchange without a usable answer", "call")
        self.sweep_findings = counter("sweep_findings", "What asking about overdue trades found", "found")
        self.exchange_up = gauge("exchange_up", "1 while the exchange's quotes are heard")
        self.streams = gauge("streams", "Open streams of customers")
        self.stream_messages = counter("stream_messages", "Messages of market data that were sent to streams")
        self.stream_conflated = counter("stream_conflated", "Messages that a slow client's newer ones replaced")
        self.stream_cut = counter("stream_cut", "Streams that were cut off because they took nothing for too long")
        self.hook_deliveries = counter(
            "hook_deliveries", "Tries to deliver an event to a webhook, by how they ended", "end"
        )
        self.bars_saved = counter("bars_saved", "Bars written to the database")
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def exposition(self) -> bytes:
        """All of it, as Prometheus text."""
        return generate_latest(self.registry)
