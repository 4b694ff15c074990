"""Every check before a trade: its exact sentence and figures, and what just passes it."""

import pickle
from dataclasses import replace
from datetime import timedelta
from unittest.mock import Mock

import pytest

from broker.config import Config
from broker.core import credit, risk, trading
from broker.core.account import Account, Holding
from broker.core.conditions import Conditions, DayTradingRule, Limits, Policy
from broker.core.credit import Case
from broker.core.fees import parse_fees
from broker.core.margin import PAID_IN_FULL
from broker.core.messages import MoveCash, Refusal, Refused, Step
from broker.core.money import Money
from broker.core.types import AccountType, CustomerId, Side, Symbol, TimeInForce, Trade
from broker.memory import Memory
from tests.builders import (
    AAPL,
    NOW,
    FixedControls,
    FixedMarket,
    accept,
    account,
    conditions,
    dollars,
    end,
    fill,
    order,
    settle,
    trade_id,
    working,
)

MARKET = FixedMarket({"AAPL": "100", "MSFT": "50"})
CLOSED = Policy(is_open=lambda _: False)
COMMISSION = Policy(fees=parse_fees("COMMISSION 2026-01-01 both order=1.00"))
BUY, SELL, MARGIN = Side.BUY, Side.SELL, AccountType.MARGIN


class Away(FixedMarket):
    """An exchange that does not answer."""

    def is_reachable(self, symbol: Symbol) -> bool:
        return False


class Silent(FixedMarket):
    """An exchange whose quotes have not been heard for a while."""

    def stale_s(self, symbol: Symbol) -> float | None:
        return 20.4


class Spread(FixedMarket):
    """A bid below the ask."""

    def bid(self, symbol: Symbol) -> Money | None:
        return dollars("90")


def checked(holder: Account, world: Conditions, side: Side = BUY, quantity: int = 10, **words) -> Refused | None:
    """What start has against an order, if anything; the estimate agrees with it and changes nothing."""
    command = order(holder, side, quantity, **words)
    before = pickle.dumps(holder)
    estimate = trading.estimate(holder, command, world)
    assert pickle.dumps(holder) == before
    placed = trading.place(holder, command, world)
    holder.turns.clear()  # whatever is at work, this one is looked at now
    event = placed[-1] if len(placed) > 1 else next(trading.start_next(holder, world))
    if event.refused is None:
        assert (event.step, estimate.refusals, estimate.hold) == (Step.STARTED, [], event.trade.hold)
        return None
    assert (event.step, event.status, event.reason) == (Step.ENDED, "REJECTED", event.refused.reason)
    assert estimate.refusals[0] == event.refused
    assert (event.trade.hold, holder.open_trades - len(holder.working)) == (0, 0)
    return event.refused


def limits(**figures) -> FixedControls:
    return FixedControls(Limits(**figures))


# ------------------------------------------------------------------ each check, refused and at its boundary

Situation = tuple[dict, dict, dict]  # of the account, of the world, of the order

REFUSED: dict[str, tuple[Situation, str, dict]] = {
    "stopped": (
        ({"cash": "2000"}, {"controls": FixedControls(stopped="the drill")}, {}),
        "trading stopped: the drill.",
        {},
    ),
    "stopped for sales too": (
        ({"shares": {"AAPL": 10}}, {"controls": FixedControls(stopped="the drill")}, {"side": SELL}),
        "trading stopped: the drill.",
        {},
    ),
    "suspended": (
        ({"cash": "2000"}, {"controls": FixedControls(suspended="papers are missing")}, {}),
        "account suspended: papers are missing.",
        {},
    ),
    "unlisted": (
        ({"cash": "2000"}, {}, {"symbol": "NOSUCH"}),
        "unknown symbol: the exchange does not list NOSUCH.",
        {"symbol": "NOSUCH"},
    ),
    "halted": (
        ({"shares": {"AAPL": 10}}, {"controls": FixedControls(halt_AAPL="news are pending")}, {"side": SELL}),
        "symbol halted: news are pending.",
        {"symbol": "AAPL"},
    ),
    "restricted": (
        ({"cash": "2000"}, {"controls": FixedControls(restrict_AAPL="our own bank advises it")}, {}),
        "symbol restricted: our own bank advises it.",
        {"symbol": "AAPL"},
    ),
    "away": (
        ({"cash": "2000"}, {"market": Away({"AAPL": "100"})}, {}),
        "exchange unavailable: the exchange sim, where AAPL is traded, does not answer; try again when it is back.",
        {"venue": "sim"},
    ),
    "stale": (
        ({"cash": "2000"}, {"market": Silent({"AAPL": "100"})}, {}),
        "stale quote: quotes of AAPL have not been heard for 20 s and may not hold any more; "
        "send a limit order, or try again when they are back.",
        {"symbol": "AAPL", "silent_s": 20},
    ),
    "stale, to sell": (
        ({"shares": {"AAPL": 10}}, {"market": Silent({"AAPL": "100"})}, {"side": SELL}),
        "stale quote: quotes of AAPL have not been heard for 20 s and may not hold any more; "
        "send a limit order, or try again when they are back.",
        {"symbol": "AAPL", "silent_s": 20},
    ),
    "closed": (
        ({"cash": "2000"}, {"policy": CLOSED}, {}),
        "past market hours: the market is closed, and this order cannot wait until it opens.",
        {},
    ),
    "closed for what cannot rest": (
        ({"cash": "2000"}, {"policy": CLOSED}, {"limit": "100", "time_in_force": TimeInForce.IOC}),
        "past market hours: the market is closed, and this order cannot wait until it opens.",
        {},
    ),
    "a margin call": (
        ({"cash": "-7500.01", "shares": {"AAPL": 100}, "type_": MARGIN, "credit": "9000"}, {}, {"quantity": 1}),
        "margin call: the account needs $2,500.00 of equity to maintain its positions and has $2,499.99; "
        "$0.01 are missing.",
        {"needed": "2500.00", "equity": "2499.99", "missing": "0.01"},
    ),
    "shares": (
        ({"shares": {"AAPL": 9}}, {}, {"side": SELL}),
        "insufficient shares: the trade sells 10 AAPL, 9 available.",
        {"needed": 10, "available": 9},
    ),
    "funds": (
        ({"cash": "999.99"}, {}, {}),
        "insufficient funds: the trade needs $1,000.00 = 10 x $100.00, $999.99 available.",
        {"needed": "1000.00", "price": "100.00", "available": "999.99", "quantity": 10},
    ),
    "funds with fees": (
        ({"cash": "1000.99"}, {"policy": COMMISSION}, {}),
        "insufficient funds: the trade needs $1,001.00 = 10 x $100.00 + $1.00 fees, $1,000.99 available.",
        {"needed": "1001.00", "price": "100.00", "fees": "1.00", "available": "1000.99", "quantity": 10},
    ),
    "funds without a quote": (
        ({"cash": "1"}, {"market": FixedMarket(), "policy": COMMISSION}, {}),
        "insufficient funds: the trade buys 10 AAPL, $1.00 available.",
        {"available": "1.00", "quantity": 10},
    ),
    "funds of a stop order": (
        ({"cash": "1099.99"}, {}, {"stop": "110"}),
        "insufficient funds: the trade needs $1,100.00 = 10 x $110.00, $1,099.99 available.",
        {"needed": "1100.00", "price": "110.00", "available": "1099.99", "quantity": 10},
    ),
    "funds of a stop order that is reached already": (
        ({"cash": "999.99"}, {}, {"stop": "90"}),
        "insufficient funds: the trade needs $1,000.00 = 10 x $100.00, $999.99 available.",
        {"needed": "1000.00", "price": "100.00", "available": "999.99", "quantity": 10},
    ),
    "buying power": (
        ({"cash": "10000", "type_": MARGIN, "credit": "50000"}, {}, {"quantity": 201}),
        "insufficient buying power: the trade needs $20,100.00 = 201 x $100.00, $20,000.00 available.",
        {"needed": "20100.00", "price": "100.00", "available": "20000.00", "quantity": 201},
    ),
    "no credit below $2,000": (
        ({"cash": "1999.99", "type_": MARGIN, "credit": "50000"}, {}, {"quantity": 20}),
        "insufficient buying power: the trade needs $2,000.00 = 20 x $100.00, $1,999.99 available.",
        {"needed": "2000.00", "price": "100.00", "available": "1999.99", "quantity": 20},
    ),
    "no more credit than an operator gives": (
        ({"cash": "10000", "type_": MARGIN, "credit": "500"}, {}, {"quantity": 106}),
        "insufficient buying power: the trade needs $10,600.00 = 106 x $100.00, $10,500.00 available.",
        {"needed": "10600.00", "price": "100.00", "available": "10500.00", "quantity": 106},
    ),
    "position": (
        ({"cash": "2000", "shares": {"AAPL": 5}}, {"controls": limits(position_max=14)}, {}),
        "position limit: the position would be 15 AAPL with everything ordered, the limit is 14.",
        {"position": 15, "limit": 14},
    ),
    "size": (
        ({"shares": {"AAPL": 10}}, {"controls": limits(order_quantity_max=9)}, {"side": SELL}),
        "order too large: the order has 10 shares, the limit is 9.",
        {"quantity": 10, "limit": 9},
    ),
    "value": (
        ({"cash": "2000"}, {"controls": limits(order_value_max=dollars("999.99"))}, {}),
        "order value too large: the order is worth $1,000.00 = 10 x $100.00, the limit is $999.99.",
        {"value": "1000.00", "limit": "999.99"},
    ),
    "the collar above": (
        ({"cash": "2000"}, {"controls": limits(price_away_bps=1_000)}, {"limit": "110.01"}),
        "price too far from the market: the limit is $110.01, the ask $100.00: at most $110.00 is taken.",
        {"limit_price": "110.01", "ask": "100.00", "worst": "110.00"},
    ),
    "the collar below": (
        ({"shares": {"AAPL": 10}}, {"controls": limits(price_away_bps=1_000)}, {"side": SELL, "limit": "89.99"}),
        "price too far from the market: the limit is $89.99, the bid $100.00: at least $90.00 is taken.",
        {"limit_price": "89.99", "bid": "100.00", "worst": "90.00"},
    ),
}

TAKEN: dict[str, Situation] = {
    "another symbol is halted": ({"cash": "2000"}, {"controls": FixedControls(halt_MSFT="news")}, {}),
    "a restricted symbol is sold": (
        {"shares": {"AAPL": 10}},
        {"controls": FixedControls(restrict_AAPL="ours")},
        {"side": SELL},
    ),
    "no exchange was heard yet": ({"cash": "2000"}, {"market": FixedMarket()}, {"symbol": "NOSUCH"}),
    "a limit order while quotes are stale": ({"cash": "2000"}, {"market": Silent({"AAPL": "100"})}, {"limit": "100"}),
    "a limit order waits for the opening": ({"cash": "2000"}, {"policy": CLOSED}, {"limit": "100"}),
    "a stop order too": (
        {"cash": "2000"},
        {"policy": CLOSED},
        {"stop": "110", "time_in_force": TimeInForce.GTC},
    ),
    "equity of just the maintenance, and a sale": (
        {"cash": "-7500.01", "shares": {"AAPL": 100}, "type_": MARGIN, "credit": "9000"},
        {},
        {"side": SELL},
    ),
    "all shares": ({"shares": {"AAPL": 10}}, {}, {"side": SELL}),
    "all funds": ({"cash": "1000"}, {}, {}),
    "all funds with fees": ({"cash": "1001"}, {"policy": COMMISSION}, {}),
    "something, without a quote": ({"cash": "1.0001"}, {"market": FixedMarket(), "policy": COMMISSION}, {}),
    "all funds of a stop order": ({"cash": "1100"}, {}, {"stop": "110"}),
    "a limit order is paid at its limit": ({"cash": "900"}, {}, {"limit": "90"}),
    "all buying power": ({"cash": "10000", "type_": MARGIN, "credit": "50000"}, {}, {"quantity": 200}),
    "all cash below $2,000": ({"cash": "1999.99", "type_": MARGIN, "credit": "50000"}, {}, {"quantity": 19}),
    "all credit that an operator gives": (
        {"cash": "10000", "type_": MARGIN, "credit": "500"},
        {},
        {"quantity": 105},
    ),
    "a full position": ({"cash": "2000", "shares": {"AAPL": 5}}, {"controls": limits(position_max=15)}, {}),
    "a sale at the position limit": (
        {"shares": {"AAPL": 50}},
        {"controls": limits(position_max=1)},
        {"side": SELL},
    ),
    "size": ({"cash": "2000"}, {"controls": limits(order_quantity_max=10)}, {}),
    "value": ({"cash": "2000"}, {"controls": limits(order_value_max=dollars("1000"))}, {}),
    "value is not known": (
        {"cash": "2000"},
        {"market": FixedMarket(), "controls": limits(order_value_max=Money(1))},
        {},
    ),
    "the collar above": ({"cash": "2000"}, {"controls": limits(price_away_bps=1_000)}, {"limit": "110"}),
    "the collar below": (
        {"shares": {"AAPL": 10}},
        {"controls": limits(price_away_bps=1_000)},
        {"side": SELL, "limit": "90"},
    ),
    "far on the right side": ({"cash": "2000"}, {"controls": limits(price_away_bps=0)}, {"limit": "0.01"}),
    "the collar is not known": (
        {"cash": "20000"},
        {"market": FixedMarket(), "controls": limits(price_away_bps=0)},
        {"limit": "999"},
    ),
}


@pytest.mark.parametrize(("situation", "reason", "figures"), REFUSED.values(), ids=REFUSED)
def test_it_is_refused_with_its_sentence_and_its_figures(situation: Situation, reason: str, figures: dict) -> None:
    of_account, of_world, of_order = situation
    refused = checked(account(**of_account), conditions(**{"market": MARKET, **of_world}), **of_order)
    assert refused is not None
    assert (refused.reason, dict(refused.figures)) == (reason, figures)


@pytest.mark.parametrize("situation", TAKEN.values(), ids=TAKEN)
def test_it_is_taken_at_the_boundary(situation: Situation) -> None:
    of_account, of_world, of_order = situation
    assert checked(account(**of_account), conditions(**{"market": MARKET, **of_world}), **of_order) is None


# ------------------------------------------------------------------ precedence


def test_everything_wrong_at_once_is_told_in_the_order_of_the_refusals() -> None:
    """A client reads the first; an estimate shows all."""
    switches = {"stopped": "a", "suspended": "b", "halt_AAPL": "d", "restrict_AAPL": "e"}
    strict = Limits(
        order_quantity_max=1, order_value_max=Money(1), position_max=1, price_away_bps=0, orders_per_second=0
    )
    market = Away({"MSFT": "50"})
    market.asks[AAPL] = dollars("1")
    holder = account(cash="-76", shares={"MSFT": 2}, type_=MARGIN, credit="999")
    world = conditions(market, FixedControls(strict, **switches), CLOSED)
    command = order(holder, limit="2", time_in_force=TimeInForce.IOC)
    told = [each.refusal for each in trading.estimate(holder, command, world).refusals]
    at_start = [each for each in told if each is not Refusal.TOO_MANY_ORDERS]
    assert at_start == [
        Refusal.TRADING_STOPPED,
        Refusal.ACCOUNT_SUSPENDED,
        Refusal.SYMBOL_HALTED,
        Refusal.SYMBOL_RESTRICTED,
        Refusal.EXCHANGE_UNAVAILABLE,
        Refusal.PAST_MARKET_HOURS,
        Refusal.MARGIN_CALL,
        Refusal.INSUFFICIENT_BUYING_POWER,
        Refusal.POSITION_LIMIT,
        Refusal.ORDER_TOO_LARGE,
        Refusal.ORDER_VALUE_TOO_LARGE,
        Refusal.PRICE_TOO_FAR,
    ]
    assert told[0] is Refusal.TOO_MANY_ORDERS  # looked at when an order comes in, before its turn


def test_the_checks_stand_in_the_order_in_which_refusals_are_documented() -> None:
    names = {
        risk.account_status: Refusal.ACCOUNT_SUSPENDED,
        risk.symbol_listed: Refusal.UNKNOWN_SYMBOL,
        risk.exchange_reachable: Refusal.EXCHANGE_UNAVAILABLE,
        risk.market_hours: Refusal.PAST_MARKET_HOURS,
        risk.quote_fresh: Refusal.STALE_QUOTE,
        risk.shares_available: Refusal.INSUFFICIENT_SHARES,
        risk.buying_power: Refusal.INSUFFICIENT_FUNDS,
        risk.order_size: Refusal.ORDER_TOO_LARGE,
        risk.order_value: Refusal.ORDER_VALUE_TOO_LARGE,
        risk.price_collar: Refusal.PRICE_TOO_FAR,
        risk.pattern_day_trader: Refusal.PDT_LIMIT_REACHED,
    }
    order_of = list(Refusal)
    places = [order_of.index(names.get(check) or Refusal[check.__name__.upper()]) for check in risk.AT_START]
    assert places == sorted(places)


# ------------------------------------------------------------------ conduct


def at(later_ms: int, **figures: int) -> Conditions:
    return conditions(MARKET, limits(**figures), now=NOW + timedelta(milliseconds=later_ms))


def placed(holder: Account, world: Conditions, quantity: int = 1, **words) -> str:
    return str(trading.place(holder, order(holder, BUY, quantity, **words), world)[-1].reason)


def test_orders_of_one_second_are_counted_those_that_were_refused_too() -> None:
    holder = account(cash="1")
    for later_ms in (0, 400, 800):
        assert placed(holder, at(later_ms, orders_per_second=3)) == trading.PLACED_REASON
    words = "too many orders: 3 orders in the last second, the limit is 3."
    assert placed(holder, at(999, orders_per_second=3)) == words
    assert placed(holder, at(1_000, orders_per_second=3)) == words  # 400, 800 and the refused one
    assert placed(holder, at(2_000, orders_per_second=3)) == trading.PLACED_REASON
    assert [trade.seq for trade in holder.waiting] == [1, 2, 3, 6]


def test_what_no_check_looks_back_on_any_more_leaves_the_memory() -> None:
    """The finished orders of customers who have gone quiet, however long their accounts are kept."""
    memory = Memory(Mock(), Mock(), Config())

    def orders_of(number: int, world: Conditions) -> Account:
        holder = memory.accounts.setdefault(CustomerId(number), account(cash="1"))
        holder.customer_id = CustomerId(number)
        for _ in range(3):
            placed(holder, world, limit="100", client_order_id="meant")
        memory.keep({holder.customer_id: holder})
        return holder

    holders = [orders_of(number, at(1)) for number in range(100)]
    patient = orders_of(100, at(1, duplicate_window_ms=60_000))
    assert [len(each.placed) for each in holders] == [3] * 100, "they may go on within the second"
    for number in range(200, 300):
        orders_of(number, at(1_002))
    assert not any(each.placed for each in holders)
    assert len(patient.placed) == 3
    for number in range(200, 300):
        orders_of(number, at(60_001, duplicate_window_ms=60_000))
    assert not patient.placed
    assert all(memory.accounts[number].placed for number in range(200, 300))


def test_the_same_order_within_the_window_is_refused_and_another_is_not() -> None:
    holder = account(cash="5000")
    first, window = trade_id(1), 2_000
    assert placed(holder, at(0, duplicate_window_ms=window), limit="100") == trading.PLACED_REASON
    words = f"duplicate order: the same order was placed less than 2000 ms ago, as {first}."
    assert placed(holder, at(1_999, duplicate_window_ms=window), limit="100") == words
    own_id = str(trade_id(holder.last_seq + 1))  # what an order is called that has no name: nobody meant anything by it
    assert placed(holder, at(1_999, duplicate_window_ms=window), limit="100", client_order_id=own_id) == words
    for other in ({"quantity": 2}, {"limit": "100.01"}, {"symbol": "MSFT"}, {"client_order_id": "meant"}):
        words = placed(holder, at(1_999, duplicate_window_ms=window), **{"limit": "100", **other})
        assert words == trading.PLACED_REASON
    assert placed(holder, at(4_000, duplicate_window_ms=window), limit="100") == trading.PLACED_REASON
    assert placed(holder, at(4_000), limit="100") == trading.PLACED_REASON  # no window: not looked at


@pytest.mark.parametrize(
    ("side", "resting", "new", "meets"),
    [
        (SELL, "105", {"limit": "105"}, True),
        (SELL, "105", {"limit": "104.99"}, False),
        (SELL, "100", {}, True),  # at the ask
        (SELL, "100.01", {}, False),
        (SELL, "105", {"stop": "110"}, False),  # it is not in the book yet
        (SELL, "105", {"stop": "104", "limit": "106"}, True),
        (BUY, "95", {"limit": "95"}, True),
        (BUY, "95", {"limit": "95.01"}, False),
        (BUY, "90", {}, True),  # at the bid
        (BUY, "89.99", {}, False),
    ],
)
def test_an_order_does_not_trade_with_one_of_its_own_customer(side: Side, resting: str, new: dict, meets: bool) -> None:
    market = Spread({"AAPL": "100"})
    holder = account(cash="9000", shares={"AAPL": 20})
    own = working(holder, market, side, limit=resting)
    accept(holder, own)
    refused = checked(holder, conditions(market), SELL if side is BUY else BUY, **new)
    assert (refused is not None) == meets
    if refused is not None:
        words = f"wash trade: it could trade with your own order {own.trade_id}; cancel that one first."
        assert (refused.reason, dict(refused.figures)) == (words, {"resting_order_id": str(own.trade_id)})


def test_without_a_quote_any_order_of_ones_own_could_be_met() -> None:
    holder = account(cash="9000", shares={"AAPL": 20})
    accept(holder, working(holder, MARKET, SELL, limit="149"))
    refused = checked(holder, conditions(FixedMarket()), BUY)
    assert refused is not None
    assert refused.refusal is Refusal.WASH_TRADE


def test_orders_of_the_same_side_and_of_other_symbols_may_meet() -> None:
    holder = account(cash="9000", shares={"AAPL": 20})
    accept(holder, working(holder, MARKET, SELL, limit="100"))
    assert checked(holder, conditions(MARKET), SELL) is None
    assert checked(holder, conditions(MARKET), BUY, symbol="MSFT") is None


def test_what_is_ordered_counts_as_position() -> None:
    holder = account(cash="9000", shares={"AAPL": 5})
    trade = working(holder, MARKET, limit="100")
    accept(holder, trade)
    settle(holder, trade, fill(trade, 4, "100"))
    world = conditions(MARKET, limits(position_max=20))
    assert checked(holder, world, quantity=5) is None
    refused = checked(holder, world, quantity=1)
    assert refused is not None
    assert refused.figures == {"position": 21, "limit": 20}


# ------------------------------------------------------------------ margin and day trades


def test_the_worked_example_10000_dollars_buy_15000_of_shares() -> None:
    """docs: $10,000 buys up to $20,000; $15,000 of shares leave $5,000 of it; at $66 a share there is a call."""
    market = FixedMarket({"AAPL": "150", "MSFT": "50"})
    holder = account(cash="10000", type_=MARGIN, credit="50000")
    assert credit.spending_power(holder, conditions(market)) == dollars("20000")
    trade = working(holder, market, quantity=100, limit="150")
    accept(holder, trade)
    assert credit.spending_power(holder, conditions(market)) == dollars("5000")
    settle(holder, trade, fill(trade, 100, "150", type_="FILLED"))
    assert (holder.cash.balance, credit.spending_power(holder, conditions(market))) == (
        -dollars("5000"),
        dollars("5000"),
    )
    assert credit.withdrawable(holder, conditions(market)) == 0
    market.asks[AAPL] = dollars("66")
    refused = checked(holder, conditions(market), quantity=1, symbol="MSFT")
    assert refused is not None
    words = "the account needs $1,650.00 of equity to maintain its positions and has $1,600.00; $50.00 are missing."
    assert (refused.refusal, refused.detail) == (Refusal.MARGIN_CALL, words)
    assert checked(holder, conditions(market), SELL, 100) is None


def test_a_market_order_takes_its_collar_only_from_buying_power_that_is_there() -> None:
    for quantity, hold in ((100, "10500"), (195, "20000")):
        holder = account(cash="10000", type_=MARGIN, credit="50000")
        assert working(holder, MARKET, quantity=quantity).hold == dollars(hold)


def test_a_symbol_without_loan_value_is_paid_in_full() -> None:
    world = conditions(MARKET, policy=Policy(margin_by_symbol={"AAPL": PAID_IN_FULL}))
    assert checked(account(cash="10000", type_=MARGIN, credit="50000"), world, quantity=100) is None
    refused = checked(account(cash="10000", type_=MARGIN, credit="50000"), world, quantity=101)
    assert refused is not None
    assert refused.figures["available"] == "10000.00"
    assert checked(account(cash="10000", type_=MARGIN, credit="50000"), world, quantity=200, symbol="MSFT") is None


def test_without_a_quote_there_is_no_loan() -> None:
    holder = account(cash="10000", type_=MARGIN, credit="50000")
    assert working(holder, FixedMarket()).hold == dollars("10000")


def test_an_operator_takes_no_loan_out_of_a_margin_account() -> None:
    holder = account(cash="10000", type_=MARGIN, credit="50000")
    refused = trading.move_cash(holder, MoveCash(holder.customer_id, Money(-dollars("10000.01")), "r"), conditions())
    assert isinstance(refused, Refused)
    assert (refused.refusal, refused.figures) == (
        Refusal.INSUFFICIENT_FUNDS,
        {"needed": "10000.01", "available": "10000.00"},
    )


PDT = Policy(day_trading_rule=DayTradingRule.PATTERN_DAY_TRADER)


def day_trader(equity: str, trades: int = 3) -> Account:
    """So many day trades, and a purchase today that makes the next sale one."""
    holder = account(cash=equity, shares={"AAPL": 10}, type_=MARGIN, credit="0")
    holder.cash.add(-dollars("1000"))  # the shares are worth that
    for number in range(trades):
        holder.day_trades.note(NOW.date(), Symbol("MSFT"), BUY, f"b{number}")
        holder.day_trades.note(NOW.date(), Symbol("MSFT"), SELL, f"s{number}")
    holder.day_trades.note(NOW.date(), AAPL, BUY, "b")
    return holder


def test_the_fourth_day_trade_under_25000_dollars_is_refused() -> None:
    refused = checked(day_trader("24999.99"), conditions(MARKET, policy=PDT), SELL)
    assert refused is not None
    words = (
        "3 day trades in 5 business days with those that are ordered, and the equity is $24,999.99: "
        "another one needs $25,000.00."
    )
    assert (refused.refusal, refused.detail) == (Refusal.PDT_LIMIT_REACHED, words)
    assert refused.figures == {"day_trades": 3, "equity": "24999.99", "needed": "25000.00"}


@pytest.mark.parametrize(
    ("equity", "trades", "policy", "side"),
    [
        ("25000", 3, PDT, SELL),
        ("24999.99", 2, PDT, SELL),
        ("24999.99", 3, replace(PDT, day_trading_rule=DayTradingRule.INTRADAY_MARGIN), SELL),
        ("24999.99", 3, replace(PDT, day_trading_rule=DayTradingRule.OFF), SELL),
        ("24999.99", 3, PDT, BUY),
    ],
)
def test_other_day_trades_pass(equity: str, trades: int, policy: Policy, side: Side) -> None:
    assert checked(day_trader(equity, trades), conditions(MARKET, policy=policy), side) is None


def test_a_cash_account_has_no_day_trades_to_count() -> None:
    holder = day_trader("24999.99")
    holder.account_type = AccountType.CASH
    assert checked(holder, conditions(MARKET, policy=PDT), SELL) is None


def test_the_fills_of_the_day_are_what_counts() -> None:
    holder = account(cash="20000", type_=MARGIN, credit="50000")
    for number in range(3):
        for side in (BUY, SELL):
            trade = working(holder, MARKET, side, 1, policy=PDT)
            settle(holder, trade, fill(trade, 1, "100", f"{side}{number}", "FILLED"), conditions(MARKET, policy=PDT))
    trade = working(holder, MARKET, BUY, 1, policy=PDT)
    settle(holder, trade, fill(trade, 1, "100", "last", "FILLED"), conditions(MARKET, policy=PDT))
    refused = checked(holder, conditions(MARKET, policy=PDT), SELL, 1)
    assert refused is not None
    assert refused.refusal is Refusal.PDT_LIMIT_REACHED
    tomorrow = conditions(MARKET, policy=PDT, now=NOW + timedelta(days=3))
    assert checked(holder, tomorrow, SELL, 1) is None  # a purchase of another day


# ------------------------------------------------------------------ estimates


def test_an_estimate_of_a_buy_names_cost_fees_and_what_is_left() -> None:
    holder = account(cash="5000")
    estimate = trading.estimate(holder, order(holder, limit="100"), conditions(MARKET, policy=COMMISSION))
    assert estimate == trading.Estimate(
        price=dollars("100"),
        cost=dollars("1001"),
        fees=dollars("1"),
        hold=dollars("1001"),
        buying_power=dollars("5000"),
        buying_power_after=dollars("3999"),
        refusals=[],
    )


def test_an_estimate_of_a_sale_names_what_it_brings() -> None:
    holder = account(shares={"AAPL": 10})
    estimate = trading.estimate(holder, order(holder, SELL), conditions(MARKET, policy=COMMISSION))
    assert (estimate.cost, estimate.fees, estimate.hold) == (-dollars("999"), dollars("1"), 10)
    unknown = trading.estimate(holder, order(holder, SELL), conditions(FixedMarket(), policy=COMMISSION))
    assert (unknown.price, unknown.cost, unknown.refusals) == (None, None, [])


def test_a_waiting_order_is_checked_again_on_the_account_as_it_is_then() -> None:
    holder = account(cash="2000")
    first = working(holder, MARKET)
    waiting: Trade = trading.place(holder, order(holder), conditions(MARKET))[0].trade
    settle(holder, first, fill(first, 10, "105", type_="FILLED"))
    reason = next(trading.start_next(holder, conditions(MARKET))).reason
    assert reason == "insufficient funds: the trade needs $1,000.00 = 10 x $100.00, $950.00 available."
    assert (waiting.status, holder.cash) == ("REJECTED", Holding(dollars("950")))


def test_the_next_one_starts_with_what_the_one_before_gave_back() -> None:
    holder = account(cash="1000")
    first = working(holder, MARKET)
    trading.place(holder, order(holder), conditions(MARKET))
    settle(holder, first, end(first, "CANCELLED"))
    assert next(trading.start_next(holder, conditions(MARKET))).step is Step.STARTED


def test_a_case_without_a_position_has_none_to_sell() -> None:
    holder = account()
    trade = Trade(trade_id(1), holder.customer_id, 1, AAPL, SELL, 1, NOW, "sim")
    assert Case(holder, trade, conditions(MARKET)).shares == 0


def test_the_limit_of_a_stop_limit_order_is_measured_from_its_stop() -> None:
    """A protective sale far below the market is what such an order is for."""
    holder = account(shares={"AAPL": 20})
    assert checked(holder, conditions(MARKET), Side.SELL, limit="39", stop="40") is None
    refused = checked(holder, conditions(MARKET), Side.SELL, limit="15", stop="40")
    assert refused is not None
    assert refused.detail == "the limit is $15.00, the stop $40.00: at least $20.00 is taken."
