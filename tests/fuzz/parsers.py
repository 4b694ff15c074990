"""Every parser that reads what others send, as a function of bytes: it returns, or raises its own typed error.

`make fuzz-parsers` gives each of them inputs that atheris finds by the branches they reach; the property tests give
each a few of hypothesis's.
"""

import gzip
import inspect
import io
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from importlib import import_module
from pkgutil import iter_modules
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec
from aiohttp import WSMessage, WSMsgType

from broker import addresses, api, config, exchange, recording, router
from broker.alpaca import data_query, data_stream, orders_in, requests, trade_stream
from broker.alpaca.errors import AlpacaError
from broker.api import order_request, query
from broker.auth import NotAuthenticated
from broker.config import Config
from broker.core import fees, money, signing
from broker.core.types import CustomerId, Symbol
from broker.http import ApiError, convert, parse_json
from broker.market import feed
from broker.simulator import wire
from broker.streams import _token

Parser = Callable[[bytes], object]

AT = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
ID = UUID(int=1)
_CONFIG = Config(admin_token="nobody-at-all-is-it")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _query(data: bytes) -> dict[str, str]:
    return dict(parse_qsl(data.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="surrogateescape"))


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


def _request(body: bytes) -> Any:
    """As much of a request as reads a body."""

    async def read() -> bytes:
        return body

    return SimpleNamespace(
        headers={}, content_length=len(body), content=SimpleNamespace(is_eof=lambda: True), read=read, path="/v2/orders"
    )


def _structs(package: Any) -> Iterator[type[msgspec.Struct]]:
    """The bodies that the routes of our own API take: whoever adds one adds a parser."""
    for module in iter_modules(package.__path__, package.__name__ + "."):
        for name, found in inspect.getmembers(import_module(module.name), inspect.isclass):
            if issubclass(found, msgspec.Struct) and name.endswith("Request") and found.__module__ == module.name:
                yield found


def _body(kind: type[Any]) -> Parser:
    return lambda data: convert(parse_json(data), kind)


def _alpaca_body(kind: type[Any]) -> Parser:
    return lambda data: _done(requests.body_of(_request(data), kind, _CONFIG))


def _placed(data: bytes) -> object:
    return order_request.place_command(CustomerId(1), convert(parse_json(data), order_request.OrderRequest), lambda: ID)


def _placed_alpaca(data: bytes) -> object:
    body = _done(requests.body_of(_request(data), orders_in.OrderBody, _CONFIG))
    return orders_in.place_command(body, Symbol("AAPL"), None, CustomerId(1), (ID, ID, ID))


def _told(kind: WSMsgType, *, msgpack: bool) -> Parser:
    codec = data_stream._Codec(msgpack=msgpack)

    def parse(data: bytes) -> object:
        if kind is WSMsgType.TEXT:
            try:
                return codec.read(WSMessage(kind, data.decode(), "")).channels()
            except UnicodeDecodeError:  # aiohttp lets none through
                return None
        return codec.read(WSMessage(kind, data, "")).channels()

    return parse


def _introduced(data: bytes) -> object:
    try:
        return _token(WSMessage(WSMsgType.TEXT, data.decode(), ""))
    except UnicodeDecodeError:
        return None


def _traded(data: bytes) -> object:
    said = trade_stream._read(WSMessage(WSMsgType.BINARY, data, ""))
    return said and said.credentials()


def _signed(data: bytes) -> object:
    parts = _text(data).split("\n", 3)
    named = dict(zip((signing.HEADER_ID, signing.HEADER_TIMESTAMP, signing.HEADER_SIGNATURE), parts, strict=False))
    return signing.verify([bytes(32), bytes(range(32))], named, data)


def _recorded(data: bytes) -> object:
    return [*recording._read(cast(Any, io.BytesIO(data)))]


def _recorded_packed(data: bytes) -> object:
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return [*recording._read(cast(Any, file))]


def _fed(data: bytes) -> object:
    return feed.parse(feed.Numbered().read(data))


def _asked(data: bytes) -> object:
    said = _query(data)
    query.only_known(said, ("symbol", "from", "to", "limit", "cursor"))
    at = query.read_time("from", said.get("from")), query.read_time("to", said.get("to"))
    return query.read_symbol(said.get("symbol")), at, query.read_number("limit", said.get("limit"), 1, 500)


def _asked_alpaca(data: bytes) -> object:
    said = _query(data)
    requests.moment(said, "at")
    requests.day(said, "day")
    requests.boolean("nested", said.get("nested"))
    requests.count(said, "limit", 50, 500)
    requests.symbols(said, "symbols", 100)
    requests.as_uuid(said.get("id", ""))
    return data_query.past(said, AT, AT, 10_000), data_query.wanted_symbols(said, 100)


def _number(data: bytes) -> object:
    value = parse_json(data)
    read = cast(Any, msgspec.convert(value, requests.Number)) if not isinstance(value, dict | list) else None
    return requests.price("x", read), requests.whole_shares("x", read, "AAPL"), requests.basis_points("x", read)


def _read_venues(data: bytes) -> object:
    return config.read_venues(_text(data)), router.read_routes(_text(data), lambda _: True)


_OURS = (ApiError,)
_ALPACAS = (AlpacaError, ApiError)
_VALUE = (ValueError,)

PARSERS: dict[str, tuple[Parser, tuple[type[Exception], ...]]] = {
    "JSON": (parse_json, _OURS),
    **{f"body {each.__name__}": (_body(each), _OURS) for each in _structs(api)},
    **{
        f"Alpaca's body {each.__name__}": (_alpaca_body(each), _ALPACAS)
        for each in (orders_in.OrderBody, orders_in.ReplaceBody)
    },
    "order": (_placed, _OURS),
    "Alpaca's order": (_placed_alpaca, _ALPACAS),
    "Alpaca's number": (_number, (*_ALPACAS, msgspec.ValidationError)),
    "query": (_asked, _OURS),
    "Alpaca's query": (_asked_alpaca, _ALPACAS),
    "stream: first message": (_introduced, (NotAuthenticated,)),
    "Alpaca's data stream, JSON": (_told(WSMsgType.TEXT, msgpack=False), _VALUE),
    "Alpaca's data stream, msgpack": (_told(WSMsgType.BINARY, msgpack=True), _VALUE),
    "Alpaca's trade stream": (_traded, _ALPACAS),
    "callback": (lambda data: exchange.read_reports(data, "sim"), (ValueError, RecursionError)),
    "callback's signature": (_signed, (signing.BadSignature,)),
    "webhook secret": (lambda data: signing.decode_secret(_text(data)), _VALUE),
    "exchange's feed": (_fed, (ValueError, RecursionError, feed.FeedBroken)),
    "recording": (_recorded, _VALUE),
    "packed recording": (_recorded_packed, _VALUE),
    "money": (lambda data: money.parse_money(_text(data)), _VALUE),
    "fees": (lambda data: fees.parse_fees(_text(data)), _VALUE),
    "venues and routes": (_read_venues, _VALUE),
    "margin symbols": (lambda data: config.read_margin_symbols(_text(data)), _VALUE),
    "webhook's URL": (lambda data: addresses.check_url(_text(data), "public"), _VALUE),
    "simulated exchange: orders": (wire.parse_orders, (wire.BadBody,)),
    "simulated exchange: cancels": (wire.parse_cancels, (wire.BadBody,)),
}
"""Each parser by name, and the errors that are its own."""


def parse(name: str, data: bytes) -> bool:
    """Whether the parser takes it; whatever else than its own error is raised passes through."""
    parser, errors = PARSERS[name]
    try:
        parser(data)
    except errors:
        return False
    return True
