"""The decisions, one at a time: what a command or a report does to an account."""

import pytest

from broker.core import settlement, trading
from broker.core.account import Holding
from broker.core.messages import Anomaly, CashMoved, MoveCash, Refusal, Repeat
from broker.core.money import Money
from broker.core.types import CustomerId, Side, Symbol
from tests.builders import AAPL, FixedMarket, account, conditions, dollars, end, fill, order, place, settle, working

MARKET = FixedMarket({"AAPL": "190.20"})


def started(holder, market=MARKET):
    return [(str(event.status), event.reason) for event in trading.start_next(holder, conditions(market))]


def test_a_buy_reserves_the_ask_and_a_collar() -> None:
    holder = account(cash="100000")
    trade = place(holder, quantity=10)
    assert started(holder) == [("IN PROGRESS", "Sent to the exchange, with $1,997.10 reserved.")]
    assert (trade.hold, holder.cash) == (dollars("1997.10"), Holding(dollars("100000"), dollars("1997.10")))


def test_a_buy_reserves_at_most_all_that_is_there() -> None:
    holder = account(cash="1902.00")
    trade = place(holder, quantity=10)
    assert started(holder)[0][0] == "IN PROGRESS"
    assert trade.hold == dollars("1902.00")


def test_a_buy_beyond_the_cash_is_refused_with_the_figures() -> None:
    holder = account(cash="1901.99")
    place(holder, quantity=10)
    reason = "insufficient funds: the trade needs $1,902.00 = 10 x $190.20, $1,901.99 available."
    assert started(holder) == [("REJECTED", reason)]
    assert holder.cash == Holding(dollars("1901.99"), 0)


def test_without_a_quote_a_buy_reserves_all_that_is_there() -> None:
    holder = account(cash="50")
    trade = place(holder, quantity=10)
    assert started(holder, FixedMarket())[0][0] == "IN PROGRESS"
    assert trade.hold == dollars("50")


def test_without_a_quote_and_without_cash_a_buy_is_refused() -> None:
    holder = account(cash="0")
    place(holder)
    assert started(holder, FixedMarket()) == [
        ("REJECTED", "insufficient funds: the trade buys 10 AAPL, $0.00 available.")
    ]


def test_an_unlisted_symbol_is_refused() -> None:
    holder = account(cash="100000")
    place(holder, symbol="NOSUCH")
    assert started(holder) == [("REJECTED", "unknown symbol: the exchange does not list NOSUCH.")]


def test_a_sell_reserves_its_shares() -> None:
    holder = account(shares={"AAPL": 10})
    place(holder, Side.SELL, quantity=7)
    assert started(holder) == [("IN PROGRESS", "Sent to the exchange, with 7 AAPL reserved.")]
    assert holder.positions[AAPL] == Holding(10, 7)


@pytest.mark.parametrize("shares", [{}, {"AAPL": 9}])
def test_a_sell_beyond_the_shares_is_refused(shares: dict[str, int]) -> None:
    holder = account(shares=shares)
    place(holder, Side.SELL, quantity=10)
    available = shares.get("AAPL", 0)
    assert started(holder) == [("REJECTED", f"insufficient shares: the trade sells 10 AAPL, {available} available.")]


def test_the_next_trade_starts_when_the_one_before_has_ended() -> None:
    holder = account(cash="100000")
    first, second, third = (place(holder, quantity=quantity) for quantity in (1, 999_999, 2))
    assert [status for status, _ in started(holder)] == ["IN PROGRESS"]
    assert started(holder) == []
    settlement.settle(holder, first, fill(first, 1, "190"), conditions())
    assert [status for status, _ in started(holder)] == ["REJECTED", "IN PROGRESS"]
    assert (second.status, third.status) == ("REJECTED", "IN PROGRESS")


class TwoExchanges(FixedMarket):
    """MSFT has one of its own, which may be away."""

    is_away = False

    def is_reachable(self, symbol: Symbol) -> bool:
        """Whether it answers."""
        return symbol == AAPL or not self.is_away


def test_a_trade_waits_for_one_before_it_at_its_own_exchange_whatever_has_begun_elsewhere() -> None:
    """While that was away another one began at the other exchange, and ended: the first is still at work."""
    market = TwoExchanges({"AAPL": "100", "MSFT": "100"})
    world, holder = conditions(market), account(cash="100000")

    def place_and_start(symbol: str) -> list[str]:
        trading.place(holder, order(holder, Side.BUY, 1, symbol=symbol), world)
        return [event.trade.symbol for event in trading.start_next(holder, world)]

    assert place_and_start("MSFT") == ["MSFT"]
    market.is_away = True
    assert place_and_start("AAPL") == ["AAPL"]
    settle(holder, elsewhere := [*holder.working.values()][-1], end(elsewhere, "CANCELLED"))
    market.is_away = False
    assert place_and_start("MSFT") == []
    settle(holder, first := next(iter(holder.working.values())), end(first, "CANCELLED"))
    assert [event.trade.symbol for event in trading.start_next(holder, world)] == ["MSFT"]


def test_a_fill_takes_its_cost_and_gives_the_rest_of_the_hold_back() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    assert settle(holder, trade, fill(trade, 10, "190.20")) == ("FILLED", "Filled 10 AAPL at $190.20 on average.")
    assert holder.cash == Holding(dollars("98098"), 0)
    assert holder.positions[AAPL] == Holding(10, 0, cost=dollars("1902"))
    assert holder.open_trades == 0


def test_partial_fills_add_up_in_any_order() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    last = fill(trade, 7, "190.00", "e2", "FILLED")
    words = "Filled 7 of 10 AAPL so far, at $190.00 on average."
    assert settle(holder, trade, last) == ("PARTIALLY FILLED", words)
    assert holder.cash == Holding(dollars("98670"), dollars("667.10"))
    assert settle(holder, trade, fill(trade, 3, "191.00", "e1")) == (
        "FILLED",
        "Filled 10 AAPL at $190.30 on average.",
    )
    assert holder.cash == Holding(dollars("98097"), 0)


def test_a_sell_in_parts_moves_shares_and_cash() -> None:
    holder = account(shares={"AAPL": 10})
    trade = working(holder, MARKET, Side.SELL, 10)
    settle(holder, trade, fill(trade, 4, "190.00", "e1"))
    assert (holder.cash, holder.positions[AAPL]) == (Holding(dollars("760"), 0), Holding(6, 6, gain=dollars("760")))
    settle(holder, trade, end(trade, "CANCELLED", "no more buyers", filled=4))
    assert (trade.status, trade.reason) == ("CANCELLED", "no more buyers")
    assert holder.positions[AAPL] == Holding(6, 0, gain=dollars("760"))


def test_a_repeated_execution_changes_nothing() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    report = fill(trade, 4, "190.00")
    settle(holder, trade, report)
    before = (holder.cash.balance, holder.cash.held, trade.hold, trade.events)
    assert settle(holder, trade, report) is Repeat.NOTHING_NEW
    assert (holder.cash.balance, holder.cash.held, trade.hold, trade.events) == before


@pytest.mark.parametrize(
    ("quantity", "price", "execution_id", "anomaly"),
    [
        (4, "190.01", "e1", Anomaly.CONTRADICTS_EXECUTION),
        (5, "190.00", "e1", Anomaly.CONTRADICTS_EXECUTION),
    ],
)
def test_what_cannot_be_true_changes_nothing(quantity, price, execution_id, anomaly) -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "190.00", "e1"))
    before = (holder.cash.balance, holder.cash.held, trade.hold, trade.filled_quantity)
    assert settle(holder, trade, fill(trade, quantity, price, execution_id)) is anomaly
    assert (holder.cash.balance, holder.cash.held, trade.hold, trade.filled_quantity) == before


def test_a_fill_after_the_end_is_an_anomaly_and_a_second_end_is_not() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    assert settle(holder, trade, end(trade, "REJECTED", "random error")) == ("REJECTED", "random error")
    assert settle(holder, trade, fill(trade, 1, "190"))[0] is Anomaly.FILL_AFTER_END
    assert settle(holder, trade, end(trade, "CANCELLED")) is Repeat.NOTHING_NEW
    assert holder.cash == Holding(dollars("100000"), 0)


def test_a_word_about_a_trade_that_was_never_sent_is_an_anomaly() -> None:
    holder = account(cash="100000")
    trade = place(holder)
    assert settle(holder, trade, fill(trade, 1, "190")) is Anomaly.NEVER_SENT


def test_a_rejection_after_a_partial_fill_cancels_the_rest() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    settle(holder, trade, fill(trade, 4, "190.00"))
    assert settle(holder, trade, end(trade, "REJECTED", "random error", filled=4)) == ("CANCELLED", "random error")
    assert holder.cash == Holding(dollars("99240"), 0)


def test_an_end_that_counts_unseen_executions_waits_for_them() -> None:
    holder = account(cash="100000")
    trade = working(holder, MARKET)
    assert settle(holder, trade, end(trade, "CANCELLED", filled=3)) is Repeat.MORE_TO_COME
    assert trade.status == "IN PROGRESS"


def test_max_price_exceeded_is_a_lack_of_funds_only_when_all_was_reserved() -> None:
    for cash, cause in (("1902.00", "insufficient funds: "), ("100000", "max price exceeded: ")):
        holder = account(cash=cash)
        trade = working(holder, MARKET)
        settle(holder, trade, end(trade, "REJECTED", "max price exceeded"))
        assert trade.reason.startswith(cause), trade.reason


def test_an_operator_takes_only_what_is_available() -> None:
    holder = account(cash="2000")
    working(holder, MARKET)  # reserves $1,997.10
    too_much = MoveCash(CustomerId(1001), Money(-dollars("2.91")), "r1")
    assert trading.move_cash(holder, too_much, conditions()).refusal is Refusal.INSUFFICIENT_FUNDS
    exactly = MoveCash(CustomerId(1001), Money(-dollars("2.90")), "r2")
    assert trading.move_cash(holder, exactly, conditions()) == CashMoved(CustomerId(1001), Money(-29_000), "r2")
    assert holder.cash.available == 0
