"""The chains of hashes over all events and every operator's request (schema.sql, `audit`): adding, reading, checking.

A chain says whether anything in it was changed, as long as somebody knows a later hash: so the heads are written to the
log each minute, and whoever ships the log has them where an intruder on this host cannot reach.
"""

import asyncio
import json
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import structlog

from broker.config import Config
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.log import redacted
from broker.metrics import Metrics

log = structlog.get_logger()

OPERATORS = 0
"""The chain of operators' requests; the others have the events of trades."""
CHAINS = 17

_SECRET_WORDS = ("secret", "token", "password", "authorization")
_HIDDEN = "***"
_PATH_MAX = 1_000
_AGAIN_S = 1.0


class Audit:
    """The audit log, as a running broker uses it."""

    def __init__(self, database: Database, metrics: Metrics, config: Config) -> None:
        self._database = database
        self._metrics = metrics
        self._every_s = config.audit_heads_s
        self._told: dict[str, tuple[int, str]] = {}
        self._kept: deque[tuple[str, str, Mapping[str, object]]] = deque()
        self._kept_max = config.audit_kept_max
        self._writing = False  # what was kept
        self._news = asyncio.Event()

    async def record(self, actor: str, action: str, content: Mapping[str, object]) -> None:
        """Add to the operators' chain, after what was kept for it.

        Raises DatabaseUnavailable, RefusedByDatabase: then it may not be there.
        """
        if self._kept:
            await self._write_kept()
        await self._write(actor, action, content)

    async def record_or_keep(self, actor: str, action: str, content: Mapping[str, object]) -> None:
        """Record what is done whatever comes: where that fails it is logged, and recorded when the database is back.

        A record whose answer was lost may be there twice then; both name the same request.
        """
        reason = "earlier records wait"
        if not self._kept:
            try:
                await self.record(actor, action, content)
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                reason = str(error)
            else:
                return
        is_kept = len(self._kept) < self._kept_max
        if is_kept:
            self._kept.append((actor, action, {**content, "at": datetime.now(UTC).isoformat()}))
            self._news.set()
        log.error("audit.not_recorded", actor=actor, action=action, record=content, kept=is_kept, error=reason)

    async def _write(self, actor: str, action: str, content: Mapping[str, object]) -> None:
        await self._database.fetch("record_operator", actor, action, json.dumps(content))

    async def _write_kept(self) -> None:
        if self._writing:
            raise DatabaseUnavailable("earlier records are being written")
        self._writing = True
        try:
            while self._kept:
                await self._write(*self._kept[0])
                self._kept.popleft()
        finally:
            self._writing = False

    async def page(self, chain: int, after: int | None, limit: int) -> Sequence[Any]:
        """Records of a chain: those after a number, oldest first, or else the newest."""
        if after is None:
            return await self._database.fetch("audit_newest", chain, limit)
        return await self._database.fetch("audit_after", chain, after, limit)

    async def heads(self) -> dict[str, tuple[int, str]]:
        """The last number and hash of each chain."""
        rows = await self._database.fetch("audit_heads")
        return {str(row["chain"]): (row["number"], row["hash"].hex()) for row in rows}

    async def run(self) -> None:
        """Tell the heads that have changed, and write what was kept, for ever."""
        while True:
            self._news.clear()
            try:
                if self._kept:
                    await self._write_kept()
                await self.tell()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("audit.heads_not_read", error=str(error))
            if self._kept:
                await asyncio.sleep(_AGAIN_S)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._news.wait()

    async def tell(self) -> None:
        """Write the heads to the log if they have changed since the last time."""
        heads = await self.heads()
        self._metrics.audit_records.labels("operators").set(heads[str(OPERATORS)][0])
        self._metrics.audit_records.labels("events").set(sum(heads[each][0] for each in heads if each != "0"))
        if heads != self._told:
            log.info("audit.heads", heads=heads)
            self._told = heads


def without_secrets(body: bytes, most: int, token: str) -> object:
    """What is kept of a request's body: its JSON without what is secret; of what is none, or is long, only its size."""
    if not body:
        return None
    try:
        value = _hidden(json.loads(body), token)
    except (ValueError, RecursionError):
        return f"{len(body)} bytes that are not JSON"
    return value if len(json.dumps(value)) <= most else f"{len(body)} bytes"


def path_without_secrets(path: str, token: str) -> str:
    """What is kept of a path with its query: as it was sent, or decoded where something in it had to be hidden."""
    decoded = unquote(path)
    shown = _hidden(decoded, token)
    return (path if shown == decoded else str(shown))[:_PATH_MAX]


def _hidden(value: Any, token: str) -> Any:
    """Hide what has a secret's name, and in every text what looks like one, or is the admin token."""
    if isinstance(value, dict):
        return {
            _hidden(name, token): _HIDDEN
            if any(word in name.lower() for word in _SECRET_WORDS)
            else _hidden(each, token)
            for name, each in value.items()
        }
    if isinstance(value, list):
        return [_hidden(each, token) for each in value]
    return redacted(value.replace(token, _HIDDEN)) if isinstance(value, str) else value
