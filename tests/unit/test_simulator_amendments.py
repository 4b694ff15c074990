"""An operator takes executions back, and puts others in their place."""

import pytest

from broker.core.money import parse_money
from broker.core.types import Side
from broker.simulator.amendments import Refusal
from broker.simulator.outcome import Outcome
from broker.simulator.wire import Amendment, Event
from tests.simulated import Bench, buy, event, filled, in_place_of, limit, order_id, told


def busted(n: int, number: int, quantity: int, price: str, total: int) -> Event:
    figures = {"execution_id": f"{order_id(n)}-{number}", "quantity": quantity, "price": price}
    return event(Amendment.BUSTED, n, **figures, filled_quantity=total, reason="erroneous trade")


def corrected(n: int, number: int, quantity: int, price: str, total: int, corrects: int) -> Event:
    figures = {"execution_id": f"{order_id(n)}-{number}", "quantity": quantity, "price": price}
    old = f"{order_id(n)}-{corrects}"
    return event(Amendment.CORRECTED, n, **figures, filled_quantity=total, corrects=old)


def bust(bench: Bench, n: int, number: int) -> Outcome | Refusal:
    return bench.exchange.bust(f"{order_id(n)}-{number}", "erroneous trade", bench.at)


def correct(bench: Bench, n: int, number: int, quantity: int | None = None, price: str | None = None):
    money = None if price is None else parse_money(price)
    return bench.exchange.correct(f"{order_id(n)}-{number}", quantity, money, bench.at)


def events(outcome: Outcome | Refusal) -> list[Event]:
    assert isinstance(outcome, Outcome), outcome
    return told(outcome)


def test_a_bust_takes_an_execution_back_and_does_not_open_the_order_again():
    bench = Bench()
    bench.accept(buy())
    assert events(bust(bench, 1, 1)) == [busted(1, 1, 10, "190.20", total=10)]
    state = bench.state()
    assert (state["status"], state["filled_quantity"]) == ("FILLED", 10)
    assert [execution["busted"] for execution in state["executions"]] == [True]
    assert bust(bench, 1, 1) is Refusal.BUSTED
    assert correct(bench, 1, 1, 5) is Refusal.BUSTED


def test_a_correction_stands_in_the_place_of_an_execution():
    bench = Bench()
    bench.accept(buy())
    assert events(correct(bench, 1, 1, price="190.10")) == [corrected(1, 2, 10, "190.10", 10, corrects=1)]
    assert events(correct(bench, 1, 2, quantity=9)) == [corrected(1, 3, 9, "190.10", 10, corrects=2)]
    assert bench.state()["filled_quantity"] == 10
    assert [
        (each["execution_id"][-1], each["quantity"], each["busted"], each["corrects"])
        for each in bench.state()["executions"]
    ] == [("1", 10, True, None), ("2", 10, True, f"{order_id()}-1"), ("3", 9, False, f"{order_id()}-2")]
    assert events(bust(bench, 1, 3)) == [busted(1, 3, 9, "190.10", total=10)]


def test_executions_go_on_being_numbered_after_a_correction():
    bench = Bench()
    bench.accept(limit(1, Side.SELL, "190.19"), buy(2, quantity=4))
    correct(bench, 1, 1, 3)
    assert bench.events(buy(3, quantity=6))[1] == filled(1, 6, "190.19", number=3, total=10)
    assert correct(bench, 1, 2, 5) is Refusal.TOO_MANY
    assert events(correct(bench, 1, 2, 4)) == [corrected(1, 4, 4, "190.19", 10, corrects=2)]


def test_an_open_order_trades_on_after_a_bust():
    bench = Bench()
    bench.accept(limit(1, Side.SELL, "190.19"), buy(2, quantity=4))
    bust(bench, 1, 1)
    again, _ = bench.recovered()
    assert again.state(1) == bench.state(1)
    again.accept(limit(3, Side.SELL, "190.19", quantity=5, replaces=in_place_of(1, 4)))
    assert again.events(buy(4, quantity=5, max_price="1000.00")) == [filled(4, 5, "190.19"), filled(3, 5, "190.19")]


@pytest.mark.parametrize(
    "execution_id",
    [
        *("", "-", "x-1", order_id(), f"{order_id(2)}-1"),
        *(f"{order_id()}-{number}" for number in ("0", "2", "01", "-1", "1" * 5_000, "\u00b9", "1 ")),
    ],
)
def test_there_is_no_such_execution(execution_id):
    bench = Bench()
    bench.accept(buy())
    assert bench.exchange.bust(execution_id, "erroneous trade", bench.at) is Refusal.UNKNOWN
    assert bench.exchange.correct(execution_id, 1, None, bench.at) is Refusal.UNKNOWN


def test_a_forgotten_order_has_no_executions():
    bench = Bench(finished_max=1)
    bench.accept(buy(1), buy(2))
    assert bust(bench, 1, 1) is Refusal.UNKNOWN
    assert bust(bench, 2, 1) is not Refusal.UNKNOWN
    assert bench.exchange.orders.open_count == 0
