"""Bracket, one-cancels-other, one-triggers-other, trailing stops, and the times in force of the auctions."""

from decimal import Decimal

from alpaca.trading.enums import OrderClass, OrderType, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    GetOrderByIdRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    ReplaceOrderRequest,
    StopLossRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
)

from tests.acceptance.clients.alpaca_py.desk import BUY, DAY, GTC, SELL, Desk, eventually, refused, step

NESTED = GetOrderByIdRequest(nested=True)


def _exits(desk: Desk) -> dict[str, object]:
    return {
        "take_profit": TakeProfitRequest(limit_price=desk.far_above()),
        "stop_loss": StopLossRequest(stop_price=desk.far_below()),
    }


def _bracket(desk: Desk, **more: object) -> object:
    return desk.market(BUY, 10, order_class=OrderClass.BRACKET, time_in_force=GTC, **(_exits(desk) | more))


def _legs(order: object) -> tuple[object, object]:
    """Take-profit and stop-loss of an order."""
    by_type = {leg.order_type: leg for leg in order.legs}
    return by_type[OrderType.LIMIT], by_type.get(OrderType.STOP) or by_type[OrderType.STOP_LIMIT]


@step
def a_bracket_works_its_exits_once_it_is_filled(desk: Desk) -> None:
    taken = _bracket(desk)
    assert taken.order_class is OrderClass.BRACKET
    assert len(taken.legs) == 2  # clients count on them in the first answer
    desk.in_status(taken, "filled")
    entry = desk.trading.get_order_by_id(taken.id, NESTED)
    profit, stop = _legs(entry)
    desk.in_status(profit, "new")
    desk.in_status(stop, "held", "new")
    assert (profit.side, profit.qty, stop.side, stop.qty) == (SELL, "10", SELL, "10")
    assert desk.trading.get_open_position("AAPL").qty_available == "0"
    assert {leg.id for leg in entry.legs} == {leg.id for leg in taken.legs}


@step
def a_bracket_that_waits_holds_its_exits(desk: Desk) -> None:
    price = desk.far_below()
    taken = desk.limit(
        price,
        BUY,
        10,
        order_class=OrderClass.BRACKET,
        take_profit=TakeProfitRequest(limit_price=price + 50),
        stop_loss=StopLossRequest(stop_price=price - 20, limit_price=price - 21),
    )
    desk.in_status(taken, "new")
    entry = desk.trading.get_order_by_id(taken.id, NESTED)
    assert [leg.status.value for leg in entry.legs] == ["held", "held"]
    flat = desk.trading.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=False))
    nested = desk.trading.get_orders(GetOrdersRequest(status=QueryOrderStatus.OPEN, nested=True))
    assert {order.id for order in flat} == {entry.id, *(leg.id for leg in entry.legs)}
    assert [(order.id, len(order.legs)) for order in nested] == [(entry.id, 2)]
    desk.trading.cancel_order_by_id(entry.id)
    for order in (entry, *entry.legs):
        desk.in_status(order, "canceled")


@step
def one_exit_of_a_bracket_ends_the_other(desk: Desk) -> None:
    entry = _bracket(desk)
    desk.in_status(entry, "filled")
    profit, stop = _legs(entry)
    desk.in_status(profit, "new")
    moved = desk.trading.replace_order_by_id(profit.id, ReplaceOrderRequest(limit_price=desk.far_below() + 10))
    desk.in_status(moved, "filled")
    desk.in_status(stop, "canceled")
    assert desk.trading.get_all_positions() == []


@step
def cancelling_one_exit_of_a_bracket_ends_the_other(desk: Desk) -> None:
    entry = _bracket(desk)
    desk.in_status(entry, "filled")
    profit, stop = _legs(entry)
    desk.in_status(profit, "new")
    desk.trading.cancel_order_by_id(profit.id)
    desk.in_status(profit, "canceled")
    desk.in_status(stop, "canceled")
    assert desk.trading.get_open_position("AAPL").qty_available == "10"


@step
def is_refused_a_bracket_that_makes_no_sense(desk: Desk) -> None:
    price = desk.far_below()
    with refused(422, (40010001, 42210000)):
        _bracket(desk, take_profit=TakeProfitRequest(limit_price=price - 50))  # under its stop
    with refused(422, (40010001, 42210000)):
        desk.limit(
            price,
            order_class=OrderClass.BRACKET,
            take_profit=TakeProfitRequest(limit_price=price + 10),
            stop_loss=StopLossRequest(stop_price=price - 10),
            extended_hours=True,
        )
    raw = {"symbol": "AAPL", "qty": "1", "side": "buy", "type": "market", "time_in_force": "day"}
    with refused(422, (40010001, 42210000)):
        desk.trading.post("/orders", raw | {"order_class": "bracket", "take_profit": {"limit_price": "900"}})
    assert desk.trading.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL)) == []


@step
def one_cancels_the_other(desk: Desk) -> None:
    desk.bought(10)
    exits = _exits(desk)
    request = LimitOrderRequest(
        symbol="AAPL", qty=10, side=SELL, time_in_force=GTC, order_class=OrderClass.OCO, **exits
    )
    taken = desk.trading.submit_order(request)
    assert (taken.order_class, taken.order_type, len(taken.legs)) == (OrderClass.OCO, OrderType.LIMIT, 1)
    desk.in_status(taken, "new")
    moved = desk.trading.replace_order_by_id(taken.id, ReplaceOrderRequest(limit_price=desk.far_below() + 10))
    desk.in_status(moved, "filled")
    desk.in_status(taken.legs[0], "canceled")


@step
def one_triggers_the_other(desk: Desk) -> None:
    stop_loss = StopLossRequest(stop_price=desk.far_below())
    taken = desk.market(BUY, 10, order_class=OrderClass.OTO, stop_loss=stop_loss)
    assert (taken.order_class, len(taken.legs)) == (OrderClass.OTO, 1)
    desk.in_status(taken, "filled")
    leg = desk.in_status(taken.legs[0], "new", "held")
    assert (leg.order_type, leg.side, leg.qty) == (OrderType.STOP, SELL, "10")
    assert desk.trading.get_open_position("AAPL").qty_available == "0"


@step
def trails_a_stop_behind_the_price(desk: Desk) -> None:
    desk.bought(10)

    def trailing(**trail: float) -> object:
        return desk.trading.submit_order(
            TrailingStopOrderRequest(symbol="AAPL", qty=5, side=SELL, time_in_force=GTC, **trail)
        )

    by_percent = desk.in_status(trailing(trail_percent=10), "new", "held")
    assert by_percent.order_type is OrderType.TRAILING_STOP
    assert Decimal(by_percent.trail_percent) == 10
    by_price = desk.in_status(trailing(trail_price=12.5), "new", "held")
    assert Decimal(by_price.trail_price) == Decimal("12.5")
    eventually(lambda: desk.trading.get_order_by_id(by_price.id).hwm, "it follows the market")
    by_price = desk.trading.get_order_by_id(by_price.id)
    assert Decimal(by_price.hwm) - Decimal(by_price.stop_price) == Decimal("12.5")
    narrower = desk.trading.replace_order_by_id(by_price.id, ReplaceOrderRequest(trail=6))
    assert Decimal(desk.in_status(narrower, "new", "held").trail_price) == 6
    desk.trading.cancel_orders()
    for order in (by_percent, narrower):
        desk.in_status(order, "canceled")


@step
def is_refused_a_trail_that_makes_no_sense(desk: Desk) -> None:
    raw = {"symbol": "AAPL", "qty": "1", "side": "sell", "type": "trailing_stop", "time_in_force": "day"}
    desk.bought(1)
    for wrong in ({}, {"trail_price": "1", "trail_percent": "1"}, {"trail_percent": "-1"}, {"trail_price": "0"}):
        with refused(422, (40010001, 42210000)):
            desk.trading.post("/orders", raw | wrong)


@step
def takes_orders_for_the_auctions(desk: Desk) -> None:
    price = desk.far_below()
    for tif in (TimeInForce.OPG, TimeInForce.CLS):
        order = desk.limit(price, BUY, 1, time_in_force=tif)
        assert order.time_in_force is tif
        waiting = desk.in_status(order, "new", "held", "accepted")
        desk.trading.cancel_order_by_id(waiting.id)
        desk.in_status(waiting, "canceled")


@step
def trades_in_extended_hours_with_a_limit_only(desk: Desk) -> None:
    order = desk.in_status(desk.limit(desk.far_below(), extended_hours=True), "new")
    assert order.extended_hours is True
    with refused(422, (40010001, 42210000)):
        desk.market(BUY, 1, extended_hours=True)
    with refused(422, (40010001, 42210000)):
        desk.limit(desk.far_below(), time_in_force=TimeInForce.IOC, extended_hours=True)
    assert desk.trading.get_order_by_id(order.id).time_in_force is DAY
