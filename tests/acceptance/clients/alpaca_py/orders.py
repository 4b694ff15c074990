"""Orders of every type, their lists, replacing and cancelling, refusals, and positions."""

from datetime import timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from alpaca.common.enums import Sort
from alpaca.trading.enums import OrderType, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetOrdersRequest,
    ReplaceOrderRequest,
    StopLimitOrderRequest,
    StopOrderRequest,
)

from tests.acceptance.clients.alpaca_py.desk import BUY, DAY, GTC, SELL, Desk, eventually, refused, step

OPEN, CLOSED, ALL = QueryOrderStatus.OPEN, QueryOrderStatus.CLOSED, QueryOrderStatus.ALL


@step
def buys_at_the_market(desk: Desk) -> None:
    taken = desk.market(BUY, 10)
    assert taken.status.value in {"pending_new", "new", "accepted", "partially_filled", "filled"}
    assert isinstance(taken.id, UUID)
    assert taken.client_order_id
    assert (taken.symbol, taken.qty, taken.side, taken.time_in_force) == ("AAPL", "10", BUY, DAY)
    assert (taken.order_type, taken.extended_hours, taken.limit_price) == (OrderType.MARKET, False, None)
    filled = desk.in_status(taken, "filled")
    assert (filled.filled_qty, filled.asset_id) == ("10", desk.trading.get_asset("AAPL").id)
    assert 0 < Decimal(filled.filled_avg_price) < 10_000
    assert taken.submitted_at <= filled.filled_at
    assert desk.trading.get_order_by_client_id(taken.client_order_id) == filled


@step
def buys_and_sells_in_every_type_that_may_rest(desk: Desk) -> None:
    low, high = desk.far_below(), desk.far_above()
    desk.bought(20)
    stop = StopOrderRequest(symbol="AAPL", qty=10, side=SELL, time_in_force=GTC, stop_price=low)
    stop_limit = StopLimitOrderRequest(
        symbol="AAPL", qty=10, side=SELL, time_in_force=DAY, stop_price=low, limit_price=low - 1
    )
    placed = [
        desk.limit(low - 10, BUY, time_in_force=GTC),  # under the sales: it must not trade with them
        desk.trading.submit_order(stop),
        desk.trading.submit_order(stop_limit),
    ]
    resting = [desk.in_status(order, "new", "held", "accepted") for order in placed]
    facts = [
        (order.order_type.value, order.time_in_force, order.limit_price, order.stop_price, order.qty)
        for order in resting
    ]
    assert [(kind, tif, _number(limit), _number(stop), qty) for kind, tif, limit, stop, qty in facts] == [
        ("limit", GTC, low - 10, None, "10"),
        ("stop", GTC, None, low, "10"),
        ("stop_limit", DAY, low - 1, low, "10"),
    ]
    for order in resting:
        assert desk.trading.cancel_order_by_id(order.id) is None
        canceled = desk.in_status(order, "canceled")
        assert canceled.canceled_at is not None
    sale = desk.in_status(desk.limit(low, SELL, 20), "filled")
    assert Decimal(sale.filled_avg_price) >= Decimal(str(low))
    assert high > low


def _number(price: object) -> float | None:
    return None if price is None else float(str(price))


@step
def ioc_and_fok_never_rest(desk: Desk) -> None:
    far = desk.far_below()
    for tif in (TimeInForce.IOC, TimeInForce.FOK):
        assert desk.in_status(desk.limit(far, time_in_force=tif), "canceled").filled_qty == "0"
        assert desk.in_status(desk.limit(desk.far_above(), BUY, 1, time_in_force=tif), "filled").filled_qty == "1"
    assert desk.trading.get_orders() == []


@step
def takes_a_price_as_its_text_says(desk: Desk) -> None:
    price = desk.far_below() + 0.35  # is no binary fraction
    order = desk.resting(price)
    assert Decimal(order.limit_price) == Decimal(str(price))


@step
def its_client_order_id_is_kept_and_unique_for_ever(desk: Desk) -> None:
    name = "my bot/1 a+b%2F"
    first = desk.resting(client_order_id=name)
    assert desk.trading.get_order_by_client_id(name) == first
    with refused(422, 40010001, "client_order_id must be unique"):
        desk.limit(desk.far_below(), client_order_id=name)
    desk.trading.cancel_order_by_id(first.id)
    desk.in_status(first, "canceled")
    with refused(422, 40010001, "client_order_id must be unique"):
        desk.market(BUY, 1, client_order_id=name)
    with refused(404, 40410000):
        desk.trading.get_order_by_client_id("never used")
    assert desk.resting(client_order_id="x" * 128).client_order_id == "x" * 128


@step
def lists_its_orders_by_every_filter(desk: Desk) -> None:
    filled = desk.bought(1, "MSFT")
    between = desk.now()
    resting = [desk.resting() for _ in range(3)]
    sale = desk.in_status(desk.limit(desk.far_above("MSFT"), SELL, 1, "MSFT"), "new")

    def ids(**filters: object) -> list[UUID]:
        return [order.id for order in desk.trading.get_orders(GetOrdersRequest(**filters))]

    newest_first = [sale.id, *(order.id for order in reversed(resting))]
    assert [order.id for order in desk.trading.get_orders()] == ids(status=OPEN) == newest_first
    assert ids(status=CLOSED) == [filled.id]
    assert ids(status=ALL) == [*newest_first, filled.id]
    assert ids(status=ALL, direction=Sort.ASC) == [filled.id, *reversed(newest_first)]
    assert ids(status=ALL, limit=2) == newest_first[:2]
    assert ids(status=ALL, symbols=["MSFT"]) == [sale.id, filled.id]
    assert ids(status=ALL, symbols=["MSFT", "AAPL"], side=SELL) == [sale.id]
    assert ids(status=ALL, after=between) == newest_first
    assert ids(status=ALL, until=between) == [filled.id]
    assert ids(status=ALL, after=resting[0].submitted_at, until=sale.submitted_at) == newest_first[1:3]
    assert ids(status=ALL, after=between + timedelta(hours=1)) == []
    assert ids(status=ALL, nested=True) == ids(status=ALL, nested=False)


@step
def replaces_an_order(desk: Desk) -> None:
    first = desk.resting()
    price = desk.far_below() - 5
    second = desk.trading.replace_order_by_id(
        first.id, ReplaceOrderRequest(qty=7, limit_price=price, time_in_force=GTC, client_order_id="second")
    )
    assert second.id != first.id
    assert second.replaces == first.id
    second = desk.in_status(second, "new")
    assert (second.qty, float(second.limit_price), second.time_in_force) == ("7", price, GTC)
    assert desk.trading.get_order_by_client_id("second") == second
    old = desk.in_status(first, "replaced")
    assert old.replaced_by == second.id
    assert old.replaced_at is not None
    third = desk.trading.replace_order_by_id(second.id, ReplaceOrderRequest(qty=8))
    third = desk.in_status(third, "new")
    assert (third.qty, float(third.limit_price), third.replaces) == ("8", price, second.id)
    assert [order.id for order in desk.trading.get_orders()] == [third.id]


@step
def replaces_the_price_of_a_stop(desk: Desk) -> None:
    desk.bought(10)
    low = desk.far_below()
    stop = desk.trading.submit_order(
        StopOrderRequest(symbol="AAPL", qty=10, side=SELL, time_in_force=DAY, stop_price=low)
    )
    desk.in_status(stop, "new", "held", "accepted")
    lower = desk.trading.replace_order_by_id(stop.id, ReplaceOrderRequest(stop_price=low - 1))
    assert float(desk.in_status(lower, "new", "held", "accepted").stop_price) == low - 1


@step
def is_told_what_cannot_be_replaced(desk: Desk) -> None:
    filled = desk.bought(1)
    with refused(422, 42210000):
        desk.trading.replace_order_by_id(filled.id, ReplaceOrderRequest(qty=2))
    with refused(404, 40410000):
        desk.trading.replace_order_by_id(uuid4(), ReplaceOrderRequest(qty=2))
    resting = desk.resting()
    with refused(422, 42210000, "sub-penny"):
        desk.trading.replace_order_by_id(resting.id, ReplaceOrderRequest(limit_price=100.123))
    with refused(403, 40310000, "insufficient buying power"):
        desk.trading.replace_order_by_id(resting.id, ReplaceOrderRequest(qty=900_000))
    assert desk.trading.get_order_by_id(resting.id).status.value == "new"


@step
def cancels_all_its_orders(desk: Desk) -> None:
    assert desk.trading.cancel_orders() == []
    resting = {desk.resting().id for _ in range(3)}
    answers = desk.trading.cancel_orders()
    assert {answer.id for answer in answers} == resting
    assert {answer.status for answer in answers} == {200}
    eventually(lambda: desk.trading.get_orders() == [], "all are canceled")
    closed = desk.trading.get_orders(GetOrdersRequest(status=CLOSED))
    assert [order.status.value for order in closed] == ["canceled"] * 3


@step
def is_told_what_cannot_be_cancelled(desk: Desk) -> None:
    filled = desk.bought(1)
    with refused(422, 42210000):
        desk.trading.cancel_order_by_id(filled.id)
    with refused(404, 40410000):
        desk.trading.cancel_order_by_id(uuid4())
    with refused(404, 40410000):
        desk.trading.get_order_by_id(uuid4())


@step
def is_refused_what_it_cannot_pay(desk: Desk) -> None:
    with refused(403, 40310000, "insufficient buying power") as answer:
        desk.market(BUY, 5_000)
    assert Decimal(answer.body["buying_power"]) == 100_000
    assert Decimal(answer.body["cost_basis"]) > 100_000
    with refused(403, 40310000, "insufficient buying power"):
        desk.limit(desk.far_below(), BUY, 5_000)
    assert desk.trading.get_orders(GetOrdersRequest(status=ALL)) == []  # what is refused was never an order


@step
def is_refused_to_sell_what_it_has_not(desk: Desk) -> None:
    desk.bought(10)
    held = desk.in_status(desk.limit(desk.far_above(), SELL, 7), "new")
    with refused(403, 40310000, "insufficient qty available for order (requested: 5, available: 3)") as answer:
        desk.market(SELL, 5)
    facts = {name: answer.body[name] for name in ("available", "existing_qty", "held_for_orders", "symbol")}
    assert facts == {"available": "3", "existing_qty": "10", "held_for_orders": "7", "symbol": "AAPL"}
    assert desk.trading.get_open_position("AAPL").qty_available == "3"
    desk.trading.cancel_order_by_id(held.id)
    desk.in_status(held, "canceled")
    assert desk.trading.get_open_position("AAPL").qty_available == "10"


@step
def is_refused_what_makes_no_order(desk: Desk) -> None:
    parameter, rule = 40010001, 42210000
    with refused(422, (parameter, rule), "NOSUCH"):
        desk.market(BUY, 1, "NOSUCH")
    with refused(422, rule, "sub-penny increment does not fulfill minimum pricing criteria"):
        desk.limit(100.123)
    with refused(422, (parameter, rule)):
        desk.market(BUY, 1.5)
    with refused(422, (parameter, rule)):
        desk.market(BUY, 0)
    with refused(422, (parameter, rule)):
        desk.market(BUY, None, notional=500)
    with refused(422, (parameter, rule)):
        desk.limit(-5)
    with refused(422, (parameter, rule)):
        desk.trading.post("/orders", {})
    raw = {"symbol": "AAPL", "side": "buy", "type": "market", "time_in_force": "day"}
    with refused(422, parameter, "qty or notional is required"):
        desk.trading.post("/orders", raw)
    with refused(422, parameter, "only one of qty or notional is accepted"):
        desk.trading.post("/orders", raw | {"qty": "1", "notional": "5"})
    assert desk.trading.get_orders(GetOrdersRequest(status=ALL)) == []


@step
def numbers_in_a_request_may_be_strings(desk: Desk) -> None:
    raw = {"symbol": "AAPL", "side": "buy", "type": "limit", "time_in_force": "day"}
    price = desk.far_below()
    answer = desk.trading.post("/orders", raw | {"qty": "3", "limit_price": str(price), "extended_hours": None})
    order = desk.trading.get_order_by_id(answer["id"])
    assert (order.qty, float(order.limit_price)) == ("3", price)
    assert isinstance(answer["qty"], str)
    assert isinstance(answer["limit_price"], str)


@step
def reads_its_positions(desk: Desk) -> None:
    assert desk.trading.get_all_positions() == []
    bought = desk.bought(10)
    desk.bought(2, "MSFT")
    positions = desk.trading.get_all_positions()
    assert sorted(each.symbol for each in positions) == ["AAPL", "MSFT"]
    apple = desk.trading.get_open_position("AAPL")
    assert (apple.qty, apple.qty_available, apple.side.value) == ("10", "10", "long")
    assert apple.asset_id == desk.trading.get_asset("AAPL").id
    assert Decimal(apple.avg_entry_price) == Decimal(bought.filled_avg_price)
    assert Decimal(apple.cost_basis) == Decimal(bought.filled_avg_price) * 10
    assert Decimal(apple.market_value) == Decimal(apple.current_price) * 10
    assert Decimal(apple.unrealized_pl) == Decimal(apple.market_value) - Decimal(apple.cost_basis)
    assert abs(Decimal(apple.unrealized_plpc)) < 1
    assert desk.trading.get_open_position(apple.asset_id).symbol == "AAPL"
    with refused(404, 40410000, "position does not exist"):
        desk.trading.get_open_position("NVDA")


@step
def closes_a_position_in_parts(desk: Desk) -> None:
    desk.bought(10)
    by_qty = desk.trading.close_position("AAPL", ClosePositionRequest(qty="2"))
    assert (by_qty.side, by_qty.qty) == (SELL, "2")
    desk.in_status(by_qty, "filled")
    by_percentage = desk.trading.close_position("AAPL", ClosePositionRequest(percentage="25"))
    assert by_percentage.qty == "2"
    desk.in_status(by_percentage, "filled")
    assert desk.trading.get_open_position("AAPL").qty == "6"
    rest = desk.trading.close_position(desk.trading.get_asset("AAPL").id)
    assert rest.qty == "6"
    desk.in_status(rest, "filled")
    with refused(404, 40410000, "position"):
        desk.trading.close_position("AAPL")


@step
def closes_all_its_positions(desk: Desk) -> None:
    assert desk.trading.close_all_positions(cancel_orders=True) == []
    desk.bought(10)
    desk.bought(2, "MSFT")
    resting = desk.in_status(desk.limit(desk.far_above(), SELL, 10), "new")
    answers = desk.trading.close_all_positions(cancel_orders=True)
    assert {answer.symbol: answer.status for answer in answers} == {"AAPL": 200, "MSFT": 200}
    assert all(answer.body.side == SELL and answer.body.id == answer.order_id for answer in answers)
    eventually(lambda: desk.trading.get_all_positions() == [], "all is sold")
    assert desk.trading.get_order_by_id(resting.id).status.value == "canceled"


@step
def closing_all_says_what_it_could_not_close(desk: Desk) -> None:
    desk.bought(10)
    desk.in_status(desk.limit(desk.far_above(), SELL, 10), "new")
    answers = desk.trading.close_all_positions(cancel_orders=False)
    assert [(answer.symbol, answer.status) for answer in answers] == [("AAPL", 403)]
    assert answers[0].body.code == 40310000
