"""The tape keeps the newest quotes and trades of each listed symbol, within bounds."""

from datetime import timedelta

from broker.config import Config
from broker.core.bars import Bar
from broker.core.money import Money
from broker.core.types import Symbol
from broker.market.quotes import Print, Quote
from broker.market.tape import Tape, Traded
from tests.builders import AAPL, NOW, dollars

MSFT = Symbol("MSFT")


def quote(number: int) -> Quote:
    return Quote(dollars("99.90"), dollars("100.00"), dollars("99.95"), number, 1, NOW + timedelta(seconds=number))


def trade(number: int, symbol: Symbol = AAPL) -> Print:
    return Print(symbol, dollars("100.00"), number, NOW + timedelta(seconds=number))


def tape(symbols: tuple[Symbol, ...] = (AAPL, MSFT), **settings: int) -> Tape:
    made = Tape(Config(**settings))
    made.list_symbols(symbols)
    return made


def test_each_symbol_keeps_its_share_of_the_newest() -> None:
    kept = tape(tape_quotes_max=40, tape_trades_max=30)
    for number in range(50):
        kept.add_quotes([AAPL, MSFT], {AAPL: quote(number), MSFT: quote(number)})
        kept.add_trade(trade(number), number)
    assert [each.bid_size for each in kept.quotes(AAPL)] == list(range(30, 50))
    assert len(kept.quotes(MSFT)) == 20
    assert [each.number for each in kept.trades(AAPL)] == list(range(35, 50))
    assert kept.trades(MSFT) == []


def test_however_many_are_listed_each_keeps_some() -> None:
    symbols = tuple(Symbol(f"A{number}") for number in range(100))
    kept = tape(symbols, tape_quotes_max=100)
    for number in range(50):
        kept.add_quotes(symbols, dict.fromkeys(symbols, quote(number)))
    assert {len(kept.quotes(symbol)) for symbol in symbols} == {10}


def test_what_is_quoted_is_kept_itself_and_not_copied() -> None:
    kept, one = tape(), quote(1)
    kept.add_quotes([AAPL], {AAPL: one, MSFT: quote(2)})
    assert kept.quotes(AAPL)[0] is one
    assert kept.quotes(MSFT) == []


def test_what_is_listed_anew_keeps_what_there_was() -> None:
    kept = tape()
    kept.add_quotes([AAPL], {AAPL: quote(1)})
    kept.add_trade(trade(1), 1)
    kept.close_minute(AAPL, bar(5))
    kept.list_symbols([AAPL])
    assert (kept.quotes(AAPL), kept.trades(AAPL), kept.minute(AAPL)) == ([quote(1)], [Traded(1, trade(1))], bar(5))
    kept.list_symbols([MSFT])
    assert (kept.quotes(AAPL), kept.trades(AAPL), kept.minute(AAPL), kept.last_trade(AAPL)) == ([], [], None, None)


def test_what_came_late_stands_at_its_time_and_the_last_trade_is_the_one_that_came_last() -> None:
    kept = tape()
    for number in (1, 3, 2):
        kept.add_trade(trade(number), number)
    assert [each.number for each in kept.trades(AAPL)] == [1, 2, 3]
    assert kept.last_trade(AAPL) == Traded(2, trade(2))


def test_a_minute_that_goes_on_changing_is_kept_as_it_was() -> None:
    kept, minute = tape(), bar(5)
    kept.close_minute(AAPL, minute)
    minute.add(Money(1), 1)
    assert kept.minute(AAPL) == bar(5)


def bar(quantity: int) -> Bar:
    return Bar.of(NOW, dollars("100.00"), quantity)
