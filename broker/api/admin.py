"""The operator's API: customers, keys and cash, behind the admin token."""

import re
from collections.abc import Awaitable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from aiohttp import web

from broker import answers
from broker.api.amounts import Dollars, read_dollars
from broker.auth import Authenticator, NewKey
from broker.batch import Booked
from broker.config import Config
from broker.core.messages import MoveCash, Refused
from broker.core.money import Money, format_money
from broker.core.types import AccountType, CustomerId
from broker.customers import Customers, NoSuchCustomer
from broker.http import ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation
from broker.reading import Reading
from broker.shards import Shards

T = TypeVar("T")

_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_DEPOSIT_MAX = Money(10**10 * 10_000)
"""$10 billion in one movement: a slip of the finger more than money."""

_OPENING = "opening:"
"""How create_customer (schema.sql) begins its references; a customer could not be made if its own were taken."""

# Printable, and so without NUL or lone surrogates, which PostgreSQL cannot store.
_PRINTABLE = r"^[^\x00-\x1f\x7f\ud800-\udfff]*$(?!\n)"


class CreateCustomerRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/customers."""

    name: Annotated[
        str, msgspec.Meta(max_length=200, pattern=_PRINTABLE, description="text of at most 200 printable characters")
    ] = ""
    cash: Dollars = 0
    accountType: Annotated[  # noqa: N815 - the wire's name
        AccountType, msgspec.Meta(description='"cash" or "margin"')
    ] = AccountType.CASH


class CashRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/customers/{customerId}/credits and …/debits."""

    amount: Dollars
    reference: Annotated[
        str,
        msgspec.Meta(
            min_length=1, max_length=200, pattern=_PRINTABLE, description="text of 1 to 200 printable characters"
        ),
    ]


class AdminApi:
    """The routes that the admin token opens."""

    def __init__(
        self, customers: Customers, shards: Shards, reading: Reading, authenticator: Authenticator, config: Config
    ) -> None:
        self._customers = customers
        self._shards = shards
        self._reading = reading
        self._authenticator = authenticator
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        one = "/admin/v1/customers/{customerId}"
        return [
            web.post("/admin/v1/customers", self.create),
            web.get(one, self.get, allow_head=False),
            web.post(f"{one}/suspend", self.suspend),
            web.post(f"{one}/activate", self.activate),
            web.post(f"{one}/keys", self.issue_key),
            web.delete(f"{one}/keys/{{keyId}}", self.revoke_key),
            web.post(f"{one}/credits", self.credit),
            web.post(f"{one}/debits", self.debit),
        ]

    def _operator(self, request: web.Request) -> None:
        self._authenticator.require_operator(request.headers.get("Authorization"))

    async def _body(self, request: web.Request) -> object:
        self._operator(request)
        body = await read_body(request, self._config.body_max, self._config.body_wait_s)
        return parse_json(body) if body else {}

    @operation("Make a customer", body=CreateCustomerRequest, body_optional=True, answer=answers.NewKey, status=201)
    async def create(self, request: web.Request) -> web.Response:
        """A new customer, and the only time that its secret is shown."""
        wanted = convert(await self._body(request), CreateCustomerRequest)
        cash = _amount("cash", wanted.cash, 0)
        created = await self._customers.create(wanted.name, wanted.accountType, cash)
        return json_response(_key(created.customer_id, created.key), 201)

    @operation("One customer", answer=answers.CustomerWithKeys, errors=(404,))
    async def get(self, request: web.Request) -> web.Response:
        """A customer with balance and keys."""
        self._operator(request)
        customer_id = _customer_id(request)
        row = await self._found(self._customers.get(customer_id))
        keys = await self._customers.keys(customer_id)
        customer: answers.CustomerWithKeys = {
            **_customer(row),
            "balance": await self._reading.balance(customer_id),
            "keys": [
                {"keyId": key["key_id"], "createdAt": key["created_at"], "revokedAt": key["revoked_at"]} for key in keys
            ],
        }
        return json_response(customer)

    @operation("Stop a customer's trading", answer=answers.Customer, errors=(404,))
    async def suspend(self, request: web.Request) -> web.Response:
        """Stop a customer's trading; what it has placed goes on."""
        return await self._set_status(request, "suspended")

    @operation("Let a customer trade again", answer=answers.Customer, errors=(404,))
    async def activate(self, request: web.Request) -> web.Response:
        """Let a suspended customer trade again."""
        return await self._set_status(request, "active")

    async def _set_status(self, request: web.Request, status: str) -> web.Response:
        self._operator(request)
        return json_response(_customer(await self._found(self._customers.set_status(_customer_id(request), status))))

    @operation("One more key", answer=answers.NewKey, status=201, errors=(404,))
    async def issue_key(self, request: web.Request) -> web.Response:
        """One more key for a customer, and the only time that its secret is shown."""
        self._operator(request)
        customer_id = _customer_id(request)
        key = await self._found(self._customers.issue_key(customer_id))
        return json_response(_key(customer_id, key), 201)

    @operation("Revoke a key", answer=answers.RevokedKey, errors=(404,))
    async def revoke_key(self, request: web.Request) -> web.Response:
        """End a key."""
        self._operator(request)
        key_id = request.match_info["keyId"]
        if not key_id.isascii() or "\0" in key_id:
            raise _no_such_customer()
        row = await self._found(self._customers.revoke_key(_customer_id(request), key_id))
        revoked: answers.RevokedKey = {"keyId": row["key_id"], "revokedAt": row["revoked_at"]}
        return json_response(revoked)

    @operation(
        "Add cash, once for each reference",
        body=CashRequest,
        answer=answers.CashMoved,
        others={201: answers.CashMoved},
        errors=(404, 409),
        example={"amount": "100.00", "reference": "bank-0001"},
    )
    async def credit(self, request: web.Request) -> web.Response:
        """Add cash, once for each reference."""
        return await self._move(request, 1)

    @operation(
        "Take cash that is available, once for each reference",
        body=CashRequest,
        answer=answers.CashMoved,
        others={201: answers.CashMoved},
        errors=(404, 409),
        example={"amount": "50.00", "reference": "bank-0002"},
    )
    async def debit(self, request: web.Request) -> web.Response:
        """Take cash that is available, once for each reference."""
        return await self._move(request, -1)

    async def _move(self, request: web.Request, sign: int) -> web.Response:
        wanted = convert(await self._body(request), CashRequest)
        if wanted.reference.startswith(_OPENING):
            raise ApiError(
                400, "invalid_request", f'reference must not begin with "{_OPENING}", as the broker\'s own do.'
            )
        customer_id = _customer_id(request)
        await self._found(self._customers.get(customer_id))
        command = MoveCash(customer_id, Money(sign * _amount("amount", wanted.amount, 1)), wanted.reference)
        outcome: Booked | Refused = await self._shards.submit(customer_id, command)
        if isinstance(outcome, Refused):
            sentence = f"Insufficient funds: less than {format_money(Money(-command.amount))} is available."
            raise ApiError(409, "insufficient_funds", sentence)
        moved = outcome.moved
        if (moved.customer_id, moved.amount) != (command.customer_id, command.amount):
            sentence = "This reference was booked before, with another customer or amount."
            raise ApiError(409, "reference_used", sentence)
        return json_response(await self._booked(command), 200 if outcome.replayed else 201)

    async def _booked(self, command: MoveCash) -> answers.CashMoved:
        return {
            "customerId": str(command.customer_id),
            "amount": format_money(command.amount),
            "reference": command.reference,
            "balance": await self._reading.balance(command.customer_id),
        }

    async def _found(self, awaitable: Awaitable[T]) -> T:
        try:
            return await awaitable
        except NoSuchCustomer as error:
            raise _no_such_customer() from error


def _no_such_customer() -> ApiError:
    return ApiError(404, "no_such_customer", "There is no customer, or no key of it, with this id.")


def _customer_id(request: web.Request) -> CustomerId:
    text = request.match_info["customerId"]
    if _ID.fullmatch(text) is None:
        raise _no_such_customer()
    return CustomerId(int(text))


def _amount(name: str, value: Any, least: int) -> Money:
    """Raises ApiError 400 for what is not an exact amount of dollars from `least` units to the limit."""
    return read_dollars(name, value, least, _DEPOSIT_MAX, "100000.00")


def _key(customer_id: CustomerId, key: NewKey) -> answers.NewKey:
    return {"customerId": str(customer_id), "keyId": key.key_id, "secret": key.secret, "token": key.token}


def _customer(row: Mapping[str, Any]) -> answers.Customer:
    return {
        "customerId": str(row["customer_id"]),
        "name": row["name"],
        "accountType": row["account_type"],
        "status": row["status"],
        "createdAt": row["created_at"],
    }
