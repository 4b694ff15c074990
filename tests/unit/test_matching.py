"""The order book: orders in, and the whole list of events out."""

import pytest

from broker.core.matching import (
    Accepted,
    Cancelled,
    Event,
    Expired,
    Order,
    OrderBook,
    Rejected,
    Replaced,
    TimeInForce,
    Traded,
    Triggered,
    Why,
)
from broker.core.money import Money
from broker.core.types import Side

BUY, SELL = Side.BUY, Side.SELL


def order(id_: str, side: Side, quantity: int, price: int | None = None, **fields: object) -> Order:
    """An order; its owner is its id unless the test is about owners."""
    named = {"owner": id_, "price": price} | fields
    return Order(order_id=id_, side=side, quantity=quantity, **named)  # type: ignore[arg-type]


def book(*resting: Order) -> OrderBook:
    made = OrderBook()
    for each in resting:
        assert made.enter(each) == [Accepted(each.order_id)]
    return made


def traded(taker: str, maker: str, quantity: int, price: int) -> Event:
    return Traded(taker, maker, quantity, Money(price))


def test_an_order_that_meets_nobody_rests() -> None:
    here = book(order("b1", BUY, 10, 100), order("b2", BUY, 5, 101), order("s1", SELL, 7, 103))
    assert list(here.depth(BUY)) == [(101, 5), (100, 10)]
    assert here.best(SELL) == (103, 7)
    assert here.last is None


def test_the_best_price_trades_first_then_who_came_first_at_the_resting_price() -> None:
    here = book(order("s1", SELL, 5, 102), order("s2", SELL, 5, 101), order("s3", SELL, 5, 101))
    assert here.enter(order("b", BUY, 12, 102)) == [
        Accepted("b"),
        traded("b", "s2", 5, 101),
        traded("b", "s3", 5, 101),
        traded("b", "s1", 2, 102),
    ]
    assert list(here.depth(SELL)) == [(102, 3)]
    assert here.last == 102


def test_what_is_left_of_a_limit_order_rests() -> None:
    here = book(order("s", SELL, 5, 101))
    assert here.enter(order("b", BUY, 8, 101)) == [Accepted("b"), traded("b", "s", 5, 101)]
    assert list(here.depth(BUY)) == [(101, 3)]
    assert here.open_orders == ["b"]


def test_a_market_order_takes_what_there_is() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 500))
    assert here.enter(order("b", BUY, 12)) == [
        Accepted("b"),
        traded("b", "s1", 5, 101),
        traded("b", "s2", 5, 500),
        Cancelled("b", 2, Why.NO_LIQUIDITY),
    ]
    assert here.open_orders == []


def test_immediate_or_cancel_never_rests() -> None:
    here = book(order("b1", BUY, 5, 101))
    assert here.enter(order("s", SELL, 8, 100, time_in_force=TimeInForce.IOC)) == [
        Accepted("s"),
        traded("s", "b1", 5, 101),
        Cancelled("s", 3, Why.IMMEDIATE),
    ]


@pytest.mark.parametrize(
    ("quantity", "price", "trades"), [(8, 102, True), (8, 101, False), (11, 102, False), (10, None, True)]
)
def test_fill_or_kill_is_all_or_nothing(quantity: int, price: int | None, trades: bool) -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 102))
    events = here.enter(order("b", BUY, quantity, price, time_in_force=TimeInForce.FOK))
    if trades:
        assert events[1:] == [traded("b", "s1", 5, 101), traded("b", "s2", quantity - 5, 102)]
    else:
        assert events == [Accepted("b"), Cancelled("b", quantity, Why.ALL_OR_NOTHING)]
        assert list(here.depth(SELL)) == [(101, 5), (102, 5)]


def test_a_cancelled_order_is_out() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101))
    assert here.cancel("s1") == [Cancelled("s1", 5, Why.ASKED)]
    assert here.cancel("s1") == [Rejected("s1", Why.UNKNOWN)]
    assert here.enter(order("b", BUY, 7, 101)) == [Accepted("b"), traded("b", "s2", 5, 101)]


def test_thousands_of_cancels_leave_nothing_behind() -> None:
    here = book(order("first", SELL, 1, 101))
    for number in range(5000):
        here.enter(order(f"s{number}", SELL, 1, 101))
        here.cancel(f"s{number}")
    assert list(here.depth(SELL)) == [(101, 1)]
    assert len(here._asks.levels[-101]) < 100


def test_those_who_stay_trade_in_turn_among_thousands_that_were_cancelled() -> None:
    here = OrderBook()
    for number in range(3000):
        here.enter(order(f"s{number}", SELL, 2, 101))
    for number in range(3000):
        if number % 7:
            assert here.cancel(f"s{number}") == [Cancelled(f"s{number}", 2, Why.ASKED)]
    stay = [f"s{number}" for number in range(0, 3000, 7)]
    assert here.open_orders == stay
    assert here.enter(order("b", BUY, 2 * len(stay) + 1, 101)) == [
        Accepted("b"),
        *(traded("b", id_, 2, 101) for id_ in stay),
    ]
    assert list(here.depth(BUY)) == [(101, 1)]
    assert here.best(SELL) is None


def test_any_of_many_stops_is_cancelled_and_the_others_keep_their_turns() -> None:
    here = book(order("b1", BUY, 1, 100), order("b2", BUY, 100, 90))
    for number in range(12):
        here.enter(order(f"stop{number}", SELL, 1, stop_price=98 + number % 3))
    for number in (0, 4, 7, 11):
        assert here.cancel(f"stop{number}") == [Cancelled(f"stop{number}", 1, Why.ASKED)]
    events = here.enter(order("s", SELL, 2, 90))
    turns = [event.order_id for event in events if isinstance(event, Triggered)]
    assert turns == ["stop2", "stop5", "stop8", "stop1", "stop10", "stop3", "stop6", "stop9"]


def test_a_replacement_that_takes_away_keeps_its_place_and_any_other_does_not() -> None:
    for quantity, price, kept in ((3, None, True), (3, 101, True), (8, None, False), (3, 102, False)):
        here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101))
        assert here.replace("s1", quantity, price) == [Replaced("s1", kept_place=kept)]
        first = here.enter(order("b", BUY, 1, 101))[1]
        assert first == traded("b", "s1" if kept else "s2", 1, 101)


def test_a_replacement_counts_what_is_filled_and_may_trade_at_once() -> None:
    here = book(order("s", SELL, 10, 105), order("b", BUY, 4, 104))
    here.enter(order("x", BUY, 4, 105))
    assert here.replace("s", 4) == [Rejected("s", Why.INVALID)]
    assert here.replace("s", 9, Money(104)) == [Replaced("s", kept_place=False), traded("s", "b", 4, 104)]
    assert list(here.depth(SELL)) == [(104, 1)]
    assert here.replace("nobody", 5) == [Rejected("nobody", Why.UNKNOWN)]


def test_a_smaller_order_keeps_its_place_under_its_new_name() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101))
    assert here.replace("s1", 3, new_id="n1") == [Replaced("s1", kept_place=True)]
    assert list(here.depth(SELL)) == [(101, 8)]
    assert sorted(here.open_orders) == ["n1", "s2"]
    assert here.enter(order("b", BUY, 4, 101)) == [
        Accepted("b"),
        traded("b", "n1", 3, 101),
        traded("b", "s2", 1, 101),
    ]
    assert here.open_orders == ["s2"]


def test_a_new_name_alone_changes_nothing_else() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101))
    assert here.replace("s1", 5, new_id="n1") == [Replaced("s1", kept_place=True)]
    assert here.enter(order("b", BUY, 7, 101)) == [
        Accepted("b"),
        traded("b", "n1", 5, 101),
        traded("b", "s2", 2, 101),
    ]


@pytest.mark.parametrize(("quantity", "price"), [(5, 102), (6, 101)])
def test_another_price_or_more_goes_to_the_end_under_the_new_name(quantity: int, price: int) -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 102), order("s3", SELL, 5, 101))
    assert here.replace("s1", quantity, Money(price), new_id="n1") == [Replaced("s1", kept_place=False)]
    first, *rest = here.enter(order("b", BUY, 10 + quantity, 102))
    assert first == Accepted("b")
    assert rest == (
        [traded("b", "s3", 5, 101), traded("b", "s2", 5, 102), traded("b", "n1", 5, 102)]
        if price == 102
        else [traded("b", "s3", 5, 101), traded("b", "n1", 6, 101), traded("b", "s2", 5, 102)]
    )
    assert here.open_orders == []


def test_what_a_replacement_trades_it_trades_under_the_new_name() -> None:
    here = book(order("s", SELL, 10, 105), order("b", BUY, 4, 104))
    here.enter(order("x", BUY, 4, 105))
    assert here.replace("s", 9, Money(104), new_id="n") == [
        Replaced("s", kept_place=False),
        traded("n", "b", 4, 104),
    ]
    assert here.enter(order("y", BUY, 1, 104)) == [Accepted("y"), traded("y", "n", 1, 104)]
    assert here.open_orders == []


def test_after_a_replacement_only_the_new_name_is_known() -> None:
    for price in (None, Money(102)):
        here = book(order("s", SELL, 5, 101))
        here.replace("s", 4, price, new_id="n")
        assert here.cancel("s") == [Rejected("s", Why.UNKNOWN)]
        assert here.replace("s", 3) == [Rejected("s", Why.UNKNOWN)]
        assert here.replace("n", 3, new_id="m") == [Replaced("n", kept_place=True)]
        assert here.cancel("n") == [Rejected("n", Why.UNKNOWN)]
        assert here.enter(order("s", SELL, 1, 103)) == [Accepted("s")]
        assert here.enter(order("m", SELL, 1, 103)) == [Rejected("m", Why.DUPLICATE)]
        assert here.cancel("m") == [Cancelled("m", 3, Why.ASKED)]
        assert here.open_orders == ["s"]


def test_a_name_that_is_taken_is_no_new_name() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101))
    here.enter(order("stop", BUY, 1, stop_price=110))
    for taken in ("s1", "s2", "stop"):
        assert here.replace("s1", 3, new_id=taken) == [Rejected("s1", Why.DUPLICATE)]
        assert here.replace("s1", 0, new_id=taken) == [Rejected("s1", Why.DUPLICATE)]
    assert here.replace("nobody", 3, new_id="s1") == [Rejected("nobody", Why.UNKNOWN)]
    assert here.replace("s1", 0, new_id="n1") == [Rejected("s1", Why.INVALID)]
    assert here.open_orders == ["s1", "s2", "stop"]
    assert list(here.depth(SELL)) == [(101, 10)]


def test_an_empty_name_is_a_name() -> None:
    for price in (None, Money(102)):
        here = book(order("s", SELL, 5, 101))
        here.replace("s", 4, price, new_id="")
        assert here.open_orders == [""]


def test_a_waiting_stop_is_renamed_where_it_waits() -> None:
    here = book(order("b1", BUY, 1, 100), order("b2", BUY, 9, 99))
    here.enter(order("stop1", SELL, 4, stop_price=100))
    here.enter(order("stop2", SELL, 1, stop_price=100))
    assert here.replace("stop1", 2, new_id="n1") == [Replaced("stop1", kept_place=True)]
    assert here.cancel("stop1") == [Rejected("stop1", Why.UNKNOWN)]
    assert here.enter(order("s", SELL, 1, 100)) == [
        Accepted("s"),
        traded("s", "b1", 1, 100),
        Triggered("n1"),
        traded("n1", "b2", 2, 99),
        Triggered("stop2"),
        traded("stop2", "b2", 1, 99),
    ]


def test_a_waiting_stop_that_moves_takes_its_new_name_along() -> None:
    here = book(order("b1", BUY, 1, 100), order("b2", BUY, 9, 99))
    here.enter(order("stop1", SELL, 1, stop_price=100))
    here.enter(order("stop2", SELL, 1, stop_price=99))
    assert here.replace("stop1", 1, stop_price=Money(99), new_id="n1") == [Replaced("stop1", kept_place=False)]
    assert here.enter(order("s", SELL, 2, 99)) == [
        Accepted("s"),
        traded("s", "b1", 1, 100),
        traded("s", "b2", 1, 99),
        Triggered("stop2"),
        traded("stop2", "b2", 1, 99),
        Triggered("n1"),
        traded("n1", "b2", 1, 99),
    ]


def test_a_stop_that_moves_to_where_trades_were_enters_under_its_new_name() -> None:
    here = book(order("b1", BUY, 1, 100), order("b2", BUY, 9, 99))
    here.enter(order("stop", SELL, 3, stop_price=95))
    here.enter(order("s", SELL, 1, 100))
    assert here.replace("stop", 2, stop_price=Money(100), new_id="n") == [
        Replaced("stop", kept_place=False),
        Triggered("n"),
        traded("n", "b2", 2, 99),
    ]


@pytest.mark.parametrize("stop_price", [None, 105])
def test_a_renamed_stop_is_cancelled_by_its_new_name(stop_price: int | None) -> None:
    here = book(order("s1", SELL, 5, 101))
    here.enter(order("stop", BUY, 4, stop_price=110))
    here.replace("stop", 3, stop_price=None if stop_price is None else Money(stop_price), new_id="n")
    assert here.replace("n", 2, new_id="m") == [Replaced("n", kept_place=True)]
    assert here.cancel("m") == [Cancelled("m", 2, Why.ASKED)]
    assert here.open_orders == ["s1"]
    assert here.enter(order("b", BUY, 5, 101)) == [Accepted("b"), traded("b", "s1", 5, 101)]


def test_a_session_ends_for_renamed_orders_by_their_new_names() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 101), order("s3", SELL, 5, 101))
    here.enter(order("stop", BUY, 4, stop_price=110))
    here.replace("s2", 3, new_id="n2")
    here.replace("stop", 3, new_id="n")
    here.replace("s1", 2)
    # Who got a new name counts as new.
    assert here.end_session() == [Expired("s1", 2), Expired("s3", 5), Expired("n2", 3), Expired("n", 3)]
    assert here.open_orders == []
    assert here.best(SELL) is None


def test_nobody_trades_with_himself() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 102, owner="me"), order("s3", SELL, 5, 103))
    assert here.enter(order("b", BUY, 12, 103, owner="me")) == [
        Accepted("b"),
        traded("b", "s1", 5, 101),
        Cancelled("b", 7, Why.SELF_TRADE),
    ]
    assert here.enter(order("fok", BUY, 6, 103, owner="me", time_in_force=TimeInForce.FOK)) == [
        Accepted("fok"),
        Cancelled("fok", 6, Why.ALL_OR_NOTHING),
    ]


def test_a_stop_waits_for_a_trade_at_its_price() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 103), order("s3", SELL, 5, 104))
    assert here.enter(order("stop", BUY, 4, stop_price=103)) == [Accepted("stop")]
    assert here.enter(order("b1", BUY, 5, 101)) == [Accepted("b1"), traded("b1", "s1", 5, 101)]
    assert here.enter(order("b2", BUY, 3, 103)) == [
        Accepted("b2"),
        traded("b2", "s2", 3, 103),
        Triggered("stop"),
        traded("stop", "s2", 2, 103),
        traded("stop", "s3", 2, 104),
    ]


def test_a_stop_limit_rests_at_its_limit_when_triggered() -> None:
    here = book(order("b1", BUY, 5, 99), order("b2", BUY, 5, 95))
    here.enter(order("stop", SELL, 4, 98, stop_price=99))
    assert here.enter(order("s", SELL, 5, 99)) == [Accepted("s"), traded("s", "b1", 5, 99), Triggered("stop")]
    assert here.best(SELL) == (98, 4)


def test_a_stop_that_is_reached_already_enters_at_once() -> None:
    here = book(order("s1", SELL, 5, 101), order("s2", SELL, 5, 102))
    here.enter(order("b", BUY, 5, 101))
    assert here.enter(order("stop", BUY, 2, stop_price=100)) == [
        Accepted("stop"),
        Triggered("stop"),
        traded("stop", "s2", 2, 102),
    ]


def test_stops_enter_nearest_first_then_oldest_and_a_trigger_holds() -> None:
    here = book(order("b1", BUY, 1, 100), order("b2", BUY, 1, 97), order("b3", BUY, 1, 96), order("b4", BUY, 1, 95))
    for id_, stop in (("far", 98), ("near", 99), ("near2", 99)):
        here.enter(order(id_, SELL, 1, stop_price=stop))
    # One order trades at 100 and 97: that reaches all three, whatever the later trades do.
    assert here.enter(order("s", SELL, 2, 97)) == [
        Accepted("s"),
        traded("s", "b1", 1, 100),
        traded("s", "b2", 1, 97),
        Triggered("near"),
        traded("near", "b3", 1, 96),
        Triggered("near2"),
        traded("near2", "b4", 1, 95),
        Triggered("far"),
        Cancelled("far", 1, Why.NO_LIQUIDITY),
    ]


def test_stops_are_cancelled_replaced_and_expire_like_others() -> None:
    here = book(order("s1", SELL, 5, 101), order("rest", BUY, 1, 90, time_in_force=TimeInForce.GTC))
    here.enter(order("stop", BUY, 4, stop_price=110))
    assert here.replace("stop", 3) == [Replaced("stop", kept_place=True)]
    assert here.replace("stop", 3, stop_price=Money(105)) == [Replaced("stop", kept_place=False)]
    assert here.end_session() == [Expired("s1", 5), Expired("stop", 3)]
    assert here.open_orders == ["rest"]
    assert here.cancel("stop") == [Rejected("stop", Why.UNKNOWN)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"order_id": "s"}, Why.DUPLICATE),
        ({"quantity": 0}, Why.INVALID),
        ({"price": 0}, Why.INVALID),
        ({"stop_price": -1}, Why.INVALID),
    ],
)
def test_what_cannot_be_an_order_is_rejected_and_changes_nothing(changes: dict[str, object], why: Why) -> None:
    here = book(order("s", SELL, 5, 101))
    new = order("b", BUY, 5, 101)
    for name, value in changes.items():
        setattr(new, name, value)
    assert here.enter(new) == [Rejected(new.order_id, why)]
    assert list(here.depth(SELL)) == [(101, 5)]
