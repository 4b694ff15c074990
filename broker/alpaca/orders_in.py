"""An order as Alpaca's clients send it, as a command of ours: with what Alpaca asks of its form, in its words."""

from typing import Annotated, Any
from uuid import UUID

import msgspec

from broker.alpaca.errors import AlpacaError, bad_parameter, unprocessable
from broker.alpaca.requests import Number, as_uuid, basis_points, boolean, number, price, printable, whole_shares
from broker.core.messages import Leg, PlaceTrade, ReplaceTrade
from broker.core.money import UNITS_PER_DOLLAR, Money, format_money
from broker.core.types import CustomerId, OrderClass, OrderType, Side, Symbol, TimeInForce, TradeId

_CENT = UNITS_PER_DOLLAR // 100
_UNITS_PER_BPS = 100
_CLIENT_ORDER_ID_MAX = 128
_SIDES = {"buy": Side.BUY, "sell": Side.SELL}
_INTENTS = {Side.BUY: "buy_to_open", Side.SELL: "sell_to_close"}
_RESTING = {TimeInForce.DAY, TimeInForce.GTC}
_AUCTIONS = {TimeInForce.OPG, TimeInForce.CLS}


class TakeProfit(msgspec.Struct):
    """The exit with a limit."""

    limit_price: Number = None


class StopLoss(msgspec.Struct):
    """The exit with a stop; with a limit it is a stop-limit order."""

    stop_price: Number = None
    limit_price: Number = None


class OrderBody(msgspec.Struct):
    """The body of POST /v2/orders."""

    symbol: str
    side: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["buy", "sell"]})]
    type: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*OrderType]})]
    time_in_force: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*TimeInForce]})]
    qty: Number = None
    notional: Number = None
    limit_price: Number = None
    stop_price: Number = None
    trail_price: Number = None
    trail_percent: Number = None
    extended_hours: bool | str = False
    client_order_id: str = ""
    order_class: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["", *OrderClass]})] = ""
    take_profit: TakeProfit | None = None
    stop_loss: StopLoss | None = None
    position_intent: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ["", *_INTENTS.values()]})] = ""


class ReplaceBody(msgspec.Struct):
    """The body of PATCH /v2/orders/{order_id}; what is left out stays as it is."""

    qty: Number = None
    time_in_force: str = ""
    limit_price: Number = None
    stop_price: Number = None
    trail: Number = None
    client_order_id: str = ""


# ------------------------------------------------------------------ placing


def place_command(
    body: OrderBody, symbol: Symbol, last: Money | None, customer_id: CustomerId, new_ids: tuple[UUID, UUID, UUID]
) -> PlaceTrade:
    """The command. `last`: the symbol's last price, where known. Raises AlpacaError 422."""
    side = _word("side", body.side, _SIDES)
    order_type = _word("type", body.type, {str(each): each for each in OrderType})
    time_in_force = _word("time_in_force", body.time_in_force, {str(each): each for each in TimeInForce})
    order_class = _order_class(body)
    command = PlaceTrade(
        TradeId(new_ids[0]),
        customer_id,
        symbol,
        side,
        _quantity(body, symbol),
        order_type=order_type,
        time_in_force=time_in_force,
        limit_price=price("limit_price", body.limit_price),
        stop_price=price("stop_price", body.stop_price),
        client_order_id=client_order_id(body.client_order_id) or str(new_ids[0]),  # as it is shown: nobody else's
        order_class=order_class,
        trail_amount=price("trail_price", body.trail_price),
        trail_bps=basis_points("trail_percent", body.trail_percent),
        extended_hours=boolean("extended_hours", body.extended_hours),
        only_if_accepted=True,
        waits_for_open=time_in_force in _RESTING,
    )
    if order_class is OrderClass.OCO and body.take_profit is not None:  # the order itself is its take profit
        command.limit_price = price("take_profit.limit_price", body.take_profit.limit_price)
    _check_prices(command)
    _check_times(command)
    _check_intent(body, side)
    if order_class is not OrderClass.SIMPLE:
        command.legs = _legs(body, command, last, new_ids)
    elif any(each is not None for each in _exits(body)):  # whoever names exits counts on them
        raise unprocessable("take_profit and stop_loss require order_class bracket, oco or oto")
    return command


def client_order_id(text: str) -> str | None:
    """The client's own id of an order; None where it gives none. Raises AlpacaError 422."""
    if not text:
        return None
    if len(text) > _CLIENT_ORDER_ID_MAX:
        raise bad_parameter(f"client_order_id must be no more than {_CLIENT_ORDER_ID_MAX} characters")
    if not printable(text, _CLIENT_ORDER_ID_MAX):
        raise bad_parameter("client_order_id must be printable characters")
    return text


def _word(name: str, text: str, words: dict[str, Any]) -> Any:
    if not text:
        raise bad_parameter(f"{name} is required")
    if text not in words:
        raise bad_parameter(f"invalid {name}: it must be one of {', '.join(words)}")
    return words[text]


def _order_class(body: OrderBody) -> OrderClass:
    if body.order_class == "mleg":
        raise unprocessable("options are not traded here: order_class mleg is not supported")
    words = {str(each): each for each in OrderClass}
    return OrderClass.SIMPLE if not body.order_class else _word("order_class", body.order_class, words)


def _quantity(body: OrderBody, symbol: Symbol) -> int:
    quantity, notional = number("qty", body.qty), number("notional", body.notional)
    if quantity is None and notional is None:
        raise bad_parameter("qty or notional is required")
    if quantity is not None and notional is not None:
        raise bad_parameter("only one of qty or notional is accepted")
    if notional is not None:
        raise unprocessable(f'asset "{symbol}" is not fractionable')
    shares = whole_shares("qty", body.qty, symbol)
    assert shares is not None
    return shares


def _check_prices(command: PlaceTrade) -> None:
    """Each type has the prices that it needs, and no others."""
    kind, words = command.order_type, command.order_type.replace("_", " ")
    needs_limit = kind in {OrderType.LIMIT, OrderType.STOP_LIMIT}
    needs_stop = kind in {OrderType.STOP, OrderType.STOP_LIMIT}
    if kind is OrderType.MARKET and (command.limit_price, command.stop_price) != (None, None):
        raise bad_parameter("market orders require no stop or limit price")
    if needs_limit is not (command.limit_price is not None):
        raise bad_parameter(f"{words} orders require {'a' if needs_limit else 'no'} limit price")
    if needs_stop is not (command.stop_price is not None):
        raise bad_parameter(f"{words} orders require {'a' if needs_stop else 'no'} stop price")
    trails = (command.trail_amount is not None) + (command.trail_bps is not None)
    if kind is not OrderType.TRAILING_STOP and trails:
        raise bad_parameter(f"{words} orders require no trail_price or trail_percent")
    if kind is OrderType.TRAILING_STOP and trails != 1:
        raise bad_parameter("trailing stop orders require one of trail_price or trail_percent")


def _check_times(command: PlaceTrade) -> None:
    kind, lasts = command.order_type, command.time_in_force
    if command.extended_hours and not (kind is OrderType.LIMIT and lasts in _RESTING):
        raise unprocessable("extended hours order must be DAY or GTC limit orders")
    if command.extended_hours and command.order_class is not OrderClass.SIMPLE:
        raise unprocessable(f"{command.order_class} orders cannot be extended hours orders")
    if lasts in _AUCTIONS and kind not in {OrderType.MARKET, OrderType.LIMIT}:
        raise unprocessable(f"{lasts} orders must be market or limit orders")
    if kind is OrderType.TRAILING_STOP and lasts not in _RESTING:
        raise unprocessable("trailing stop orders must be DAY or GTC orders")


def _check_intent(body: OrderBody, side: Side) -> None:
    """There are no short sales here: what is sold was bought."""
    inferred = _INTENTS[side]
    if body.position_intent not in {"", inferred}:
        sentence = f"inferred: {inferred}, specified: {body.position_intent[:20]}"
        raise unprocessable(f"position intent mismatch, {sentence}")


# ------------------------------------------------------------------ groups


def _legs(
    body: OrderBody, command: PlaceTrade, last: Money | None, new_ids: tuple[UUID, UUID, UUID]
) -> tuple[Leg, ...]:
    kind = command.order_class
    if command.time_in_force not in _RESTING:
        raise unprocessable(f"{kind} orders must be DAY or GTC orders")
    if kind is OrderClass.OCO:
        return _oco(body, command, new_ids)
    if command.order_type not in {OrderType.MARKET, OrderType.LIMIT}:
        raise unprocessable(f"{kind} orders must be entered with market or limit orders")
    target, stop, stop_limit = _exits(body)
    if kind is OrderClass.BRACKET and (target is None or stop is None):
        raise bad_parameter("bracket orders require take_profit.limit_price and stop_loss.stop_price")
    if kind is OrderClass.OTO and (target is None) is (stop is None):
        raise bad_parameter("oto orders require either take_profit.limit_price or stop_loss.stop_price")
    base = last if command.limit_price is None else command.limit_price
    _check_exits(command.side is Side.BUY, base, target, stop, stop_limit)
    legs = []
    if target is not None:
        legs.append(Leg(TradeId(new_ids[1]), limit_price=target))
    if stop is not None:
        legs.append(Leg(TradeId(new_ids[2]), limit_price=stop_limit, stop_price=stop))
    return tuple(legs)


def _oco(body: OrderBody, command: PlaceTrade, new_ids: tuple[UUID, UUID, UUID]) -> tuple[Leg, ...]:
    _, stop, stop_limit = _exits(body)
    if command.order_type is not OrderType.LIMIT:
        raise unprocessable("oco orders must be limit orders")
    if command.limit_price is None or stop is None:
        raise bad_parameter("oco orders require take_profit.limit_price and stop_loss.stop_price")
    _check_exits(command.side is Side.SELL, None, command.limit_price, stop, stop_limit)
    return (Leg(TradeId(new_ids[2]), limit_price=stop_limit, stop_price=stop),)


def _exits(body: OrderBody) -> tuple[Money | None, Money | None, Money | None]:
    """Take profit, stop, and the limit of the stop."""
    target, stop = body.take_profit or TakeProfit(), body.stop_loss or StopLoss()
    stop_price = price("stop_loss.stop_price", stop.stop_price)
    stop_limit = price("stop_loss.limit_price", stop.limit_price)
    if stop_limit is not None and stop_price is None:
        raise bad_parameter("stop_loss.limit_price requires stop_loss.stop_price")
    return price("take_profit.limit_price", target.limit_price), stop_price, stop_limit


def _check_exits(
    sells: bool, base: Money | None, target: Money | None, stop: Money | None, stop_limit: Money | None
) -> None:
    """Of exits that sell, the take profit is above and the stop below; of exits that buy, the other way round."""

    def past(upper: Money, lower: Money) -> bool:
        return upper >= lower + _CENT if sells else upper <= lower - _CENT

    more, less = (">", "<") if sells else ("<", ">")
    up, down = ("+", "-") if sells else ("-", "+")
    if target is not None and stop is not None and not past(target, stop):
        raise unprocessable(f"take_profit.limit_price must be {more} stop_loss.stop_price")
    if stop_limit is not None and stop is not None and (stop_limit > stop if sells else stop_limit < stop):
        raise unprocessable(f"stop_loss.limit_price must be {less}= stop_loss.stop_price")
    if base is None:
        return
    extra = {"base_price": format_money(base)}
    if target is not None and not past(target, base):
        raise AlpacaError(422, None, f"take_profit.limit_price must be {more}= base_price {up} 0.01", extra)
    if stop is not None and not past(base, stop):
        raise AlpacaError(422, None, f"stop_loss.stop_price must be {less}= base_price {down} 0.01", extra)


# ------------------------------------------------------------------ replacing


def replace_command(
    body: ReplaceBody, replaces: TradeId, new_id: UUID, customer_id: CustomerId, symbol: str, *, trails_by_amount: bool
) -> ReplaceTrade:
    """The command. `trails_by_amount`: what `trail` of the replaced order is. Raises AlpacaError 422."""
    lasts = body.time_in_force
    command = ReplaceTrade(
        TradeId(new_id),
        customer_id,
        replaces,
        whole_shares("qty", body.qty, symbol),
        price("limit_price", body.limit_price),
        price("stop_price", body.stop_price),
        client_order_id(body.client_order_id) or str(new_id),
        _word("time_in_force", lasts, {str(each): each for each in TimeInForce}) if lasts else None,
        counts_filled=True,
        trail=_trail(body.trail, by_amount=trails_by_amount),
    )
    if (command.quantity, command.limit_price, command.stop_price, command.time_in_force, command.trail) == (None,) * 5:
        raise unprocessable("order parameters are not changed")
    return command


def _trail(value: Any, *, by_amount: bool) -> Money | None:
    """In 1/10,000 of a dollar or of a per cent."""
    if by_amount:
        return price("trail", value)
    bps = basis_points("trail", value)
    return None if bps is None else Money(bps * _UNITS_PER_BPS)


def order_id(text: str) -> TradeId:
    """The id in a path. Raises AlpacaError 404 where it can be none of ours."""
    found = as_uuid(text)
    if found is None:
        raise no_such_order(text)
    return TradeId(found)


def no_such_order(text: object) -> AlpacaError:
    """404."""
    return AlpacaError(404, None, f"order not found for {str(text)[:64]}")
