"""Customers and their keys, as operators manage them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from broker.auth import Authenticator, NewKey, new_key
from broker.controls import Controls
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId
from broker.db import Database
from broker.ledger import open_customer

Row = dict[str, Any]


class NoSuchCustomer(Exception):
    """There is no customer, or no key of that customer, with this id."""


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A customer that was just created, with the one chance to see its secret."""

    customer_id: CustomerId
    key: NewKey


class Customers:
    """Creates, suspends and re-activates customers; issues and revokes their keys."""

    def __init__(
        self,
        database: Database,
        authenticator: Authenticator,
        controls: Controls,
        new_id: Callable[[], UUID],
        now: Callable[[], datetime],
        credit_max: Money,
    ) -> None:
        self._now = now
        self._database = database
        self._authenticator = authenticator
        self._controls = controls
        self._new_id = new_id
        self._credit_max = credit_max

    async def create(self, name: str, account_type: AccountType, cash: Money) -> NewCustomer:
        """A new customer with a first key, and `cash` as its opening deposit."""
        key = new_key()
        stored = key.key_id, key.secret_hash
        transfer_id = self._new_id()
        customer_id = await open_customer(
            self._database, name, account_type, stored, cash, transfer_id, self._credit_max, self._now()
        )
        return NewCustomer(customer_id, key)

    async def get(self, customer_id: CustomerId) -> Row:
        """The customer's row. Raises NoSuchCustomer."""
        return _one(await self._database.fetch("customer", customer_id), customer_id)

    async def keys(self, customer_id: CustomerId) -> list[Row]:
        """The customer's keys, revoked ones too; never their secrets, which are not stored."""
        return [dict(row) for row in await self._database.fetch("keys_of_customer", customer_id)]

    async def set_status(self, customer_id: CustomerId, status: str) -> Row:
        """Suspend or re-activate; it holds for the next request. Raises NoSuchCustomer."""
        try:
            row = _one(await self._database.fetch("set_customer_status", customer_id, status), customer_id)
            self._controls.note_status(customer_id, status)
            return row
        finally:  # also where the answer was lost: it may hold all the same
            self._authenticator.forget(customer_id)

    async def issue_key(self, customer_id: CustomerId) -> NewKey:
        """One more key. Raises NoSuchCustomer."""
        await self.get(customer_id)
        key = new_key()
        await self._database.fetch("add_key", key.key_id, customer_id, key.secret_hash)
        return key

    async def revoke_key(self, customer_id: CustomerId, key_id: str) -> Row:
        """End a key; it holds for the next request. Raises NoSuchCustomer."""
        try:
            return _one(await self._database.fetch("revoke_key", customer_id, key_id), customer_id)
        finally:  # also where the answer was lost: it may hold all the same
            self._authenticator.forget(customer_id)


def _one(rows: Sequence[asyncpg.Record], customer_id: CustomerId) -> Row:
    if not rows:
        raise NoSuchCustomer(str(customer_id))
    return dict(rows[0])
