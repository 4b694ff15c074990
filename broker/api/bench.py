"""The test bench for bots: accounts in a given state, one or many at once."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypedDict
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta

from broker.answers import CustomerNumber
from broker.api.amounts import Dollars, read_dollars
from broker.config import Config
from broker.core.money import UNITS_PER_DOLLAR, Money
from broker.core.types import PRICE_MAX, QUANTITY_MAX, SYMBOL_PATTERN, AccountType, CustomerId, Symbol
from broker.customers import Customers, NewCustomer
from broker.http import ApiError, convert, json_response, parse_json, read_body
from broker.openapi import operation
from broker.resets import Done, NoPrice, NotFinished, NotListed, Resets, State

_TAG = "test bench"
_ERRORS = (404, 409)
_STATE = {"cash": "100000.00", "positions": [{"symbol": "AAPL", "quantity": 10, "average_price": "190.00"}]}
_ID = re.compile(r"[0-9]{1,18}", re.ASCII)
_CASH_MAX = Money(10**10 * UNITS_PER_DOLLAR)
"""$10 billion in one account, as much as one deposit may be."""
_POSITIONS_MAX = 500
_PRINTABLE = r"^[^\x00-\x1f\x7f\ud800-\udfff]*$(?!\n)"

Ticker = Annotated[str, Meta(pattern=SYMBOL_PATTERN)]


# ------------------------------------------------------------------ what comes in


class PositionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Shares of one symbol; without `average_price` they cost what the last trade did."""

    symbol: Ticker
    quantity: Annotated[int, Meta(ge=1, le=QUANTITY_MAX)]
    average_price: Dollars = None


Positions = Annotated[
    Annotated[list[PositionRequest], Meta(max_length=_POSITIONS_MAX)],
    Meta(
        description=f"a list of at most {_POSITIONS_MAX} positions, each with a symbol, a quantity of 1 to "
        f"{QUANTITY_MAX} and maybe an average_price"
    ),
]
Reference = Annotated[
    Annotated[str, Meta(min_length=1, max_length=200, pattern=_PRINTABLE)] | None,
    Meta(description="text of 1 to 200 printable characters"),
]


class StateRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/customers/{customerId}/state: what the account shall have, and nothing else."""

    cash: Dollars
    positions: Positions = []
    reference: Reference = None


class StatesRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/state: the same for many customers."""

    cash: Dollars
    positions: Positions = []
    reference: Reference = None
    customers: Annotated[
        Annotated[list[CustomerNumber], Meta(min_length=1)] | Literal["all"],
        Meta(description='a list of customer ids as text, or "all"'),
    ] = "all"


class AccountsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/accounts: so many new customers, each with a key and in this state."""

    # Its bounds are in one sentence, which is made where the upper one is known: that is a setting.
    count: Annotated[int, Meta(description="a whole number from 1", extra_json_schema={"minimum": 1})]
    cash: Dollars
    positions: Positions = []
    name_prefix: Annotated[
        str, Meta(max_length=190, pattern=_PRINTABLE, description="text of at most 190 printable characters")
    ] = ""
    account_type: Annotated[AccountType, Meta(description='"cash" or "margin"')] = AccountType.CASH


# ------------------------------------------------------------------ what goes out


class ResetAnswer(TypedDict):
    """An account that is in the wanted state. `replayed`: it was reset under this reference before."""

    customerId: CustomerNumber
    reference: str
    replayed: bool
    cancelled_orders: int


class ResetsAnswer(TypedDict):
    """How many accounts are in the wanted state, and how many of them were before, under this reference."""

    reference: str
    customers: int
    already_booked: int
    cancelled_orders: int


class NewAccount(TypedDict):
    """A customer that was made, and the only time that its secret is shown."""

    customerId: CustomerNumber
    name: str
    keyId: str
    secret: str
    token: str


class NewAccounts(TypedDict):
    """Those that were made."""

    accounts: list[NewAccount]


class BenchApi:
    """The routes of the test bench, which the admin token opens."""

    def __init__(
        self,
        resets: Resets,
        customers: Customers,
        new_id: Callable[[], UUID],
        config: Config,
    ) -> None:
        self._resets = resets
        self._customers = customers
        self._new_id = new_id
        self._config = config

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        return [
            web.put("/admin/v1/customers/{customerId}/state", self.reset),
            web.put("/admin/v1/state", self.reset_many),
            web.post("/admin/v1/accounts", self.create),
        ]

    async def _body(self, request: web.Request) -> bytes:
        return await read_body(request, self._config.body_max, self._config.body_wait_s)

    # -------------------------------------------------------------- accounts

    @operation(
        "Put an account into a given state",
        body=StateRequest,
        example=_STATE,
        answer=ResetAnswer,
        errors=(404, 409),
        tag=_TAG,
    )
    async def reset(self, request: web.Request) -> web.Response:
        """Cancel what is open, then book what is missing; once for each reference."""
        wanted = convert(parse_json(await self._body(request)), StateRequest)
        text = request.match_info["customerId"]
        if _ID.fullmatch(text) is None or not await self._resets.known([CustomerId(int(text))], 1):
            raise _no_such_customer()
        reference = wanted.reference or str(self._new_id())
        done = await self._carry_out([CustomerId(int(text))], wanted, reference)
        answer: ResetAnswer = {
            "customerId": str(int(text)),
            "reference": reference,
            "replayed": bool(done.already_booked),
            "cancelled_orders": done.cancelled_orders,
        }
        return json_response(answer)

    @operation(
        "Put many accounts into a state",
        body=StatesRequest,
        example={"customers": "all", **_STATE},
        answer=ResetsAnswer,
        errors=(404, 409),
        tag=_TAG,
    )
    async def reset_many(self, request: web.Request) -> web.Response:
        """The same state for the customers that are named, or for all."""
        wanted = convert(parse_json(await self._body(request)), StatesRequest)
        most = self._config.bench_customers_max
        named = None if wanted.customers == "all" else list({CustomerId(int(each)) for each in wanted.customers})
        found = await self._resets.known(named, most + 1)
        if max(len(found), len(named or ())) > most:
            raise ApiError(400, "invalid_request", f"One request resets at most {most} customers. Name some of them.")
        if named is not None and len(found) < len(named):
            raise _no_such_customer()
        reference = wanted.reference or str(self._new_id())
        done = await self._carry_out(found, wanted, reference)
        answer: ResetsAnswer = {
            "reference": reference,
            "customers": done.customers,
            "already_booked": done.already_booked,
            "cancelled_orders": done.cancelled_orders,
        }
        return json_response(answer)

    async def _carry_out(
        self, customers: Sequence[CustomerId], wanted: StateRequest | StatesRequest | AccountsRequest, reference: str
    ) -> Done:
        state = _state(wanted)
        try:
            return await self._resets.carry_out(customers, state.cash, self._resets.positions(state), reference)
        except (NoPrice, NotListed) as error:
            raise _not_possible(error) from error
        except NotFinished as error:
            raise _not_finished(error, reference) from error

    @operation(
        "Make many accounts in a state",
        body=AccountsRequest,
        example={"count": 2, **_STATE},
        answer=NewAccounts,
        status=201,
        tag=_TAG,
    )
    async def create(self, request: web.Request) -> web.Response:
        """New customers, each with a key; the only time that their secrets are shown."""
        wanted = convert(parse_json(await self._body(request)), AccountsRequest)
        most = self._config.bench_accounts_max
        if not 1 <= wanted.count <= most:
            raise ApiError(400, "invalid_request", f"count must be a whole number from 1 to {most}.")
        state = _state(wanted)
        try:
            self._resets.positions(state)  # before anybody is made
        except (NoPrice, NotListed) as error:
            raise _not_possible(error) from error
        names = [f"{wanted.name_prefix}{number}" for number in range(1, wanted.count + 1)]
        # One after the other, so that ids and names are in one order.
        made = [await self._customers.create(name, wanted.account_type, state.cash) for name in names]
        if state.positions:
            await self._carry_out([each.customer_id for each in made], wanted, str(self._new_id()))
        answer: NewAccounts = {"accounts": [_account(*each) for each in zip(names, made, strict=True)]}
        return json_response(answer, 201)


# ------------------------------------------------------------------ states


def _state(wanted: StateRequest | StatesRequest | AccountsRequest) -> State:
    """Raises ApiError 400."""
    positions: dict[Symbol, tuple[int, Money | None]] = {}
    for each in wanted.positions:
        if each.symbol in positions:
            raise ApiError(
                400, "invalid_request", f"positions must name each symbol once, and {each.symbol} is twice in it."
            )
        price = each.average_price
        cost = None if price is None else read_dollars("average_price", price, 1, PRICE_MAX, "190.00")
        positions[Symbol(each.symbol)] = (each.quantity, cost)
    return State(read_dollars("cash", wanted.cash, 0, _CASH_MAX, "100000.00"), positions)


def _account(name: str, made: NewCustomer) -> NewAccount:
    key = made.key
    return {
        "customerId": str(made.customer_id),
        "name": name,
        "keyId": key.key_id,
        "secret": key.secret,
        "token": key.token,
    }


def _no_such_customer() -> ApiError:
    return ApiError(404, "no_such_customer", "There is no customer with this id.")


def _not_possible(error: NoPrice | NotListed) -> ApiError:
    if isinstance(error, NotListed):
        return ApiError(400, "invalid_request", f"No exchange lists {error}, so nobody could sell it.")
    sentence = f"No price of {error} is known, so its average_price is needed."
    return ApiError(400, "invalid_request", sentence)


def _not_finished(error: NotFinished, reference: str) -> ApiError:
    what = (
        f"{error.open_orders} orders are being cancelled and still open" if error.open_orders else "the broker is busy"
    )
    sentence = (
        f"Not finished: {error.left} of {error.customers} accounts are not reset, since {what}. "
        "Send the same request with this reference again to go on."
    )
    figures = {"reference": reference, "not_reset": error.left, "open_orders": error.open_orders}
    return ApiError(409, "not_finished", sentence, figures=figures)
