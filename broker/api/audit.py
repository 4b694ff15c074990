"""Operators' requests under audit: each that may change something is recorded before it is done, and what came of it.

The rule: what cannot be recorded is not done. But what stops trading is done all the same, and recorded later. A record
that only says 'asked' was not answered: look what came of it.
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Meta

from broker import answers
from broker.api.query import Count, only_known, read_number
from broker.audit import CHAINS, OPERATORS, Audit, path_without_secrets, without_secrets
from broker.config import Config
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.http import OPERATOR, REQUEST_ID, ApiError, as_api_error, json_response, read_body
from broker.openapi import operation, parameters_of

_NUMBER_MAX = 10**18 - 1
_UNRECORDED = (DatabaseUnavailable, RefusedByDatabase)
_STOPPING = {("PUT", "/admin/v1/controls/{scope}"), ("POST", "/admin/v1/customers/{customerId}/suspend")}
"""What stops trading, which has to work whatever does not."""


class AuditQuery(msgspec.Struct, kw_only=True):
    """The parameters of GET /admin/v1/audit."""

    chain: Annotated[int, Meta(ge=0, le=CHAINS - 1, description="0 (the operators'), or one of events")] | None = None
    after: Annotated[int, Meta(ge=0, description="the number of the record before")] | None = None
    limit: Count | None = None


class AuditApi:
    """The audit log for operators, and what puts their requests into it."""

    def __init__(self, audit: Audit, admin_token: str, config: Config) -> None:
        self._audit = audit
        self._admin_token = admin_token
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.get("/admin/v1/audit", self.page, allow_head=False),
            web.get("/admin/v1/audit/heads", self.heads, allow_head=False),
        ]

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Record what an operator asks for, have it done, record what came of it. It stands behind the gate."""
        actor = request.get(OPERATOR)
        if actor is None or request.method in {"GET", "HEAD"}:
            return await handler(request)
        request_id = request[REQUEST_ID]
        body = await read_body(request, self._config.body_max, self._config.body_wait_s)
        asked = {
            "request_id": request_id,
            "method": request.method,
            "path": path_without_secrets(request.rel_url.raw_path_qs, self._admin_token),
            "body": without_secrets(body, self._config.audit_body_max, self._admin_token),
        }
        resource = request.match_info.route.resource
        stops = resource is not None and (request.method, resource.canonical) in _STOPPING
        try:
            await (self._audit.record_or_keep if stops else self._audit.record)(actor, "asked", asked)
        except _UNRECORDED as error:
            sentence = "The audit log does not take this request, so it was not done. Try again in a second."
            raise ApiError(503, "audit_unavailable", sentence, {"Retry-After": "1"}) from error
        try:
            response = await handler(request)
        except Exception as error:
            known = as_api_error(error)
            await self._answered(actor, request_id, 500 if known is None else known.status)
            raise
        await self._answered(actor, request_id, response.status)
        return response

    async def _answered(self, actor: str, request_id: str, status: int) -> None:
        await self._audit.record_or_keep(actor, "answered", {"request_id": request_id, "status": status})

    @operation("The audit log", query=AuditQuery, answer=answers.AuditRecords)
    async def page(self, request: web.Request) -> web.Response:
        """Records of a chain: those after a number, oldest first, or else the newest, newest first."""
        query = request.query
        only_known(query, parameters_of(AuditQuery))
        chain = read_number("chain", query.get("chain"), OPERATORS, CHAINS - 1, least=0)
        after = read_number("after", query["after"], 0, _NUMBER_MAX, least=0) if "after" in query else None
        limit = read_number("limit", query.get("limit"), min(100, self._config.page_max), self._config.page_max)
        page: answers.AuditRecords = {
            "records": [_record(row) for row in await self._audit.page(chain, after, limit)],
        }
        return json_response(page)

    @operation("The heads of the audit log", answer=answers.AuditHeads)
    async def heads(self, request: web.Request) -> web.Response:
        """The last number and hash of each chain: kept elsewhere, they show later whether anything was changed."""
        heads: answers.AuditHeads = {"heads": {chain: [*head] for chain, head in (await self._audit.heads()).items()}}
        return json_response(heads)


def _record(row: Mapping[str, Any]) -> answers.AuditRecord:
    return {
        "number": row["number"],
        "at": row["at"],
        "actor": row["actor"],
        "action": row["action"],
        "content": row["content"],
        "hash": row["hash"].hex(),
    }
