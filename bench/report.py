"""What a run of bench.place_trade has found: its rows, the tables made of them, and the aims beside the figures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from bench.figures import Spread
from bench.peers import ELSEWHERE_ORDERS_PER_S

BROKER, PLAIN, ECHO, PGBENCH = "broker", "plain way", "bare echo", "pgbench"
PAPERTRADE, ENGINE, ENGINE_ONE = "papertrade-india", "matching-engine", "matching-engine, one market"
USUAL_PER_S = 430
"""The average rate of ten million trades in a session of 6.5 hours."""


@dataclass
class Row:
    """One server's figures in one round. Times in ms, CPU in us for each trade; None where a figure does not apply."""

    server: str
    round: int = 0
    connections: int | None = None
    offered_per_s: float | None = None  # open loop; None is a closed one
    trades: int = 0
    acknowledged_per_s: float | None = None  # of matching-engine: orders, of which half are trades
    ack_p50: float | None = None
    ack_p99: float | None = None
    late_p99: float | None = None  # open loop: how much later than due the load generator sent
    settled_per_s: float | None = None  # from the first start to the last settlement
    settled_p50: float | None = None  # by the database: to the time of the decision, just before its commit
    settled_p99: float | None = None
    fills_heard: int | None = None
    filled_p50: float | None = None  # by the clients that follow their orders: to the reading of the message
    filled_p99: float | None = None
    server_cpu_us: float | None = None
    exchange_cpu_us: float | None = None
    postgres_cpu_us: float | None = None
    commits: float | None = None  # for each trade
    batch: float | None = None  # commands in one commit, on average
    skipped: str | None = None  # why there are no figures


class Report:
    """The rows of all rounds."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = [row for row in rows if row.skipped is None]
        self.skipped = {row.server: row.skipped for row in rows if row.skipped is not None}

    def spread(
        self, figure: str, server: str, connections: int | None = None, offered_per_s: float | None = None
    ) -> Spread | None:
        """A figure of one server over the rounds. Without connections: of a reference that has one setting."""
        values = [
            getattr(row, figure)
            for row in self.rows
            if row.server == server
            and row.offered_per_s == offered_per_s
            and (connections is None or row.connections == connections)
            and getattr(row, figure) is not None
        ]
        return Spread.of(values) if values else None

    def _cell(
        self,
        figure: str,
        server: str,
        connections: int | None = None,
        offered_per_s: float | None = None,
        digits: int = 0,
    ) -> str:
        found = self.spread(figure, server, connections, offered_per_s)
        return found.text(digits) if found else ""

    def _cells(
        self, figures: Sequence[tuple[str, int]], server: str, connections: int | None, offered_per_s: float | None
    ) -> str:
        cells = (self._cell(figure, server, connections, offered_per_s, digits) for figure, digits in figures)
        return " | ".join(cells)

    # -------------------------------------------------------------- tables

    def tables(self) -> Iterator[str]:
        """Lines of Markdown; each figure is the median of the rounds, with the least and the most in brackets."""
        yield from self._closed()
        yield ""
        yield from self._open()
        yield ""
        yield from self._references()

    def _settings(self) -> list[int]:
        """The connections of the closed loop."""
        closed = (row for row in self.rows if row.server == BROKER and row.offered_per_s is None)
        return sorted({row.connections for row in closed if row.connections is not None})

    def _rates(self) -> list[float]:
        return sorted({row.offered_per_s for row in self.rows if row.offered_per_s is not None})

    def _closed(self) -> Iterator[str]:
        figures = [("acknowledged_per_s", 0), ("ack_p50", 1), ("ack_p99", 1), ("settled_per_s", 0)]
        figures += [("filled_p50", 1), ("filled_p99", 1), ("settled_p50", 1)]
        figures += [("server_cpu_us", 0), ("exchange_cpu_us", 0), ("postgres_cpu_us", 0), ("commits", 2), ("batch", 0)]
        yield "Closed loop: each connection sends its next request when the last was answered.\n"
        yield (
            "| connections | server | 201/s | 201 p50 ms | p99 | settled/s | FILLED p50 ms, heard by clients | p99 "
            "| settled p50 ms, by the database | server CPU us/trade | exchange | PostgreSQL | commits/trade | batch |"
        )
        yield "|---" * (2 + len(figures)) + "|"
        for connections in self._settings():
            for server in (BROKER, PLAIN, ECHO):
                yield f"| {connections} | {server} | {self._cells(figures, server, connections, None)} |"

    def _open(self) -> Iterator[str]:
        figures = [("acknowledged_per_s", 0), ("ack_p50", 1), ("ack_p99", 1), ("filled_p50", 1), ("filled_p99", 1)]
        figures += [("settled_per_s", 0), ("server_cpu_us", 0), ("commits", 2), ("batch", 0), ("late_p99", 1)]
        yield "Open loop: the broker, requests at a fixed rate, latency from the moment that each was due.\n"
        yield (
            "| offered/s | 201/s | 201 p50 ms | p99 | FILLED p50 ms | p99 | settled/s | CPU us/trade | commits/trade "
            "| batch | sent late p99 ms |"
        )
        yield "|---" * (1 + len(figures)) + "|"
        for rate in self._rates():
            yield f"| {rate:,.0f} | {self._cells(figures, BROKER, None, rate)} |"

    def _references(self) -> Iterator[str]:
        yield "The broker at its most connections, and the references, each at the connections where it was fastest.\n"
        yield "| | trades/s | p50 ms | p99 | PostgreSQL CPU us/trade | the broker settles |"
        yield "|---|---|---|---|---|---|"
        broker = self._peak("settled_per_s", BROKER)
        for server, figures in {
            BROKER: ("settled_per_s", "filled_p50", "filled_p99"),
            PLAIN: ("settled_per_s", "settled_p50", "settled_p99"),
            PGBENCH: ("settled_per_s", "settled_p50", "settled_p99"),
            PAPERTRADE: ("settled_per_s", "settled_p50", "settled_p99"),
            ENGINE: ("settled_per_s", "ack_p50", "ack_p99"),
            ENGINE_ONE: ("settled_per_s", "ack_p50", "ack_p99"),
        }.items():
            if server in self.skipped:
                yield f"| {server} | {self.skipped[server]} | | | | |"
                continue
            found = [self._peak(figure, server) for figure in figures]
            if found[0] is None:
                continue
            texts = [each.text(digits) if each else "" for each, digits in zip(found, (0, 1, 1), strict=True)]
            cpu = self._peak("postgres_cpu_us", server)
            times = f"{broker.median / found[0].median:.1f} times as many" if broker else ""
            rest = f"{cpu.text() if cpu else ''} | {times if server != BROKER else ''}"
            yield f"| {self._named(server)} | {' | '.join(texts)} | {rest} |"

    def _named(self, server: str) -> str:
        orders = self._peak("acknowledged_per_s", server)
        if server in (ENGINE, ENGINE_ONE) and orders:
            return f"{server}, {orders.text()} orders/s"
        return server

    def _peak(self, figure: str, server: str) -> Spread | None:
        """A figure in the closed loop: of the broker at its most connections, of a reference where it was fastest."""
        if server == BROKER:
            return self.spread(figure, server, max(self._settings(), default=None))
        settings = {row.connections for row in self.rows if row.server == server and row.offered_per_s is None}
        return self.spread(figure, server, max(settings, key=lambda each: self._speed(server, each), default=None))

    def _speed(self, server: str, connections: int | None) -> float:
        settled = self.spread("settled_per_s", server, connections)
        found = settled or self.spread("acknowledged_per_s", server, connections)
        return found.median if found else 0.0

    # -------------------------------------------------------------- aims

    def aims(self) -> Iterator[str]:
        """Each aim with what was found (medians), and whether it was reached."""
        yield "| aim | found | reached |"
        yield "|---|---|---|"
        for aim, found, reached in self.judged():
            yield f"| {aim} | {found} | {'yes' if reached else 'NO'} |"

    def judged(self) -> Iterator[tuple[str, str, bool]]:
        """Aim, finding, and whether it was reached; what was not measured is left out."""
        settled = self._peak("settled_per_s", BROKER)
        most = max(self._settings(), default=0)
        if settled:
            where = f"settled trades/s, {most} connections"
            yield f"{where}: at least 3,000", f"{settled.median:,.0f}", settled.median >= 3000
            plain = self._peak("settled_per_s", PLAIN)
            if plain:
                times = settled.median / plain.median
                yield f"{where}: at least 10 times the plain way's", f"{times:.1f} times", times >= 10
            engine = self._peak("acknowledged_per_s", ENGINE)
            orders = engine.median if engine else ELSEWHERE_ORDERS_PER_S
            source = "same run" if engine else "measured ELSEWHERE, on another machine"
            times = settled.median / orders
            found = f"{times:.1f} times ({orders:,.0f} orders/s, {source})"
            yield f"{where}: at least 2 times matching-engine's orders/s", found, times >= 2
        for figure, name in (("ack", "201"), ("filled", "FILLED")):
            for share, limit in (("p50", 4), ("p99", 10)):
                found_ = self.spread(f"{figure}_{share}", BROKER, None, USUAL_PER_S)
                if found_:
                    aim = f"{name} {share} at {USUAL_PER_S}/s, open loop: below {limit} ms"
                    yield aim, f"{found_.median:.1f} ms", found_.median < limit
        echo, acknowledged = self._peak("acknowledged_per_s", ECHO), self._peak("acknowledged_per_s", BROKER)
        if echo and acknowledged:
            share_ = acknowledged.median / echo.median
            yield "acknowledgements/s: at least 80 % of the bare echo's", f"{share_:.0%}", share_ >= 0.8
        within: list[tuple[str, str, float, Callable[[float], str]]] = [
            (
                "server_cpu_us",
                "the broker's CPU for a trade, at peak: at most 0.5 ms",
                500,
                lambda us: f"{us / 1e3:.2f} ms",
            ),
            ("commits", "commits for a trade, at peak: below 0.2", 0.2, lambda each: f"{each:.3f}"),
        ]
        for figure, aim, limit_, text in within:
            found_ = self._peak(figure, BROKER)
            if found_:
                yield aim, text(found_.median), found_.median <= limit_
