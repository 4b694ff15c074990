"""The OpenAPI documents of our API and of Alpaca's dialect, and a page to read them on. Open: they tell no secrets."""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import orjson
from aiohttp import web

from broker.core.types import SYMBOL_PATTERN
from broker.openapi import Api, Json, write_document

_UUID: Json = {"type": "string", "format": "uuid"}
_TICKER: Json = {"type": "string", "pattern": SYMBOL_PATTERN}
_CUSTOMER = "[1-9][0-9]{0,17}"

_DOCUMENT = "a document about the API"
_NOTHING_FOREIGN = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"
_REST = "what there is not, in the form of an error"
_SOCKET = "a WebSocket: docs/api.md describes its messages"
_SOCKET_OF_ALPACA = "a WebSocket: docs/alpaca.md describes its messages"

OURS = Api(
    title="stockbroker",
    version=version("stockbroker"),
    description=(
        "A self-hosted stockbroker. Money goes out as text in dollars, and comes in as text or as a number; times are "
        "UTC. Not described here are the streams and the exchange's callbacks: docs/api.md has them."
    ),
    schemes={
        "customer": {"type": "http", "scheme": "bearer", "description": "a customer's token"},
        "operator": {"type": "http", "scheme": "bearer", "description": "the admin token"},
    },
    security={"/api/": [{"customer": []}], "/admin/": [{"operator": []}]},
    tags={
        "/": "health",
        "/admin/": "operators",
        "/api/v1/account": "account",
        "/api/v1/activities": "account",
        "/api/v1/balance": "account",
        "/api/v1/executions": "account",
        "/api/v1/portfolio": "account",
        "/api/v1/positions": "account",
        "/api/v1/bars": "market",
        "/api/v1/calendar": "market",
        "/api/v1/clock": "market",
        "/api/v1/quotes": "market",
        "/api/v1/symbols": "market",
        "/api/v1/orders": "orders",
        "/api/v1/trades": "trades",
        "/api/v1/webhooks": "webhooks",
    },
    error={
        "type": "object",
        "description": "What went wrong, as a sentence and as a word for programs; maybe with the figures in it.",
        "properties": {"error": {"type": "string"}, "code": {"type": "string", "pattern": "^[a-z0-9_]+$"}},
        "required": ["error", "code"],
        "additionalProperties": True,
    },
    errors=(401, 403, 429, 503),
    errors_of_body=(400, 408, 413, 415),
    errors_of_query=(400,),
    parameters={
        "orderId": _UUID,
        "tradeId": _UUID,
        "webhookId": _UUID,
        "symbol": _TICKER,
        "customerId": {"type": "string", "pattern": f"^{_CUSTOMER}$"},
        "keyId": {"type": "string", "pattern": "^key_[0-9a-f]{16}$"},
        "clientOrderId": {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "/admin/v1/controls/{scope} scope": {
            "type": "string",
            "pattern": rf"^(all|customer:{_CUSTOMER}|(halt|restrict):[A-Z][A-Z0-9.]{{0,11}})$",
        },
        "/admin/v1/limits/{scope} scope": {
            "type": "string",
            "pattern": f"^(type:(cash|margin)|customer:{_CUSTOMER})$",
        },
    },
    left_out={
        "GET /openapi.json": _DOCUMENT,
        "GET /openapi-alpaca.json": _DOCUMENT,
        "GET /docs": _DOCUMENT,
        "GET /metrics": "the text of Prometheus, not JSON",
        "GET /api/v1/stream": _SOCKET,
        "GET /api/v1/orders/stream": "a WebSocket or Server-Sent Events: docs/api.md describes its messages",
    },
)

ALPACA = Api(
    title="stockbroker, as Alpaca's API",
    version=version("stockbroker"),
    description=(
        "The same broker in Alpaca's words, for programs that are written for Alpaca: the key is the part of a token "
        "before the point, the secret the part behind it."
    ),
    schemes={
        "keyId": {"type": "apiKey", "in": "header", "name": "APCA-API-KEY-ID"},
        "secretKey": {"type": "apiKey", "in": "header", "name": "APCA-API-SECRET-KEY"},
        "token": {"type": "http", "scheme": "bearer", "description": "the whole token"},
        "basic": {"type": "http", "scheme": "basic", "description": "the key and its secret"},
    },
    security={"/": [{"keyId": [], "secretKey": []}, {"token": []}, {"basic": []}]},
    tags={"/": "trading", "/v2/stocks": "market data"},
    error={
        "type": "object",
        "description": "What went wrong, maybe with the figures in it.",
        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
        "required": ["code", "message"],
        "additionalProperties": True,
    },
    errors=(401, 403, 429, 503),
    errors_of_body=(400, 408, 413, 415, 422),
    errors_of_query=(400, 422),
    parameters={"order_id": _UUID, "watchlist_id": _UUID},
    left_out={
        "GET /stream": _SOCKET_OF_ALPACA,
        "GET /stream/": _SOCKET_OF_ALPACA,
        "GET /v2/iex": _SOCKET_OF_ALPACA,
        "GET /v2/sip": _SOCKET_OF_ALPACA,
        **dict.fromkeys(("* /v1{rest}", "* /v2{rest}", "* /v3{rest}", "* //v{rest}"), _REST),
    },
    empty_is_left_out=True,
)

_OF_ALPACA = ("/v1", "/v2", "/v3", "//v", "/stream")
_OF_NO_CLIENT = "/webhooks/"
"""The exchange's callbacks: docs/exchange-contract.md describes them, since an exchange has to be written for them."""

PAGE = Path(__file__).with_name("docs.html")


@dataclass(frozen=True, slots=True)
class _Served:
    """Something that stays as it is while the broker runs."""

    body: bytes
    content_type: str

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.body).hexdigest()[:32]


def by_api(routes: Iterable[web.RouteDef]) -> tuple[list[web.RouteDef], list[web.RouteDef]]:
    """The routes of our own API and those of Alpaca's dialect, without the exchange's callbacks."""
    ours, alpaca = [], []
    for route in routes:
        if route.path.startswith(_OF_ALPACA):
            alpaca.append(route)
        elif not route.path.startswith(_OF_NO_CLIENT):
            ours.append(route)
    return ours, alpaca


class DocsApi:
    """The routes of the documents, which are made of all other routes, once: when somebody asks, not at the start."""

    def __init__(self, routes: Iterable[web.RouteDef]) -> None:
        self._ours, self._alpaca = by_api(routes)
        self._served: dict[str, _Served] = {}
        self._making = asyncio.Lock()

    def document(self, path: str) -> Json:
        """The document at a path."""
        is_ours = path == "/openapi.json"
        return write_document(OURS, self._ours) if is_ours else write_document(ALPACA, self._alpaca)

    def _make(self, path: str) -> _Served:
        if path == "/docs":
            return _Served(PAGE.read_bytes(), "text/html")
        return _Served(orjson.dumps(self.document(path)), "application/json")

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/openapi.json", self.serve),
            web.get("/openapi-alpaca.json", self.serve),
            web.get("/docs", self.serve),
        ]

    async def serve(self, request: web.Request) -> web.Response:
        """One of them; 304 for a client that has it already."""
        async with self._making:
            if request.path not in self._served:  # beside the event loop: it takes a tenth of a second
                self._served[request.path] = await asyncio.to_thread(self._make, request.path)
        served = self._served[request.path]
        headers = {"ETag": f'"{served.etag}"', "Cache-Control": "no-cache"}
        if served.content_type == "text/html":
            headers["Content-Security-Policy"] = _NOTHING_FOREIGN
        known = request.if_none_match or ()
        if any(each.value in {served.etag, "*"} for each in known):
            return web.Response(status=304, headers=headers)
        return web.Response(body=served.body, content_type=served.content_type, charset="utf-8", headers=headers)
