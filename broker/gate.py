"""The gate: before any handler runs, it is known who asks, that the key is for this, and that it is not too often.

What a route needs goes by its method and path, in the one table below: under /admin/ an operator's key, elsewhere a
customer's that may read, and for whatever may change something one that may trade; for what makes the broker tell
somebody of orders, one that may do both. What is open to all is named there. A route that none of it fits stops the
start. So none is open since somebody forgot something.

How often each customer may ask is said in every answer: in the fields of draft-ietf-httpapi-ratelimit-headers, since
that is what is becoming the standard and says with its policy what the figures are of; to Alpaca's clients in theirs.
Cancels have a bucket of their own, so that a program that runs wild with orders can be stopped with the same key.
"""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from time import monotonic_ns, time

from aiohttp import web
from aiohttp.typedefs import Handler

from broker.alpaca.auth import AlpacaAuth
from broker.alpaca.errors import as_alpaca_error, error_response
from broker.auth import Authenticator, Scope
from broker.config import Config
from broker.core.types import CustomerId
from broker.http import ANSWER_HEADERS, CALLER, OPERATOR, ApiError
from broker.limits import RateLimiter
from broker.peers import ADDRESS, address_of, read_proxies
from broker.streams import COUNT


class Need(Enum):
    """What a route asks of who calls it."""

    NOTHING = auto()
    SIGNATURE = auto()  # of an exchange: its handler looks
    READ = auto()
    TRADE = auto()
    OPERATOR = auto()
    READ_OR_MESSAGE = auto()  # a stream: its handler looks, maybe into the first message


_OPEN = {"/healthz", "/readyz", "/metrics", "/openapi.json", "/openapi-alpaca.json", "/docs"}
_NO_ROUTES = {"/v1{rest}", "/v2{rest}", "/v3{rest}", "//v{rest}"}
"""These answer 404 in Alpaca's form."""
_STREAMS = {"/api/v1/stream", "/api/v1/orders/stream", "/stream", "/stream/", "/v2/iex", "/v2/sip"}
_READING = {("POST", "/api/v1/orders/estimate")}
"""Methods that could change something, and here do not."""
_STOPPING = {
    ("DELETE", "/api/v1/orders"),
    ("DELETE", "/api/v1/orders/{orderId}"),
    ("DELETE", "/v2/orders"),
    ("DELETE", "/v2/orders/{order_id}"),
    ("PATCH", "/v2/account/configurations"),  # suspend_trade: the customer's own kill switch
}
_TELLING = {("POST", "/api/v1/webhooks"), ("POST", "/api/v1/webhooks/{webhookId}/enable")}
"""These change something, and start that every order update is sent to a URL: who may not read them, may not that."""
_OF_ALPACA = ("/v1", "/v2", "/v3", "//v", "/stream")


class Undeclared(Exception):
    """Nothing says what this route needs: it could be open to everybody."""


def need_of(method: str, path: str) -> Need:
    """What a route needs. Raises Undeclared."""
    if path in _STREAMS:
        return Need.READ_OR_MESSAGE
    if path in _NO_ROUTES or (path in _OPEN and method in {"GET", "HEAD"}):
        return Need.NOTHING
    if path == "/webhooks/exchange" or path.startswith("/webhooks/exchange/"):
        return Need.SIGNATURE
    if path.startswith("/admin/v1/"):
        return Need.OPERATOR
    if path.startswith(("/api/v1/", "/v2/")):
        return Need.READ if method == "GET" or (method, path) in _READING else Need.TRADE
    raise Undeclared(f"Nothing says who may call {method} {path}.")


def scopes_of(method: str, path: str) -> tuple[Scope, ...]:
    """All that a customer's key must be good for to call this. Raises Undeclared."""
    if (method, path) in _TELLING:
        return Scope.TRADE, Scope.READ
    return {Need.READ: (Scope.READ,), Need.TRADE: (Scope.TRADE,)}.get(need_of(method, path), ())


class _Bucket:
    """A limiter with the name under which its figures go out."""

    def __init__(self, name: str, config: Config) -> None:
        self.limiter = RateLimiter(config.requests_per_second, 1, config.requests_burst, config.key_cache_max)
        self.name = name
        self.policy = f'"{name}";q={self.limiter.burst};w={self.limiter.window_s}'

    def headers(self, key: Hashable, now: int) -> dict[str, str]:
        """The figures in the words of the draft."""
        left, full_in_s = self.limiter.standing(key, now)
        return {"RateLimit-Policy": self.policy, "RateLimit": f'"{self.name}";r={left};t={full_in_s}'}

    def alpaca_headers(self, key: Hashable, now: int) -> dict[str, str]:
        """The same in Alpaca's words."""
        left, full_in_s = self.limiter.standing(key, now)
        return {
            "X-Ratelimit-Limit": str(self.limiter.burst),
            "X-Ratelimit-Remaining": str(left),
            "X-Ratelimit-Reset": str(int(time()) + full_in_s),
        }


@dataclass(frozen=True, slots=True)
class _Rule:
    need: Need
    scopes: tuple[Scope, ...]
    is_alpaca: bool
    bucket: _Bucket


class Gate:
    """Its middleware stands first; whatever comes behind it finds CALLER or OPERATOR in the request."""

    def __init__(self, authenticator: Authenticator, config: Config, routes: Iterable[web.RouteDef]) -> None:
        self._authenticator = authenticator
        self._alpaca = AlpacaAuth(authenticator)
        self._proxies = read_proxies(config.trusted_proxies)
        self._requests = _Bucket("requests", config)
        self._cancels = _Bucket("cancels", config)
        self._operators = _Bucket("operator", config)
        self._rules: dict[web.AbstractRoute, _Rule] = {}  # of those that were called
        for route in routes:
            need_of(route.method, web.UrlDispatcher().add_resource(route.path).canonical)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let it through to the handler, or raise what as_api_error knows."""
        match = request.match_info
        if match.http_exception is None:  # else there is no such route, and the handler says so
            rule = self._rules.get(match.route) or self._rule(match.route)
            try:
                await self._check(request, rule)
            except Exception as error:
                known = as_alpaca_error(error) if rule.is_alpaca else None
                if known is None:
                    raise
                return error_response(known)
        return await handler(request)

    def _rule(self, route: web.AbstractRoute) -> _Rule:
        assert route.resource is not None
        path = route.resource.canonical
        need = need_of(route.method, path)
        bucket = self._cancels if (route.method, path) in _STOPPING else self._requests
        if need is Need.OPERATOR:
            bucket = self._operators
        rule = self._rules[route] = _Rule(need, scopes_of(route.method, path), path.startswith(_OF_ALPACA), bucket)
        return rule

    async def _check(self, request: web.Request, rule: _Rule) -> None:
        address = request[ADDRESS] = address_of(request, self._proxies)
        if rule.need is Need.OPERATOR:
            header = request.headers.get("Authorization")
            operator = request[OPERATOR] = await self._authenticator.operator(header, address)
            _take(request, rule, operator)
        elif rule.need in {Need.READ, Need.TRADE}:
            header = self._alpaca.header(request) if rule.is_alpaca else request.headers.get("Authorization")
            caller = request[CALLER] = await self._authenticator.customer(header, address)
            _take(request, rule, caller.customer_id)
            for scope in rule.scopes:
                caller.require(scope)
        elif rule.need is Need.READ_OR_MESSAGE:
            count: Callable[[CustomerId], None] = partial(_take, request, rule)
            request[COUNT] = count


def _take(request: web.Request, rule: _Rule, key: Hashable) -> None:
    """Count a request, and note what its answer says of that. Raises ApiError 429."""
    now, bucket = monotonic_ns(), rule.bucket
    too_early = bucket.limiter.take(key, now)
    request[ANSWER_HEADERS] = bucket.alpaca_headers(key, now) if rule.is_alpaca else bucket.headers(key, now)
    if too_early:
        wait_s = max(1, -(-too_early // 1_000_000_000))
        limit = f"more than {bucket.limiter.burst} at once"
        sentence = f"You send too many requests, {limit}; nothing was done. Try again in {wait_s} s."
        raise ApiError(429, "rate_limited", sentence, {"Retry-After": str(wait_s)})
