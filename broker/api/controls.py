"""The operator's switches: kill switch, halts, restricted symbols, risk limits, corporate actions."""

import re
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from broker import answers
from broker.api.amounts import DollarsOrNull, read_dollars
from broker.config import Config
from broker.controls import ALL, Controls, customer_scope, type_scope
from broker.core.corporate import ActionKind, CorporateAction
from broker.core.money import MONEY_MAX, Money, format_money
from broker.core.types import PRICE_MAX, SYMBOL_PATTERN, AccountType, CustomerId, Symbol
from broker.corporate_actions import AnotherEvent, CannotBeCarriedOut, CorporateActions, Done, NotFinished
from broker.customers import Customers, NoSuchCustomer
from broker.db import DatabaseUnavailable
from broker.fan_out import Cancelled, FanOut
from broker.http import ApiError, convert, json_response, parse_json, read_body
from broker.ledger import TradeDirectory
from broker.openapi import operation
from broker.shards import Shards

_SCOPE = re.compile(r"(?:(all)|customer:([0-9]{1,18})|(halt|restrict):([A-Z][A-Z0-9.]{0,11}))", re.ASCII)
_LIMIT_SCOPE = re.compile(r"(?:type:(cash|margin)|customer:([0-9]{1,18}))", re.ASCII)
_CANCEL_WAIT_S = 10.0
_LIMIT_MAX = 10**9

_COUNT = f"a whole number from 0 to {_LIMIT_MAX}, or null for the default"
Count = Annotated[
    Annotated[int, msgspec.Meta(ge=0, le=_LIMIT_MAX)] | UnsetType | None, msgspec.Meta(description=_COUNT)
]
Ratio = Annotated[
    Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None,
    msgspec.Meta(description="a whole number from 1 to 100000"),
]
_TICKER = "a ticker of 1 to 12 characters A-Z, 0-9 and '.', like AAPL"
Ticker = Annotated[str, msgspec.Meta(pattern=SYMBOL_PATTERN, description=_TICKER)]


class ControlRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/controls/{scope}."""

    reason: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^(?!\s*\.?$)[^\x00-\x1f\x7f\ud800-\udfff]{1,200}$(?!\n)",
            description="text of 1 to 200 printable characters: customers read it",
        ),
    ]
    cancel_open: Annotated[bool, msgspec.Meta(description="true or false")] = False


class LimitsRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of PUT /admin/v1/limits/{scope}: what is left out stays, null goes back to the default."""

    order_quantity_max: Count = UNSET
    order_value_max: DollarsOrNull = UNSET
    position_max: Count = UNSET
    price_away_bps: Count = UNSET
    orders_per_second: Count = UNSET
    duplicate_window_ms: Count = UNSET


class CorporateActionRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /admin/v1/corporate-actions."""

    event_id: Annotated[
        str, msgspec.Meta(pattern=r"^[!-~]{1,100}$(?!\n)", description="1 to 100 visible ASCII characters")
    ]
    type: Annotated[
        str,
        msgspec.Meta(
            pattern="^(split|symbol_change|cash_dividend)$(?!\n)",
            description='"split", "symbol_change" or "cash_dividend"',
        ),
    ]
    symbol: Ticker
    numerator: Ratio = None
    denominator: Ratio = None
    price: DollarsOrNull = None
    new_symbol: Annotated[Ticker | None, msgspec.Meta(description=_TICKER)] = None
    amount_per_share: DollarsOrNull = None


_NEEDED = {
    ActionKind.SPLIT: {"numerator", "denominator"},
    ActionKind.SYMBOL_CHANGE: {"new_symbol"},
    ActionKind.CASH_DIVIDEND: {"amount_per_share"},
}
_POSSIBLE = {ActionKind.SPLIT: {"price"}}


class ControlsApi:
    """The routes that the admin token opens, beside those about customers."""

    def __init__(
        self,
        controls: Controls,
        customers: Customers,
        shards: Shards,
        directory: TradeDirectory,
        last_price: Callable[[Symbol], Money | None],
        is_listed: Callable[[Symbol], bool | None],
        config: Config,
    ) -> None:
        self._controls = controls
        self._is_listed = is_listed
        self._customers = customers
        self._directory = directory
        self._config = config
        self._fan_out = FanOut(controls.database, shards, config.shards)
        self._corporate_actions = CorporateActions(controls.database, controls, self._fan_out, last_price)

    def routes(self) -> list[web.RouteDef]:
        """What to mount."""
        control, limits = "/admin/v1/controls/{scope}", "/admin/v1/limits/{scope}"
        return [
            web.get("/admin/v1/controls", self.list, allow_head=False),
            web.put(control, self.engage),
            web.delete(control, self.release),
            web.get(limits, self.get_limits, allow_head=False),
            web.put(limits, self.set_limits),
            web.post("/admin/v1/corporate-actions", self.carry_out),
        ]

    async def _body(self, request: web.Request) -> object:
        return parse_json(await read_body(request, self._config.body_max, self._config.body_wait_s))

    # -------------------------------------------------------------- switches

    @operation("Every switch that is on", answer=answers.Controls)
    async def list(self, request: web.Request) -> web.Response:
        """Every switch that is on."""
        on = sorted(self._controls.switches().items())
        controls: answers.Controls = {"controls": [{"scope": scope, "reason": reason} for scope, reason in on]}
        return json_response(controls)

    @operation("Turn a switch on", body=ControlRequest, answer=answers.EngagedControl, errors=(404,))
    async def engage(self, request: web.Request) -> web.Response:
        """Turn a switch on, from the next decision on; then, if wanted, cancel what is open there."""
        wanted = convert(await self._body(request), ControlRequest)
        scope, customer_id, symbol = _scope(request.match_info["scope"])
        reason = wanted.reason.removesuffix(".")  # it becomes the end of a sentence
        try:
            if customer_id is not None:
                await self._customers.get(customer_id)
            await self._controls.engage(scope, reason)
        except NoSuchCustomer as error:
            raise _no_such_customer() from error
        except DatabaseUnavailable as error:
            self._controls.hold(scope, reason)  # also where only the look for the customer failed
            raise _not_stored(scope) from error
        answer: answers.EngagedControl = {"scope": scope, "engaged": True, "reason": reason}
        if symbol is not None and self._is_listed(symbol) is False:
            answer["note"] = f"No exchange lists {symbol}, as far as is known."
        if wanted.cancel_open:
            try:
                _tell(answer, await self._cancel(customer_id, symbol, reason))
            except DatabaseUnavailable as error:
                sentence = f"{scope} is on and stored, but which orders are open could not be read. Send this again."
                raise ApiError(503, "database_unavailable", sentence, {"Retry-After": "1"}) from error
        return json_response(answer)

    async def _cancel(self, customer_id: CustomerId | None, symbol: Symbol | None, reason: str) -> Cancelled:
        """Cancel what is open in a scope: whatever was decided before the switch is durable first."""
        settled = await self._fan_out.settle(_CANCEL_WAIT_S)
        if customer_id is not None:
            customers = [customer_id]
        elif symbol is not None:
            customers = [*await self._fan_out.customers_with_open_trades([symbol])]
        else:
            customers = [*await self._directory.customers_with_open_trades()]
        why = f"Cancelled by an operator: {reason}."
        cancelled = await self._fan_out.cancel(customers, symbol, why, _CANCEL_WAIT_S)
        cancelled.complete = settled and not cancelled.not_reached
        return cancelled

    @operation("Turn a switch off", answer=answers.ReleasedControl, errors=(400,))
    async def release(self, request: web.Request) -> web.Response:
        """Turn a switch off."""
        scope, _, _ = _scope(request.match_info["scope"])
        try:
            was_on = await self._controls.release(scope)
        except DatabaseUnavailable as error:
            sentence = f"The database does not answer, so {scope} stays on. Send this again."
            raise ApiError(503, "database_unavailable", sentence, {"Retry-After": "1"}) from error
        released: answers.ReleasedControl = {"scope": scope, "engaged": False, "was_engaged": was_on}
        return json_response(released)

    # -------------------------------------------------------------- limits

    @operation("The limits in a scope", answer=answers.Limits, errors=(400, 404))
    async def get_limits(self, request: web.Request) -> web.Response:
        """The limits that hold in a scope, and which of them are its own."""
        scope, account_type, customer_id = await self._limit_scope(request)
        return json_response(self._limits(scope, account_type, customer_id))

    @operation("Set some limits of a scope", body=LimitsRequest, answer=answers.Limits, errors=(404,))
    async def set_limits(self, request: web.Request) -> web.Response:
        """Set some limits of a scope, for the next decision."""
        wanted = _limits(convert(await self._body(request), LimitsRequest))
        scope, account_type, customer_id = await self._limit_scope(request)
        await self._controls.set_limits(scope, wanted)
        return json_response(self._limits(scope, account_type, customer_id))

    async def _limit_scope(self, request: web.Request) -> tuple[str, AccountType, CustomerId | None]:
        match = _LIMIT_SCOPE.fullmatch(request.match_info["scope"])
        if match is None:
            raise ApiError(
                400, "invalid_request", "The scope must be type:cash, type:margin or one like customer:1001."
            )
        if match[1]:
            return type_scope(AccountType(match[1])), AccountType(match[1]), None
        customer_id = CustomerId(int(match[2]))
        try:
            row = await self._customers.get(customer_id)
        except NoSuchCustomer as error:
            raise _no_such_customer() from error
        return customer_scope(customer_id), AccountType(row["account_type"]), customer_id

    def _limits(self, scope: str, account_type: AccountType, customer_id: CustomerId | None) -> answers.Limits:
        limits = self._controls.limits_in(type_scope(account_type))
        own = self._controls.own_limits(scope)
        if customer_id is not None:
            limits |= own
        shown: answers.LimitFigures = {
            "order_quantity_max": limits["order_quantity_max"],
            "order_value_max": format_money(Money(limits["order_value_max"])),
            "position_max": limits["position_max"],
            "price_away_bps": limits["price_away_bps"],
            "orders_per_second": limits["orders_per_second"],
            "duplicate_window_ms": limits["duplicate_window_ms"],
        }
        return {"scope": scope, "limits": shown, "own": sorted(own)}

    # -------------------------------------------------------------- corporate actions

    @operation(
        "Carry out a split, a symbol change or a dividend",
        body=CorporateActionRequest,
        answer=answers.CorporateActionDone,
        others={201: answers.CorporateActionDone},
        errors=(409,),
        example={"event_id": "MSFT-2026-4", "type": "cash_dividend", "symbol": "MSFT", "amount_per_share": "0.83"},
    )
    async def carry_out(self, request: web.Request) -> web.Response:
        """201 when it is carried out, 200 where it had been before, 409 while it cannot be finished."""
        action = _action(convert(await self._body(request), CorporateActionRequest))
        try:
            done = await self._corporate_actions.carry_out(action)
        except CannotBeCarriedOut as error:
            raise ApiError(400, "invalid_request", f"This cannot be carried out: {error}.") from error
        except AnotherEvent as error:
            sentence = f"The event_id {action.event_id} stands for another corporate action."
            raise ApiError(409, "event_id_used", sentence) from error
        except NotFinished as error:
            raise _not_finished(action, error) from error
        except DatabaseUnavailable as error:
            sentence = "The database does not answer. Send the same request again: what is booked stays booked once."
            raise ApiError(503, "database_unavailable", sentence, {"Retry-After": "1"}) from error
        return json_response(_done(done), 200 if done.repeated else 201)


# ------------------------------------------------------------------ scopes


def _scope(text: str) -> tuple[str, CustomerId | None, Symbol | None]:
    """The scope as it is stored, with the customer or the symbol that it names. Raises ApiError 400."""
    match = _SCOPE.fullmatch(text)
    if match is None:
        sentence = "The scope must be all, or one like customer:1001, halt:AAPL or restrict:AAPL."
        raise ApiError(400, "invalid_request", sentence)
    if match[1]:
        return ALL, None, None
    if match[2]:
        customer_id = CustomerId(int(match[2]))
        return customer_scope(customer_id), customer_id, None
    return text, None, Symbol(match[4])


def _no_such_customer() -> ApiError:
    return ApiError(404, "no_such_customer", "There is no customer with this id.")


def _not_stored(scope: str) -> ApiError:
    sentence = (
        f"{scope} is on in this broker from now on, but the database does not answer, so it is not stored: a restart "
        "would forget it until it is. Nothing was cancelled. Send this again."
    )
    return ApiError(503, "database_unavailable", sentence, {"Retry-After": "1"})


def _tell(answer: answers.EngagedControl, cancelled: Cancelled) -> None:
    """How many orders are being cancelled, and plainly if that is not all."""
    answer["cancelling"] = cancelled.orders
    answer["customers"] = cancelled.customers
    answer["not_reached"] = cancelled.not_reached
    if not cancelled.complete:
        note = "Not every customer's orders could be reached. Send the same request again."
        answer["note"] = f"{answer['note']} {note}" if "note" in answer else note


# ------------------------------------------------------------------ limits


def _limits(wanted: LimitsRequest) -> dict[str, int | None]:
    limits = {name: value for name, value in msgspec.structs.asdict(wanted).items() if value is not UNSET}
    if limits.get("order_value_max") is not None:
        limits["order_value_max"] = _dollars("order_value_max", limits["order_value_max"], 0, MONEY_MAX)
    return limits


def _dollars(name: str, value: Any, least: int, most: Money) -> Money:
    return read_dollars(name, value, least, most, "0.24")


# ------------------------------------------------------------------ corporate actions


def _action(wanted: CorporateActionRequest) -> CorporateAction:
    """Raises ApiError 400 where fields are missing, or are there that this type does not have."""
    kind = ActionKind(wanted.type)
    given = {name for name, value in msgspec.structs.asdict(wanted).items() if value is not None}
    given -= {"event_id", "type", "symbol"}
    for name in sorted(_NEEDED[kind] - given):
        raise ApiError(400, "invalid_request", f"A {kind} needs {name}.")
    for name in sorted(given - _NEEDED[kind] - _POSSIBLE.get(kind, set())):
        raise ApiError(400, "invalid_request", f"A {kind} has no {name}.")
    if kind is ActionKind.SPLIT and wanted.numerator == wanted.denominator:
        raise ApiError(400, "invalid_request", "numerator and denominator must differ.")
    if wanted.new_symbol == wanted.symbol:
        raise ApiError(400, "invalid_request", "new_symbol must be another one.")
    per_share = wanted.amount_per_share
    return CorporateAction(
        wanted.event_id,
        kind,
        Symbol(wanted.symbol),
        wanted.numerator or 1,
        wanted.denominator or 1,
        Money(0) if wanted.price is None else _dollars("price", wanted.price, 1, PRICE_MAX),
        None if wanted.new_symbol is None else Symbol(wanted.new_symbol),
        Money(0) if per_share is None else _dollars("amount_per_share", per_share, 1, PRICE_MAX),
    )


def _done(done: Done) -> answers.CorporateActionDone:
    action = done.action
    answer: answers.CorporateActionDone = {
        "event_id": action.event_id,
        "type": action.kind,
        "symbol": action.symbol,
        "repeated": done.repeated,
        "cancelled_orders": done.cancelled_orders,
        "holders": done.holders,
        "adjusted": done.adjusted,
        "already_booked": done.already_booked,
        "cash_paid": format_money(done.cash_paid),
    }
    if action.price:
        answer["price"] = format_money(action.price)
    return answer


def _not_finished(action: CorporateAction, error: NotFinished) -> ApiError:
    if error.holders:
        what = f"{error.not_adjusted} of {error.holders} holders are not adjusted yet"
    elif error.open_orders:
        what = f"{error.open_orders} orders in {action.symbol} are being cancelled and still open"
    else:
        what = "the broker is busy with what was decided before the halt"
    halted = "" if action.kind is ActionKind.CASH_DIVIDEND else f", and {action.symbol} stays halted"
    sentence = f"Not finished: {what}{halted}. Send the same request again to go on."
    figures = {"open_orders": error.open_orders, "holders": error.holders, "not_adjusted": error.not_adjusted}
    return ApiError(409, "not_finished", sentence, figures=figures)
