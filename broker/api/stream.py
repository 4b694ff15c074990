"""The stream of market data: a WebSocket on which a customer follows quotes, trades and minute bars of symbols."""

import asyncio
import math
import re
from typing import Annotated, Any

import msgspec
from aiohttp import WSCloseCode, web

from broker.api.query import only_known
from broker.config import Config
from broker.core.types import SYMBOL_PATTERN, Symbol
from broker.http import ApiError, convert
from broker.market.board import Board
from broker.market.hub import Channel, Follower, Hub, text_frame
from broker.streams import Socket, Streams

_LOOK_S = 0.02
_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)

Word = Annotated[str, msgspec.Meta(pattern="^(quotes|trades|bars)$(?!\n)")]


class StreamRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A message of a client. `batch` is for the whole socket; left out, it stays as it is."""

    action: Annotated[
        str,
        msgspec.Meta(pattern="^(subscribe|unsubscribe)$(?!\n)", description='"subscribe" or "unsubscribe"'),
    ]
    symbols: Annotated[list[str], msgspec.Meta(min_length=1, description="a list of tickers, like AAPL")]
    channels: (
        Annotated[list[Word], msgspec.Meta(min_length=1, description='a list of "quotes", "trades" and "bars"')] | None
    ) = None
    batch: Annotated[bool | None, msgspec.Meta(description="true or false")] = None


class StreamApi:
    """The route of the stream."""

    def __init__(self, streams: Streams, board: Board, hub: Hub, config: Config) -> None:
        self._streams = streams
        self._board = board
        self._hub = hub
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [web.get("/api/v1/stream", self.stream, allow_head=False)]

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        """Follow market data until the socket is closed."""
        only_known(request.query, ())
        return await self._streams.websocket(request, self._serve)

    async def _serve(self, socket: Socket) -> None:
        stalled_s = self._config.stream_stall_s

        def cut() -> None:
            reason = f"You took nothing for {stalled_s:g} s. Connect again when you can keep up."
            socket.end(WSCloseCode.POLICY_VIOLATION, reason, within_s=stalled_s)

        follower = Follower(socket.transport, cut)
        try:
            async for message in socket.messages():
                try:
                    self._take(follower, convert(message, StreamRequest))
                except ApiError as error:
                    await socket.refuse(error)
                if not await self._taken(socket):
                    cut()
        finally:
            self._hub.gone(follower)

    async def _taken(self, socket: Socket) -> bool:
        """Wait until the answer has left for the client before its next message is read; False where it does not.

        What is written meanwhile does not count: at most one turn's news, and only when nothing waits any more.
        """
        loop, least = asyncio.get_running_loop(), math.inf
        until = loop.time() + self._config.stream_stall_s
        while not socket.ws.closed:
            waiting = socket.transport.get_write_buffer_size()
            if waiting == 0 or waiting > least:  # it was empty in between
                return True
            if waiting < least:
                least, until = waiting, loop.time() + self._config.stream_stall_s
            elif loop.time() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    def _take(self, follower: Follower, wanted: StreamRequest) -> None:
        if len(wanted.symbols) > self._config.stream_symbols_max:
            raise self._too_many(len(wanted.symbols))
        left_out = Channel if wanted.action == "unsubscribe" else [Channel.QUOTES]
        channels = list(dict.fromkeys(map(Channel, wanted.channels or left_out)))
        symbols = [Symbol(text) for text in dict.fromkeys(wanted.symbols)]
        if wanted.action == "unsubscribe":
            for channel in channels:
                for symbol in symbols:
                    self._hub.leave(follower, channel, symbol)
            _tell(follower, [msgspec.json.encode(_subscribed("unsubscribed", channels, symbols))])
            return
        known = [symbol for symbol in symbols if _SYMBOL.search(symbol) and self._board.lists(symbol) is not False]
        unknown = dict.fromkeys(symbols).keys() - known
        self._check_room(follower, known)
        if wanted.batch is not None:
            follower.batch = wanted.batch
        messages = []
        for channel in channels:
            for symbol in known:
                self._hub.follow(follower, channel, symbol)
            messages += self._board.current(channel, known)
        if known:
            messages.append(msgspec.json.encode(_subscribed("subscribed", channels, known)))
        if unknown:
            messages.append(msgspec.json.encode(_unknown([symbol for symbol in symbols if symbol in unknown])))
        _tell(follower, messages)

    def _check_room(self, follower: Follower, symbols: list[Symbol]) -> None:
        followed = {topic.symbol for topic in follower.topics} | set(symbols)
        if len(followed) > self._config.stream_symbols_max:
            raise self._too_many(len(followed))

    def _too_many(self, number: int) -> ApiError:
        most = self._config.stream_symbols_max
        sentence = f"A stream follows at most {most} symbols; this would make {number}. Open another one."
        return ApiError(409, "too_many_symbols", sentence, figures={"limit": most})


def _tell(follower: Follower, messages: list[bytes]) -> None:
    """At once, before any news."""
    if follower.batch:
        follower.write(text_frame(b"[" + b",".join(messages) + b"]"))
    else:
        follower.write(b"".join(map(text_frame, messages)))


def _subscribed(kind: str, channels: list[Channel], symbols: list[Symbol]) -> dict[str, Any]:
    return {"type": kind, "channels": channels, "symbols": symbols}


def _unknown(symbols: list[Symbol]) -> dict[str, Any]:
    shown = ", ".join(symbol if _SYMBOL.search(symbol) else repr(symbol[:20]) for symbol in symbols[:5])
    sentence = f"The exchange does not list {shown}{' and others' if len(symbols) > 5 else ''}."
    return {"type": "error", "code": "unknown_symbol", "error": sentence, "symbols": symbols}
