"""What operators have switched: the kill switch, suspended customers, halted and restricted symbols, risk limits.

The shards look at the memory here at every decision, so a switch takes effect before the next one. It is turned on in
memory first and off in the database first: whatever fails on the way, trading is rather stopped than not. A broker that
cannot read the switches does not start.

What other processes switch is taken from every read of the database, except where something was changed here during
that read: there what is known here stays, and after every change here there is a read that began later. So no read
waits for another, however often customers switch, and what is here and what is stored come to agree.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from typing import TypeVar

import structlog

from broker.core.conditions import Limits
from broker.core.messages import Refusal
from broker.core.types import AccountType, CustomerId, Side, Symbol, Trade
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase

log = structlog.get_logger()

ALL = "all"
LIMIT_NAMES = frozenset(each.name for each in fields(Limits))
_OWN = "self:"

T = TypeVar("T")


def customer_scope(customer_id: CustomerId) -> str:
    """The scope of one customer."""
    return f"customer:{customer_id}"


def own_scope(customer_id: CustomerId) -> str:
    """The scope in which a customer stops its own new orders."""
    return f"{_OWN}{customer_id}"


def _is_own(scope: str) -> bool:
    return scope.startswith(_OWN)


def type_scope(account_type: AccountType) -> str:
    """The scope of an account type."""
    return f"type:{account_type}"


@dataclass(slots=True)
class _Changed:
    """What was changed here since the last read began: what that read shows of it may be older."""

    scopes: set[str] = field(default_factory=set)
    limits: set[str] = field(default_factory=set)
    customers: set[int] = field(default_factory=set)


def _overlaid(read: Mapping[str, T], known: Mapping[str, T], changed: set[str]) -> dict[str, T]:
    """What was read, but of what was changed meanwhile what is known here."""
    kept = {scope: value for scope, value in read.items() if scope not in changed}
    return kept | {scope: known[scope] for scope in changed if scope in known}


class Controls:
    """The switches and limits of one broker."""

    def __init__(self, database: Database, defaults: Limits) -> None:
        self.database = database
        self._defaults = defaults
        self._on: dict[str, str] = {}
        self._unsaved: dict[str, str] = {}
        self._releasing: dict[str, str] = {}  # not saved, and being turned off: on until that is done
        self._suspended: set[int] = set()
        self._resetting: set[int] = set()
        self._limits: dict[str, dict[str, int]] = {}
        self._changed = _Changed()
        self._news = asyncio.Event()
        self._reading = asyncio.Lock()
        self._writing = {False: asyncio.Lock(), True: asyncio.Lock()}  # customers' own: no operator waits for them
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
        if not self._on and not self._suspended:
            return None
        reasons = (
            (Refusal.TRADING_STOPPED, self.stopped(trade.customer_id)),
            (Refusal.ACCOUNT_SUSPENDED, self.suspended(trade.customer_id)),
            (Refusal.SYMBOL_HALTED, self.halted(trade.symbol)),
            (Refusal.SYMBOL_RESTRICTED, self.restricted(trade.symbol) if trade.side is Side.BUY else None),
        )
        return next((f"{refusal}: {reason}." for refusal, reason in reasons if reason is not None), None)

    # -------------------------------------------------------------- what operators do

    def switches(self) -> Mapping[str, str]:
        """Every switch that is on, with its reason."""
        return dict(self._on)

    async def engage(self, scope: str, reason: str) -> None:
        """Turn a switch on; it holds at once, also where DatabaseUnavailable is raised."""
        self.hold(scope, reason)
        await self._save(_is_own(scope))

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
        self._note(self._changed.scopes, scope)
        log.warning("control.engaged", scope=scope, reason=reason)

    async def release(self, scope: str) -> bool:
        """Turn a switch off; False where it was not on.

        The database says whether it was: a read may have taken the release in before its answer came.
        """
        async with self._writing[_is_own(scope)]:
            unsaved = self._unsaved.pop(scope, None)
            if unsaved is not None:
                self._releasing[scope] = unsaved
            try:
                released = await self.database.fetch("release_control", scope)
            except BaseException:
                if unsaved is not None:
                    self._unsaved.setdefault(scope, unsaved)
                raise
            finally:
                self._releasing.pop(scope, None)
            self._note(self._changed.scopes, scope)
            was_on = bool(released) or unsaved is not None
            if scope not in self._unsaved:  # else engaged again meanwhile: that one was told that it is on
                self._on.pop(scope, None)
                log.warning("control.released", scope=scope)
            return was_on

    def note_status(self, customer_id: CustomerId, status: str) -> None:
        """A customer was suspended or activated, durably."""
        (self._suspended.add if status == "suspended" else self._suspended.discard)(customer_id)
        self._note(self._changed.customers, customer_id)

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
        self._note(self._changed.limits, scope)
        self._limits_of.cache_clear()

    def _note(self, changed: set[T], what: T) -> None:
        """It was changed here. A read that is under way may be older, or newer by what another process did since.

        So there is one more read, which begins after this.
        """
        changed.add(what)
        self.notice()

    # -------------------------------------------------------------- the database

    async def load(self) -> None:
        """Read what is switched, once. Raises DatabaseUnavailable.

        What is changed here while it is read stays as it is known here.
        """
        async with self._reading:
            changed = self._changed = _Changed()
            on = {row["scope"]: row["reason"] for row in await self.database.fetch("controls")}
            limits: dict[str, dict[str, int]] = {}
            for row in await self.database.fetch("risk_limits"):
                if row["name"] in LIMIT_NAMES:
                    limits.setdefault(row["scope"], {})[row["name"]] = row["value"]
            suspended = {row["customer_id"] for row in await self.database.fetch("suspended_customers")}
            self._on = _overlaid(on, self._on, changed.scopes) | self._releasing | self._unsaved
            self._limits = _overlaid(limits, self._limits, changed.limits)
            self._suspended = (suspended - changed.customers) | (self._suspended & changed.customers)
            self._limits_of.cache_clear()

    async def _save(self, own: bool) -> None:
        """Store what is not stored yet: of customers' own switches, or of all others."""
        async with self._writing[own]:
            for scope, reason in [each for each in self._unsaved.items() if _is_own(each[0]) is own]:
                await self.database.fetch("engage_control", scope, reason)
                self._note(self._changed.scopes, scope)
                if self._unsaved.get(scope) == reason:
                    del self._unsaved[scope]

    def notice(self) -> None:
        """Something was switched in the database: read it at once."""
        self._news.set()

    async def run(self, every_s: float) -> None:
        """Follow what other processes switch, and store what could not be stored, for ever; none waits for another."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(every_s))
            for own in self._writing:
                tasks.create_task(self._keep(own, every_s))

    async def _follow(self, every_s: float) -> None:
        """Read at once when told and every so often."""
        while True:
            try:
                async with asyncio.timeout(every_s):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            try:
                await self.load()
            except (DatabaseUnavailable, RefusedByDatabase) as error:  # what is on in memory stays on
                log.error("controls.not_read", error=str(error))

    async def _keep(self, own: bool, every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await self._save(own)
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.error("controls.not_stored", error=str(error))
