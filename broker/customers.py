"""Customers and their keys, as operators manage them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from broker.auth import CUSTOMER_SCOPES, Authenticator, NewKey, Scope, new_key
from broker.controls import Controls, customer_scope
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId
from broker.db import Database, DatabaseUnavailable
from broker.ledger import open_customer

Row = dict[str, Any]


class NoSuchCustomer(Exception):
    """There is no customer, or no key of that customer, with this id."""


class AlreadyRotated(Exception):
    """Another key has taken this one's place."""

    def __init__(self, key_id: str) -> None:
        super().__init__(key_id)
        self.key_id = key_id


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A customer that was just created, with the one chance to see its secret."""

    customer_id: CustomerId
    key: NewKey


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A key that was just issued, with the one chance to see its secret, and what is stored of it."""

    key: NewKey
    row: Row


class Customers:
    """Creates, suspends and re-activates customers; issues, rotates and revokes their keys, and operators'."""

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
        """Suspend or re-activate; it holds for the next request. Raises NoSuchCustomer.

        Where the database does not answer, the customer's switch stops it instead of being suspended.
        """
        try:
            row = _one(await self._database.fetch("set_customer_status", customer_id, status), customer_id)
            self._controls.note_status(customer_id, status)
            return row
        except DatabaseUnavailable:
            if status == "suspended":
                self._controls.hold(customer_scope(customer_id), "the account is suspended")
            raise
        finally:  # also where the answer was lost: it may hold all the same
            self._authenticator.forget(customer_id)

    async def issue_key(
        self, customer_id: CustomerId, scopes: Iterable[str] = CUSTOMER_SCOPES, expires_at: datetime | None = None
    ) -> IssuedKey:
        """One more key. Raises NoSuchCustomer."""
        await self.get(customer_id)
        return await self._issue(customer_id, scopes, expires_at)

    async def issue_operator_key(self, expires_at: datetime | None) -> IssuedKey:
        """One more key of an operator."""
        return await self._issue(None, {Scope.ADMIN}, expires_at)

    async def _issue(
        self, customer_id: CustomerId | None, scopes: Iterable[str], expires_at: datetime | None
    ) -> IssuedKey:
        key = new_key()
        stored = key.key_id, customer_id, key.secret_hash, sorted(scopes), expires_at
        return IssuedKey(key, dict((await self._database.fetch("add_key", *stored))[0]))

    async def rotate_key(self, customer_id: CustomerId | None, key_id: str, overlap_s: float) -> IssuedKey:
        """A new key in the place of one, which ends when the overlap does. Without a customer: an operator's.

        Raises NoSuchCustomer where there is no such key, or it is not valid any more; AlreadyRotated.
        """
        key = new_key()
        try:
            rows = await self._database.fetch("rotate_key", customer_id, key_id, key.key_id, key.secret_hash, overlap_s)
            row = _one(rows, key_id)
            if row["replaced_by"] is not None:
                raise AlreadyRotated(row["replaced_by"])
            return IssuedKey(key, row)
        finally:  # also where the answer was lost: it may hold all the same
            self._authenticator.forget_key(key_id)

    async def revoke_key(self, customer_id: CustomerId | None, key_id: str) -> Row:
        """End a key; it holds for the next request. Without a customer: an operator's. Raises NoSuchCustomer."""
        try:
            return _one(await self._database.fetch("revoke_key", customer_id, key_id), key_id)
        finally:  # also where the answer was lost: it may hold all the same
            self._authenticator.forget_key(key_id)

    async def operator_keys(self) -> list[Row]:
        """All keys of operators, revoked ones too."""
        return [dict(row) for row in await self._database.fetch("keys_of_operators")]


def _one(rows: Sequence[asyncpg.Record], what: object) -> Row:
    if not rows:
        raise NoSuchCustomer(str(what))
    return dict(rows[0])
