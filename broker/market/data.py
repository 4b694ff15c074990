"""Market data as a whole: a feed of each exchange, the board that they meet on, the hub that tells its followers."""

import random
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from broker.bars import Bars
from broker.config import Config, ConfigError
from broker.core.types import Symbol
from broker.db import Database
from broker.market.board import Board, Place, Watchers
from broker.market.feed import Feed, Source
from broker.market.hub import Hub
from broker.market.live import ExchangeSource, Names
from broker.market.quotes import Quotes
from broker.market.recorded import RecordedSource
from broker.market.tape import Tape
from broker.metrics import Metrics
from broker.recording import read_recording


class MarketData:
    """Its parts, and what they do for ever. `venues` are the exchanges' names, URLs and quotes, the main one first."""

    def __init__(
        self,
        venues: Sequence[tuple[str, str, Quotes]],
        venue_of: Callable[[Symbol], str],
        database: Database,
        session: aiohttp.ClientSession,
        now: Callable[[], datetime],
        watchers: Watchers,
        config: Config,
        metrics: Metrics,
    ) -> None:
        self._now = now
        self._config = config
        self._session = session
        self._feeds: list[Feed] = []
        self._names: list[Names] = []
        self._shared: list[Any] = []
        self.bars = Bars(database, now, config, metrics)
        self.hub = Hub(config, metrics)
        places = {name: Place(name, quotes) for name, _, quotes in venues}
        self.tape = Tape(config)
        self.board = Board(places, venue_of, self.bars, self.hub, now, watchers, self.tape)
        rng = random.Random()  # noqa: S311 - jitter
        for number, (name, url, quotes) in enumerate(venues):
            self._names.append(Names(url, session, config, places[name].names, rng))
            quotes.is_live = config.quotes is None and not (config.feed and number == 0)
            source = self._source(places[name], url, is_main=number == 0, rng=rng)
            self._feeds.append(Feed(source, partial(self.board.take, places[name]), quotes.lost, config, rng))

    def _source(self, place: Place, url: str, *, is_main: bool, rng: random.Random) -> Source:
        config = self._config
        if config.feed and is_main:
            return _recorded(Path(config.feed), self._now)
        live = ExchangeSource(url, self._session, config)
        if config.quotes is None:
            return live
        from broker.market.shared import SharedSource  # noqa: PLC0415 - only who shares pays for loading the driver

        shared = SharedSource(live, config.quotes, place.name, rng)
        self._shared.append(shared)
        return shared

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the broker does."""
        always = [self.bars.run(), self.hub.run(), self.board.run()]
        feeds = [feed.run() for feed in self._feeds] + [names.run() for names in self._names]
        return [*always, *feeds, *(shared.lead() for shared in self._shared)]

    async def close(self) -> None:
        """Let go of what is shared."""
        for shared in self._shared:
            await shared.close()


def _recorded(path: Path, now: Callable[[], datetime]) -> RecordedSource:
    """Raises ConfigError where the file cannot be used: better now than in the log every five seconds."""
    try:
        next(iter(read_recording(path)))
    except OSError as error:
        raise ConfigError(f"feed cannot be used: {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"feed cannot be used: {error}") from error
    return RecordedSource(path, now)
