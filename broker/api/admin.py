"""The operators' API: customers, keys and cash, behind the admin token or an operator's key."""

import re
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec
from aiohttp import web

from broker import answers
from broker.api.amounts import Dollars, read_dollars
from broker.auth import NewKey
from broker.batch import Booked
from broker.config import Config
from broker.core.messages import MoveCash, Refused
from broker.core.money import Money, format_money
from broker.core.types import AccountType, CustomerId
from broker.customers import AlreadyRotated, Customers, IssuedKey, NoSuchCustomer
from broker.db import DatabaseUnavailable
from broker.http import ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation
from broker.reading import Reading
from broker.shards import Shards

T = TypeVar("T")

_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_DEPOSIT_MAX = Money(10**10 * 10_000)
"""$10 billion in one movement: a slip of the finger more than money."""

_EXPIRES_MAX_S = 100 * 365 * 86_400

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


ExpiresIn = Annotated[
    float, msgspec.Meta(gt=0, le=_EXPIRES_MAX_S, description="a number of seconds above 0, at most 100 years")
]
ExpiresAt = Annotated[
    datetime, msgspec.Meta(tz=True, description="a time with its zone in the future: 2027-01-31T00:00:00Z")
]


class OperatorKeyRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/keys: when the key ends; at most one of the two, without either never."""

    expires_at: ExpiresAt | None = None
    expires_in_s: ExpiresIn | None = None


class KeyRequest(OperatorKeyRequest, forbid_unknown_fields=True):
    """The body of POST /admin/v1/customers/{customerId}/keys: what the key is good for, and when it ends."""

    scopes: Annotated[
        list[Literal["read", "trade"]],
        msgspec.Meta(min_length=1, max_length=2, description='a list of "read", "trade" or both'),
    ] = msgspec.field(default_factory=lambda: ["read", "trade"])


class RotateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST …/keys/{keyId}/rotate: for how long the old key goes on opening."""

    # Its bounds are in one sentence, which is made where the upper one is known: that is a setting.
    overlap_s: (
        Annotated[float, msgspec.Meta(description="a number of seconds from 0", extra_json_schema={"minimum": 0})]
        | None
    ) = None


class AdminApi:
    """The routes of operators."""

    def __init__(self, customers: Customers, shards: Shards, reading: Reading, config: Config) -> None:
        self._customers = customers
        self._shards = shards
        self._reading = reading
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
            web.post(f"{one}/keys/{{keyId}}/rotate", self.rotate_key),
            web.get("/admin/v1/keys", self.operator_keys, allow_head=False),
            web.post("/admin/v1/keys", self.issue_operator_key),
            web.delete("/admin/v1/keys/{keyId}", self.revoke_operator_key),
            web.post("/admin/v1/keys/{keyId}/rotate", self.rotate_operator_key),
            web.post(f"{one}/credits", self.credit),
            web.post(f"{one}/debits", self.debit),
        ]

    async def _body(self, request: web.Request) -> object:
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
        customer_id = _customer_id(request)
        row = await self._found(request, self._customers.get(customer_id))
        keys = await self._customers.keys(customer_id)
        customer: answers.CustomerWithKeys = {
            **_customer(row),
            "balance": await self._reading.balance(customer_id),
            "keys": [_kept_key(key) for key in keys],
        }
        return json_response(customer)

    @operation("Stop a customer's trading", answer=answers.Customer, errors=(404,))
    async def suspend(self, request: web.Request) -> web.Response:
        """Stop a customer's trading; what it has placed goes on."""
        try:
            return await self._set_status(request, "suspended")
        except DatabaseUnavailable as error:
            switch = f"customer:{_customer_id(request)}"
            sentence = (
                f"The database does not answer, so this is not stored. Instead the switch {switch} is on in this "
                "broker from now on. Send this again; turn that switch off when the customer may trade again."
            )
            raise ApiError(503, "database_unavailable", sentence, {"Retry-After": "1"}) from error

    @operation("Let a customer trade again", answer=answers.Customer, errors=(404,))
    async def activate(self, request: web.Request) -> web.Response:
        """Let a suspended customer trade again."""
        return await self._set_status(request, "active")

    async def _set_status(self, request: web.Request, status: str) -> web.Response:
        row = await self._found(request, self._customers.set_status(_customer_id(request), status))
        return json_response(_customer(row))

    # -------------------------------------------------------------- keys

    @operation(
        "One more key",
        body=KeyRequest,
        body_optional=True,
        answer=answers.IssuedKey,
        status=201,
        errors=(404,),
        example={"scopes": ["read"], "expires_in_s": 86400},
    )
    async def issue_key(self, request: web.Request) -> web.Response:
        """One more key for a customer, and the only time that its secret is shown."""
        wanted = convert(await self._body(request), KeyRequest)
        customer_id = _customer_id(request)
        issued = await self._found(request, self._customers.issue_key(customer_id, set(wanted.scopes), _end_of(wanted)))
        key: answers.IssuedKey = {**_key(customer_id, issued.key), **_limits_of(issued)}
        return json_response(key, 201)

    @operation("Revoke a key", answer=answers.RevokedKey, errors=(404,))
    async def revoke_key(self, request: web.Request) -> web.Response:
        """End a key."""
        return await self._revoke(_customer_id(request), request)

    @operation(
        "Put a new key in the place of one, which goes on opening for a while",
        body=RotateRequest,
        body_optional=True,
        answer=answers.RotatedKey,
        status=201,
        errors=(404, 409),
        example={"overlap_s": 3600},
    )
    async def rotate_key(self, request: web.Request) -> web.Response:
        """A new key with the scopes of an old one, which ends when the overlap does."""
        customer_id = _customer_id(request)
        issued = await self._rotate(customer_id, request)
        key: answers.RotatedKey = {
            **_key(customer_id, issued.key),
            **_limits_of(issued),
            "replaces": request.match_info["keyId"],
            "overlap_until": issued.row["overlap_until"],
        }
        return json_response(key, 201)

    @operation("All keys of operators", answer=answers.OperatorKeys)
    async def operator_keys(self, _: web.Request) -> web.Response:
        """All keys of operators, revoked ones too."""
        keys: answers.OperatorKeys = {"keys": [_kept_key(key) for key in await self._customers.operator_keys()]}
        return json_response(keys)

    @operation(
        "One more key of an operator",
        body=OperatorKeyRequest,
        body_optional=True,
        answer=answers.IssuedOperatorKey,
        status=201,
        example={"expires_in_s": 86400},
    )
    async def issue_operator_key(self, request: web.Request) -> web.Response:
        """One more key that opens what the admin token does, and the only time that its secret is shown."""
        wanted = convert(await self._body(request), OperatorKeyRequest)
        issued = await self._customers.issue_operator_key(_end_of(wanted))
        key: answers.IssuedOperatorKey = {**_operator_key(issued.key), **_limits_of(issued)}
        return json_response(key, 201)

    @operation("Revoke an operator's key", answer=answers.RevokedKey, errors=(404,))
    async def revoke_operator_key(self, request: web.Request) -> web.Response:
        """End a key of an operator, maybe the one that asks for it."""
        return await self._revoke(None, request)

    @operation(
        "Put a new key in the place of an operator's, which goes on opening for a while",
        body=RotateRequest,
        body_optional=True,
        answer=answers.RotatedOperatorKey,
        status=201,
        errors=(404, 409),
        example={"overlap_s": 3600},
    )
    async def rotate_operator_key(self, request: web.Request) -> web.Response:
        """A new key of an operator in the place of an old one, which ends when the overlap does."""
        issued = await self._rotate(None, request)
        key: answers.RotatedOperatorKey = {
            **_operator_key(issued.key),
            **_limits_of(issued),
            "replaces": request.match_info["keyId"],
            "overlap_until": issued.row["overlap_until"],
        }
        return json_response(key, 201)

    async def _revoke(self, customer_id: CustomerId | None, request: web.Request) -> web.Response:
        row = await self._found(request, self._customers.revoke_key(customer_id, _key_id(request)))
        revoked: answers.RevokedKey = {"keyId": row["key_id"], "revokedAt": row["revoked_at"]}
        return json_response(revoked)

    async def _rotate(self, customer_id: CustomerId | None, request: web.Request) -> IssuedKey:
        wanted = convert(await self._body(request), RotateRequest)
        most = self._config.key_overlap_max_s
        overlap_s = self._config.key_overlap_s if wanted.overlap_s is None else wanted.overlap_s
        if not 0 <= overlap_s <= most:
            raise ApiError(400, "invalid_request", f"overlap_s must be a number of seconds from 0 to {most:.15g}.")
        return await self._found(request, self._customers.rotate_key(customer_id, _key_id(request), overlap_s))

    # -------------------------------------------------------------- cash

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
        await self._found(request, self._customers.get(customer_id))
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

    async def _found(self, request: web.Request, awaitable: Awaitable[T]) -> T:
        try:
            return await awaitable
        except NoSuchCustomer as error:
            raise _not_found(request) from error
        except AlreadyRotated as error:
            sentence = (
                f"This key was rotated already, into {error.key_id}. Rotate that one, or revoke this one to end it."
            )
            raise ApiError(409, "already_rotated", sentence) from error


def _not_found(request: web.Request) -> ApiError:
    """A key's id is not told from a customer's where both are asked for."""
    names_key = "keyId" in request.match_info
    what = "no customer, or no key of it, with this id" if names_key else "no customer with this id"
    return ApiError(404, "no_such_customer", f"There is {what}.")


def _customer_id(request: web.Request) -> CustomerId:
    text = request.match_info["customerId"]
    if _ID.fullmatch(text) is None:
        raise _not_found(request)
    return CustomerId(int(text))


def _amount(name: str, value: Any, least: int) -> Money:
    """Raises ApiError 400 for what is not an exact amount of dollars from `least` units to the limit."""
    return read_dollars(name, value, least, _DEPOSIT_MAX, "100000.00")


def _key(customer_id: CustomerId, key: NewKey) -> answers.NewKey:
    return {"customerId": str(customer_id), "keyId": key.key_id, "secret": key.secret, "token": key.token}


def _key_id(request: web.Request) -> str:
    key_id = request.match_info["keyId"]
    if not key_id.isascii() or "\0" in key_id:
        raise _not_found(request)
    return key_id


def _end_of(wanted: OperatorKeyRequest) -> datetime | None:
    """When the key is to end, by this machine's clock: keys live in real time. Raises ApiError 400."""
    now = datetime.now(UTC)
    if wanted.expires_in_s is not None:
        if wanted.expires_at is not None:
            raise ApiError(400, "invalid_request", "Give expires_at or expires_in_s, not both.")
        return now + timedelta(seconds=wanted.expires_in_s)
    if wanted.expires_at is not None and not now < wanted.expires_at < now + timedelta(seconds=_EXPIRES_MAX_S):
        raise ApiError(400, "invalid_request", "expires_at must be in the future, and within 100 years.")
    return wanted.expires_at


class _KeyLimits(TypedDict):
    scopes: list[answers.KeyScope]
    expires_at: datetime | None


def _limits_of(issued: IssuedKey) -> _KeyLimits:
    return {"scopes": issued.row["scopes"], "expires_at": issued.row["expires_at"]}


def _operator_key(key: NewKey) -> answers.ShownKey:
    return {"keyId": key.key_id, "secret": key.secret, "token": key.token}


def _kept_key(row: Mapping[str, Any]) -> answers.Key:
    return {
        "keyId": row["key_id"],
        "scopes": row["scopes"],
        "createdAt": row["created_at"],
        "expires_at": row["expires_at"],
        "revokedAt": row["revoked_at"],
    }


def _customer(row: Mapping[str, Any]) -> answers.Customer:
    return {
        "customerId": str(row["customer_id"]),
        "name": row["name"],
        "accountType": row["account_type"],
        "status": row["status"],
        "createdAt": row["created_at"],
    }
