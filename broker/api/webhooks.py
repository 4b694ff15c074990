"""Where customers want to be told of their orders' events: /api/v1/webhooks."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Annotated, Literal, Protocol
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec
from aiohttp import web
from yarl import URL

from broker import answers
from broker.addresses import URL_MAX, check_url
from broker.auth import Caller
from broker.config import Config
from broker.core.signing import encode_secret
from broker.core.types import CustomerId
from broker.db import Database, RefusedByDatabase
from broker.http import CALLER, ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation
from broker.reading import Row

_SEQUENCE_MAX = 2**62


class Newest(Protocol):
    """Where a customer's events stand."""

    async def newest(self, customer_id: CustomerId) -> int:
        """The sequence of the newest; 0 where there is none."""
        ...


class Wake(Protocol):
    """Tells those who deliver."""

    def __call__(self, deleted: UUID | None = None) -> None:
        """Something may be due; or this webhook was deleted."""
        ...


class WebhookRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /api/v1/webhooks."""

    url: Annotated[str, msgspec.Meta(max_length=URL_MAX, description=f"a URL of at most {URL_MAX} characters")]
    since: (
        Annotated[
            Annotated[int, msgspec.Meta(ge=0, le=_SEQUENCE_MAX)],
            msgspec.Meta(description="the sequence of an order update, as a whole number"),
        ]
        | None
    ) = None


class WebhooksApi:
    """The routes about webhooks. How many there may be is counted in one process: two could let one more pass."""

    def __init__(
        self,
        database: Database,
        events: Newest,
        wake: Wake,
        new_id: Callable[[], UUID],
        config: Config,
    ) -> None:
        self._database = database
        self._events = events
        self._wake = wake
        self._new_id = new_id
        self._config = config
        self._adding: WeakValueDictionary[CustomerId, asyncio.Lock] = WeakValueDictionary()

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        one = "/api/v1/webhooks/{webhookId}"
        return [
            web.post("/api/v1/webhooks", self.add),
            web.get("/api/v1/webhooks", self.list, allow_head=False),
            web.get(one, self.get, allow_head=False),
            web.delete(one, self.delete),
            web.post(f"{one}/enable", self.enable),
        ]

    @operation(
        "Add a webhook",
        body=WebhookRequest,
        answer=answers.NewWebhook,
        status=201,
        errors=(403, 409),
        example={"url": "https://hooks.example/orders"},
    )
    async def add(self, request: web.Request) -> web.Response:
        """A new webhook, and the only time that its secret is shown."""
        customer_id = self._writer(request).customer_id
        body = await read_body(request, self._config.body_max, self._config.body_wait_s)
        wanted = convert(parse_json(body), WebhookRequest)
        url = self._url(wanted.url)
        newest = await self._events.newest(customer_id)
        since = newest if wanted.since is None else wanted.since
        if since > newest:
            raise ApiError(400, "invalid_request", f"since must be at most {newest}, which is your newest event.")
        key, webhook_id = secrets.token_bytes(32), self._new_id()
        async with self._adding.setdefault(customer_id, asyncio.Lock()):
            await self._check_room(customer_id, url)
            try:
                rows = await self._database.fetch("add_webhook", webhook_id, customer_id, url, key, since)
            except RefusedByDatabase as error:
                if error.constraint != "webhook_url":
                    raise
                await self._check_room(customer_id, url)  # another process was faster
                raise
        self._wake()
        made: answers.NewWebhook = {**_webhook(rows[0]), "secret": encode_secret(key)}
        return json_response(made, 201)

    def _url(self, text: str) -> str:
        try:
            url = check_url(text, self._config.hook_addresses)
        except ValueError as error:
            raise ApiError(400, "invalid_request", str(error)) from error
        host = (URL(url).raw_host or "").rstrip(".")
        if self._config.hook_addresses == "public" and (host == "localhost" or host.endswith(".localhost")):
            raise ApiError(400, "invalid_request", "url must lead to a public address.")  # RFC 6761: it never does
        return url

    async def _check_room(self, customer_id: CustomerId, url: str) -> None:
        rows = await self._database.fetch("webhooks_of_customer", customer_id)
        for row in rows:
            if row["url"] == url:
                sentence = f"Your webhook {row['webhook_id']} has this URL already."
                raise ApiError(409, "webhook_exists", sentence, figures={"webhook_id": str(row["webhook_id"])})
        most = self._config.hooks_max
        if len(rows) >= most:
            raise ApiError(409, "too_many_webhooks", f"You have {len(rows)} webhooks, and may have {most}. Delete one.")

    @operation("All webhooks, oldest first", answer=answers.Webhooks)
    async def list(self, request: web.Request) -> web.Response:
        """All webhooks of the customer, oldest first."""
        customer_id = self._caller(request).customer_id
        rows = await self._database.fetch("webhooks_of_customer", customer_id)
        webhooks: answers.Webhooks = {"webhooks": [_webhook(row) for row in rows]}
        return json_response(webhooks)

    @operation("One webhook", answer=answers.Webhook, errors=(404,))
    async def get(self, request: web.Request) -> web.Response:
        """One webhook."""
        return json_response(await self._found(self._caller(request).customer_id, _id(request)))

    @operation("Delete a webhook", status=204, errors=(404,))
    async def delete(self, request: web.Request) -> web.Response:
        """Send nothing there any more."""
        customer_id = self._caller(request).customer_id
        if not await self._database.fetch("delete_webhook", customer_id, _id(request)):
            raise _no_such_webhook()
        self._wake(_id(request))
        return web.Response(status=204)

    @operation("Try a webhook again at once", answer=answers.Webhook, errors=(403, 404))
    async def enable(self, request: web.Request) -> web.Response:
        """Try again at once, from where it stood."""
        customer_id, webhook_id = self._writer(request).customer_id, _id(request)
        await self._database.fetch("enable_webhook", customer_id, webhook_id)
        self._wake()
        return json_response(await self._found(customer_id, webhook_id))

    # -------------------------------------------------------------- parts

    def _caller(self, request: web.Request) -> Caller:
        return request[CALLER]

    def _writer(self, request: web.Request) -> Caller:
        caller = self._caller(request)
        if caller.suspended:
            raise ApiError(403, "customer_suspended", "This customer is suspended and can change no webhooks.")
        return caller

    async def _found(self, customer_id: CustomerId, webhook_id: UUID) -> answers.Webhook:
        rows = await self._database.fetch("webhook", customer_id, webhook_id)
        if not rows:
            raise _no_such_webhook()
        return _webhook(rows[0])


def _no_such_webhook() -> ApiError:
    return ApiError(404, "no_such_webhook", "You have no webhook with this id.")


def _id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["webhookId"])
    except ValueError as error:
        raise _no_such_webhook() from error


def _status(row: Row) -> Literal["active", "failing", "disabled"]:
    if row["disabled_at"] is not None:
        return "disabled"
    return "failing" if row["failures"] else "active"


def _webhook(row: Row) -> answers.Webhook:
    status = _status(row)
    return {
        "webhook_id": row["webhook_id"],
        "url": row["url"],
        "status": status,
        "delivered": row["delivered"],
        "failures": row["failures"],
        "failing_since": row["failing_since"],
        "last_error": row["last_error"],
        "next_try_at": row["next_try_at"] if status == "failing" else None,
        "disabled_at": row["disabled_at"],
        "created_at": row["created_at"],
    }
