"""What operators have switched: the kill switch, suspended customers, halted and restricted symbols, risk limits.

The shards look at the memory here at every decision, so a switch takes effect before the next one. It is turned on in
memory first and off in the database first: whatever fails on the way, trading is rather stopped than not. A broker that
cannot read the switches does not start.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import lru_cache

import structlog

from broker.core.conditions import Limits
from broker.core.messages import Refusal
from broker.core.types import AccountType, CustomerId, Symbol, Trade
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase

log = structlog.get_logger()

ALL = "all"
LIMIT_NAMES = frozenset(each.name for each in fields(Limits))


def customer_scope(customer_id: CustomerId) -> str:
    """The scope of one customer."""
    return f"customer:{customer_id}"


def own_scope(customer_id: CustomerId) -> str:
    """The scope in which a customer stops its own new orders."""
    return f"self:{customer_id}"


def type_scope(account_type: AccountType) -> str:
    """The scope of an account type."""
    return f"type:{account_type}"


class Controls:
    """The switches and limits of one broker."""

    def __init__(self, database: Database, defaults: Limits) -> None:
        self.database = database
        self._defaults = defaults
        self._on: dict[str, str] = {}
        self._unsaved: dict[str, str] = {}
        self._suspended: set[int] = set()
        self._resetting: set[int] = set()
        self._limits: dict[str, dict[str, int]] = {}
        self._changes = 0  # made here: what was read from the database meanwhile may be older
        self._writing = asyncio.Lock()
        self._limits_of = lru_cache(maxsize=10_000)(self._merge)

    # -------------------------------------------------------------- what the decisions ask

    def stopped(self, customer_id: CustomerId) -> str | None:
        """Why this customer's orders are stopped, by a switch for all or for it, or since it is being reset."""
        if customer_id in self._resetting:
            return "the account is being reset"
        if not self._on:
            return None
        return self._on.get(ALL) or self._on.get(customer_scope(customer_id))

    def stopped_by_itself(self, customer_id: CustomerId) -> bool:
        """Whether the customer has stopped its own new orders."""
        return bool(self._on) and own_scope(customer_id) in self._on

    def suspended(self, customer_id: CustomerId) -> str | None:
        """Whether the customer is suspended, in words."""
        return "the account is suspended and cannot trade" if customer_id in self._suspended else None

    def halted(self, symbol: Symbol) -> str | None:
        """Why nothing is traded of this symbol."""
        return self._on.get(f"halt:{symbol}") if self._on else None

    def restricted(self, symbol: Symbol) -> str | None:
        """Why this symbol may not be bought."""
        return self._on.get(f"restrict:{symbol}") if self._on else None

    def limits(self, account_type: AccountType, customer_id: CustomerId) -> Limits:
        """The limits of this customer: its own, else its account type's, else the configured ones."""
        return self._limits_of(account_type, customer_id) if self._limits else self._defaults

    def _merge(self, account_type: AccountType, customer_id: CustomerId) -> Limits:
        changed = self._limits.get(type_scope(account_type), {}) | self._limits.get(customer_scope(customer_id), {})
        return replace(self._defaults, **changed)  # type: ignore[arg-type]

    def why_not_sent(self, trade: Trade) -> str | None:
        """Why an order that had started before a switch does not go out after it."""
        if not self._on:
            return None
        stopped, halted = self.stopped(trade.customer_id), self.halted(trade.symbol)
        if stopped is not None:
            return f"{Refusal.TRADING_STOPPED}: {stopped}."
        return None if halted is None else f"{Refusal.SYMBOL_HALTED}: {halted}."

    # -------------------------------------------------------------- what operators do

    def switches(self) -> Mapping[str, str]:
        """Every switch that is on, with its reason."""
        return dict(self._on)

    async def engage(self, scope: str, reason: str) -> None:
        """Turn a switch on; it holds at once, also where DatabaseUnavailable is raised."""
        self.hold(scope, reason)
        await self._save()

    def hold(self, scope: str, reason: str) -> None:
        """Turn a switch on here, to be stored when the database answers again."""
        self._unsaved[scope] = reason
        self.restrict(scope, reason)

    @contextmanager
    def reset_of(self, customers: Iterable[CustomerId]) -> Iterator[None]:
        """Stop new orders of these customers, here and for as long as the block lasts."""
        added = set(customers) - self._resetting
        self._resetting |= added
        try:
            yield
        finally:
            self._resetting -= added

    def restrict(self, scope: str, reason: str) -> None:
        """Take in a switch that is in the database already."""
        self._on[scope] = reason
        self._changes += 1
        log.warning("control.engaged", scope=scope, reason=reason)

    async def release(self, scope: str) -> bool:
        """Turn a switch off; False where it was not on."""
        async with self._writing:
            unsaved = self._unsaved.pop(scope, None)
            try:
                await self.database.fetch("release_control", scope)
            except BaseException:
                if unsaved is not None:
                    self._unsaved.setdefault(scope, unsaved)
                raise
            self._changes += 1
            if scope in self._unsaved:  # engaged again meanwhile: that one was told that it is on
                return True
            log.warning("control.released", scope=scope)
            return self._on.pop(scope, None) is not None

    def note_status(self, customer_id: CustomerId, status: str) -> None:
        """A customer was suspended or activated, durably."""
        (self._suspended.add if status == "suspended" else self._suspended.discard)(customer_id)
        self._changes += 1

    def own_limits(self, scope: str) -> dict[str, int]:
        """The limits that were set for a scope itself."""
        return dict(self._limits.get(scope, {}))

    def limits_in(self, scope: str) -> dict[str, int]:
        """The limits that hold in a scope: those that were set for it, over the configured ones."""
        return asdict(self._defaults) | self._limits.get(scope, {})

    async def set_limits(self, scope: str, limits: Mapping[str, int | None]) -> None:
        """Set limits of an account type or a customer; None goes back to the default."""
        kept = {name: value for name, value in limits.items() if value is not None}
        gone = [name for name, value in limits.items() if value is None]
        await self.database.fetch("set_limits", scope, list(kept), list(kept.values()), gone)
        own = self._limits.get(scope, {}) | kept
        self._limits[scope] = {name: value for name, value in own.items() if name not in gone}
        self._changes += 1
        self._limits_of.cache_clear()

    # -------------------------------------------------------------- the database

    async def load(self) -> None:
        """Read what is switched. Raises DatabaseUnavailable.

        What is switched here while it is read would be lost with what was read before: so that is read again.
        """
        while True:
            changes = self._changes
            on = {row["scope"]: row["reason"] for row in await self.database.fetch("controls")}
            limits: dict[str, dict[str, int]] = {}
            for row in await self.database.fetch("risk_limits"):
                if row["name"] in LIMIT_NAMES:
                    limits.setdefault(row["scope"], {})[row["name"]] = row["value"]
            suspended = {row["customer_id"] for row in await self.database.fetch("suspended_customers")}
            if changes == self._changes:
                break
        self._on, self._limits, self._suspended = on | self._unsaved, limits, suspended
        self._limits_of.cache_clear()

    async def _save(self) -> None:
        async with self._writing:
            for scope, reason in list(self._unsaved.items()):
                await self.database.fetch("engage_control", scope, reason)
                self._changes += 1
                if self._unsaved.get(scope) == reason:
                    del self._unsaved[scope]

    async def run(self, every_s: float) -> None:
        """Follow what other processes switch, for ever."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._save()
                await self.load()
            except (DatabaseUnavailable, RefusedByDatabase) as error:  # what is on in memory stays on
                log.error("controls.not_read", error=str(error))
