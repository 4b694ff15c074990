"""Alpaca's streams and market data as a whole: their parts, and what they do for ever."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

from aiohttp import web

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.data import DataApi
from broker.alpaca.data_hubs import DataHubs
from broker.alpaca.data_latest import LatestDataApi
from broker.alpaca.data_stream import DataStreamApi
from broker.alpaca.trade_stream import TradeStreamApi
from broker.alpaca.trade_updates import TradeUpdates
from broker.auth import Authenticator
from broker.config import Config
from broker.db import Database
from broker.market.data import MarketData
from broker.metrics import Metrics
from broker.streams import Streams
from broker.updates import Updates


class AlpacaDataApi:
    """The routes of `/stream`, `/v2/iex`, `/v2/sip` and `/v2/stocks/...`."""

    def __init__(
        self,
        market: MarketData,
        streams: Streams,
        updates: Updates,
        switches: Callable[[], Mapping[str, str]],
        database: Database,
        authenticator: Authenticator,
        now: Callable[[], datetime],
        config: Config,
        metrics: Metrics,
    ) -> None:
        auth, self._hubs = AlpacaAuth(authenticator), DataHubs(config, metrics)
        market.board.listeners.append(self._hubs)
        self._trades = TradeStreamApi(streams, auth, TradeUpdates(database), updates, config, metrics)
        self._stream = DataStreamApi(streams, auth, self._hubs, switches, config, now)
        self._past = DataApi(market.bars, market.tape, config, now)
        self._latest = LatestDataApi(market.board, market.bars, market.tape, database, config, now)

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [*self._trades.routes(), *self._stream.routes(), *self._past.routes(), *self._latest.routes()]

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs for as long as the broker does."""
        return [self._hubs.run_msgpack(), self._hubs.run_json(), self._stream.run(), self._trades.run()]
