"""The feed of an exchange: its WebSocket, and beside it what its symbols are called."""

import asyncio
import random
from collections.abc import AsyncGenerator

import aiohttp
import msgspec

from broker.config import Config
from broker.core.types import Symbol
from broker.exchange import read_at_most
from broker.market.feed import FeedBroken, tell_lost

_NAMES_AGAIN_S = 600.0


class _WireSymbol(msgspec.Struct):
    symbol: str
    name: str


class _WireSymbols(msgspec.Struct):
    symbols: list[_WireSymbol]


_decode_symbols = msgspec.json.Decoder(_WireSymbols).decode


class ExchangeSource:
    """The WebSocket `/v1/feed` of an exchange."""

    def __init__(self, url: str, session: aiohttp.ClientSession, config: Config) -> None:
        self._url = url.rstrip("/")
        self._session = session
        self._config = config

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """Connect and follow; a feed that does not even answer a ping is lost."""
        silence, largest = self._config.feed_silence_s, self._config.feed_message_max
        async with self._session.ws_connect(f"{self._url}/v1/feed", heartbeat=silence, max_msg_size=largest) as socket:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise FeedBroken(f"a message of type {message.type.name}")
                yield message.data
        raise FeedBroken("the exchange closed it")


class Names:
    """What the symbols of an exchange are called: good to have, and no reason to go without quotes."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, config: Config, names: dict[Symbol, str], rng: random.Random
    ) -> None:
        self._url = url.rstrip("/") + "/v1/symbols"
        self._session = session
        self._config = config
        self._names = names
        self._rng = rng

    async def run(self) -> None:
        """Ask now, and again now and then, for ever."""
        while True:
            pause = _NAMES_AGAIN_S
            try:
                await self._learn()
            except Exception as error:  # noqa: BLE001 - this task's guard, as a feed's
                tell_lost("feed.names_unknown", error)
                pause = self._config.feed_retry_max_s
            await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _learn(self) -> None:
        async with self._session.get(self._url) as response:
            response.raise_for_status()
            listed = _decode_symbols(await read_at_most(response.content, self._config.feed_message_max))
        self._names.clear()
        self._names.update((Symbol(each.symbol), each.name[:200]) for each in listed.symbols)
