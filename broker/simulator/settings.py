"""Everything about the simulated exchange that can be set."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from broker.simulator.clock import Clock
from broker.simulator.delivery import DeliveryLimits
from broker.simulator.faults import Misbehaviour
from broker.simulator.sessions import Hours


@dataclass(frozen=True, slots=True)
class ExchangeSettings:
    """The settings of one exchange; the defaults are a well-behaved one that trades around the clock."""

    host: str = "127.0.0.1"
    """The address to listen on. Orders carry no credentials: only brokers should reach it."""

    port: int = 0
    """The port to listen on; 0 takes any that is free."""

    hours: Hours = "always"
    """When it trades: around the clock, or in New York's regular sessions."""

    seed: int = 0
    """Two exchanges with the same seed quote the same prices, tick by tick, and draw the same faults."""

    tick_ms: int = 250
    """Milliseconds between two moves of the market; 0 lets it stand still: only customers move prices then."""

    fill_delay_ms: int = 0
    """Milliseconds for which a market order rests before it trades; 0 lets it trade at once."""

    journal: Path | None = None
    """The folder of the journal; without one a stopped exchange forgets everything."""

    finished_max: int = 1_000_000
    """Finished orders that are remembered, the newest: half a KB of memory each. A forgotten id is taken again."""

    open_max: int = 100_000
    """Open orders with which no more are taken, whole requests at a time."""

    feed_sockets_max: int = 100
    """WebSockets on the feed."""

    feed_messages_max: int = 256
    """Messages that may wait for a slow socket before it is dropped."""

    delivery: DeliveryLimits = field(default_factory=DeliveryLimits)
    """How callbacks are delivered."""

    misbehaviour: Misbehaviour = field(default_factory=Misbehaviour)
    """What goes wrong on purpose."""

    clock: Callable[[], datetime] = field(default_factory=Clock)
    """What time it is, with a time zone: for trading hours and for the `at` of events and quotes."""

    script_max: int = 1_000
    """Steps of the script that may wait for orders: more than a test reads, and they are gone through one by one."""
