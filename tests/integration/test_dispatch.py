"""The desk: no trade is stuck, and nothing is sent a second time before the exchange was asked."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from broker.batch import Overloaded
from broker.config import Config
from broker.core.messages import Report, ReportType
from broker.core.types import Fill, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.dispatch import Dispatcher
from broker.exchange import ExchangeUnavailable, Refused
from broker.metrics import Metrics
from tests.builders import FixedMarket, account, dollars, working
from tests.conftest import eventually


class ScriptedExchange:
    """An exchange whose answers the test chooses; it writes down every call in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []  # what was called, about which trade
        self.execute_answer: Callable[[Trade], Refused | None] = lambda _: None
        self.states: dict[TradeId, list[Report]] = {}
        self.execute_fails = 0
        self.lookup_fails = 0
        self.cancel_fails = 0
        self.ended: set[TradeId] = set()

    async def execute(self, trades: Sequence[Trade]) -> list[Refused | None]:
        self.calls += [("execute", trade.trade_id.int) for trade in trades]
        if self.execute_fails:
            self.execute_fails -= 1
            raise ExchangeUnavailable("no answer")
        return [self.execute_answer(trade) for trade in trades]

    async def cancel(self, trade_ids: Sequence[TradeId]) -> set[TradeId]:
        self.calls += [("cancel", trade_id.int) for trade_id in trade_ids]
        if self.cancel_fails:
            self.cancel_fails -= 1
            raise ExchangeUnavailable("no answer")
        return {trade_id for trade_id in trade_ids if trade_id in self.ended}

    async def lookup(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
        self.calls += [("lookup", trade_id.int) for trade_id in trade_ids]
        if self.lookup_fails:
            self.lookup_fails -= 1
            raise ExchangeUnavailable("no answer")
        return {trade_id: self.states[trade_id] for trade_id in trade_ids if trade_id in self.states}


class Clock:
    """10 ms pass whenever somebody looks: time stands still where the machine does, and goes on with what is done."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


class Floor:
    """A desk, the exchange it works with, and what reached the shards."""

    def __init__(self, config: Config) -> None:
        self.exchange = ScriptedExchange()
        self.taken: list[Report] = []
        self.refuse_takes = 0
        self.refusal: Exception = Overloaded("full")
        self.metrics = Metrics()
        self.desk = Dispatcher(self.exchange, "sim", self.take, config, self.metrics, random.Random(1))
        self.desk._now = self.clock = Clock()  # type: ignore[method-assign]

    async def take(self, reports: Sequence[Report]) -> None:
        if self.refuse_takes:
            self.refuse_takes -= 1
            raise self.refusal
        self.taken.extend(reports)
        for report in reports:
            if report.type is not ReportType.ACCEPTED:
                self.desk.done(report.trade_id)

    async def called(self, *calls: tuple[str, int]) -> None:
        """The exchange heard these calls first, in this order."""
        await eventually(lambda: _true(len(self.exchange.calls) >= len(calls)), within_s=20)
        assert self.exchange.calls[: len(calls)] == list(calls)

    async def heard(self, *reports: Report) -> None:
        """These reports reached the shards."""
        await eventually(lambda: _true(self.taken == list(reports)), within_s=20)

    async def passes(self, seconds: float) -> None:
        """So much of the desk's time passes."""
        until = self.clock.now + seconds
        await eventually(lambda: _true(self.clock.now >= until), within_s=20)


async def _true(value: bool) -> bool:
    return value


@asynccontextmanager
async def floor(**settings: Any) -> AsyncIterator[Floor]:
    settings = {"look_after_s": 0.03, "look_max_s": 0.1, "forgotten_after_s": 0.4} | settings
    floor = Floor(Config(**settings))
    loops = (floor.desk.run_sending(), floor.desk.run_cancelling(), floor.desk.run_sweep())
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield floor
        assert not any(task.done() for task in tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def a_trade() -> Trade:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}))
    assert trade.trade_id.int == 1
    return trade


def filled(trade: Trade) -> Report:
    return Report(trade.trade_id, ReportType.FILLED, "sim", "e1", Fill(10, dollars("190")), 10)


async def test_a_started_trade_is_sent_and_asked_about_when_nothing_comes_back() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.desk.send(trade)
        await here.heard(filled(trade))
        await here.called(("execute", 1), ("lookup", 1))
        assert here.metrics.registry.get_sample_value("broker_sweep_findings_total", {"found": "known"}) == 1


async def test_an_unanswered_order_is_asked_about_before_it_is_sent_again() -> None:
    async with floor() as here:
        here.exchange.execute_fails = 2
        here.desk.send(a_trade())
        await here.called(("execute", 1), ("lookup", 1), ("execute", 1), ("lookup", 1), ("execute", 1))


async def test_while_the_exchange_does_not_answer_questions_nothing_is_sent_again() -> None:
    async with floor() as here:
        here.exchange.execute_fails, here.exchange.lookup_fails = 1, 5
        here.desk.send(a_trade())
        await here.called(("execute", 1), *[("lookup", 1)] * 6, ("execute", 1))


async def test_an_order_that_was_taken_anyway_is_not_sent_again() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_fails = 1
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.desk.send(trade)
        await here.heard(filled(trade))
        assert here.exchange.calls == [("execute", 1), ("lookup", 1)]


async def test_an_order_that_was_taken_and_is_denied_later_is_sent_again_only_after_a_while() -> None:
    async with floor() as here:
        here.desk.send(a_trade())
        await eventually(lambda: _true(here.exchange.calls.count(("execute", 1)) == 2), within_s=20)
        between = here.exchange.calls[1:-1]
        assert between.count(("lookup", 1)) >= 3, "it was believed too soon"


async def test_an_order_that_filled_a_part_and_is_denied_ends_and_is_never_sent_again() -> None:
    async with floor(forgotten_after_s=0.2) as here:
        trade = a_trade()
        trade.filled_quantity = 4
        here.desk.watch(trade)
        reason = "the exchange lost the order after it had filled 4 of 10 AAPL"
        await here.heard(Report(trade.trade_id, ReportType.CANCELLED, "sim", None, None, 4, reason))
        assert here.exchange.calls.count(("lookup", 1)) >= 3, "it was believed too soon"
        assert ("execute", 1) not in here.exchange.calls


async def test_a_trade_that_rests_for_days_is_asked_about_for_days() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = []
        here.desk.watch(trade)
        here.desk._watched[trade.trade_id].looks = 100_000
        await here.called(*[("lookup", 1)] * 3)


async def test_a_trade_found_at_work_after_a_restart_is_asked_about_first() -> None:
    async with floor() as here:
        here.desk.watch(a_trade())
        await here.called(("lookup", 1), ("execute", 1))


async def test_a_refused_order_becomes_a_rejection() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_answer = lambda _: Refused("unknown symbol")
        here.desk.send(trade)
        await here.heard(Report(trade.trade_id, ReportType.REJECTED, "sim", reason="unknown symbol"))


def a_resting_trade() -> Trade:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}), limit="150")
    assert trade.trade_id.int == 1
    return trade


async def test_that_a_limit_order_was_taken_is_reported_at_once() -> None:
    """So that the customer's next trade need not wait for a callback that was lost."""
    async with floor(look_after_s=10, look_max_s=10) as here:
        trade = a_resting_trade()
        here.desk.send(trade)
        await here.heard(Report(trade.trade_id, ReportType.ACCEPTED, "sim"))
        assert here.exchange.calls == [("execute", 1)]


async def test_an_order_that_rests_is_asked_about_rarely() -> None:
    async with floor(rest_look_s=0.25) as here:
        trade = a_resting_trade()
        trade.acknowledged = True
        here.exchange.states[trade.trade_id] = []
        here.desk.watch(trade)
        await here.passes(0.35)
        assert 1 <= here.exchange.calls.count(("lookup", 1)) <= 3


async def test_a_cancel_is_asked_for_until_the_trade_has_ended() -> None:
    """Not answered, and then answered and forgotten: the next look asks for it again."""
    async with floor() as here:
        trade = a_resting_trade()
        trade.acknowledged = trade.cancel_requested = True
        here.exchange.states[trade.trade_id] = []
        here.exchange.cancel_fails = 1
        here.desk.watch(trade)
        here.desk.cancel(trade)
        await eventually(lambda: _true(here.exchange.calls.count(("cancel", 1)) >= 3), within_s=20)
        here.desk.done(trade.trade_id)


async def test_what_could_not_be_cancelled_is_asked_about_at_once() -> None:
    async with floor(look_after_s=10, look_max_s=10) as here:
        trade = a_resting_trade()
        here.exchange.ended = {trade.trade_id}
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.exchange.execute_answer = here.desk.cancel
        here.desk.send(trade)
        await eventually(lambda: _true(filled(trade) in here.taken), within_s=20)


async def test_a_cancel_goes_out_after_its_order() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_answer = here.desk.cancel
        here.desk.send(trade)
        await here.called(("execute", 1), ("cancel", 1))


def withdrawn(trade: Trade, reason: str) -> Report:
    return Report(trade.trade_id, ReportType.CANCELLED, "sim", reason=reason)


async def test_what_was_cancelled_before_it_was_sent_is_not_sent() -> None:
    async with floor() as here:
        trade = a_trade()
        here.desk.send(trade)
        here.desk.cancel(trade)
        await here.heard(withdrawn(trade, "asked"))
        assert here.exchange.calls == []


async def test_what_is_cancelled_while_the_exchange_is_away_is_not_sent_when_it_comes_back() -> None:
    """Only once no copy can be on its way any more: the exchange is asked, and asked again."""
    async with floor(exchange_timeout_s=0.2) as here:
        trade = a_trade()
        here.exchange.execute_fails, here.exchange.lookup_fails = 1, 2
        here.desk.send(trade)
        await here.called(("execute", 1))
        here.desk.cancel(trade)
        await here.heard(withdrawn(trade, "asked"))
        assert here.exchange.calls.count(("execute", 1)) == 1


async def test_after_a_switch_nothing_goes_out_that_it_covers() -> None:
    async with floor(exchange_timeout_s=0.1) as here:
        first, second = a_trade(), a_trade()
        second.trade_id = TradeId(type(second.trade_id)(int=2))
        here.exchange.execute_fails = 1
        here.desk.send(first)
        await here.called(("execute", 1))
        here.desk._stopped = lambda _: "trading stopped: wrong prices."
        here.desk.send(second)
        await eventually(lambda: _true(len(here.taken) == 2), within_s=20)
        assert here.taken == [
            withdrawn(second, "trading stopped: wrong prices."),
            withdrawn(first, "trading stopped: wrong prices."),
        ]
        assert [call for call in here.exchange.calls if call[0] == "execute"] == [("execute", 1)]


@pytest.mark.parametrize("error", [Overloaded("full"), RefusedByDatabase("no", None), DatabaseUnavailable("away")])
async def test_what_the_shards_could_not_take_is_asked_for_again(error: Exception) -> None:
    async with floor() as here:
        here.refusal = error
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.refuse_takes = 2
        here.desk.send(trade)
        await here.heard(filled(trade))
        await here.called(("execute", 1), ("lookup", 1), ("lookup", 1), ("lookup", 1))


async def test_the_owner_is_known_after_the_end_too_but_not_for_ever() -> None:
    here = Floor(Config(open_trades_max=2, recent_trades_max=2))
    trades = []
    for number in range(6):
        trade = a_trade()
        trade.trade_id = TradeId(type(trade.trade_id)(int=number))
        trades.append(trade)
        here.desk.send(trade)
        here.desk.done(trade.trade_id)
    assert [here.desk.owner(trade.trade_id) for trade in trades] == [None, None, 1001, 1001, 1001, 1001]


@pytest.mark.parametrize("orders", [1, 200])
async def test_orders_go_out_in_bounded_arrays_in_their_order(orders: int) -> None:
    async with floor(send_batch_max=64, send_in_flight_max=1) as here:
        for number in range(orders):
            trade = a_trade()
            trade.trade_id = TradeId(type(trade.trade_id)(int=number))
            here.desk.send(trade)
        await here.called(*(("execute", number) for number in range(orders)))


async def test_a_refusal_of_a_second_copy_is_believed_only_when_the_exchange_does_not_know_the_order() -> None:
    """The first copy was late, and was taken after all: the exchange works on it."""
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_fails = 1
        here.desk.send(trade)
        await here.called(("execute", 1), ("lookup", 1))
        here.exchange.states[trade.trade_id] = []
        here.exchange.execute_answer = lambda _: Refused("this id was taken with another content")
        await here.called(("execute", 1), ("lookup", 1), ("execute", 1), *[("lookup", 1)] * 3)
        assert here.taken == []


async def test_only_what_the_exchange_says_counts_as_a_denial() -> None:
    """It says "not found" while it starts, falls silent, and says it again: that is not 0.3 s of denying."""
    async with floor(forgotten_after_s=0.3) as here:
        trade = a_trade()
        trade.filled_quantity = 4
        here.desk.watch(trade)
        await here.called(("lookup", 1))
        here.exchange.lookup_fails = 8  # for longer than forgotten_after_s
        await eventually(lambda: _true(here.exchange.lookup_fails == 0))
        await eventually(lambda: _true(here.exchange.calls[-1] == ("lookup", 1) and len(here.exchange.calls) > 9))
        assert here.taken == []


async def test_executions_that_never_come_are_not_asked_for_without_a_pause() -> None:
    async with floor(look_after_s=0.05) as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = []
        here.desk.watch(trade)
        for _ in range(20):
            here.desk.look_soon(trade.trade_id)
            await asyncio.sleep(0.005)
        assert len(here.exchange.calls) < 6


async def test_a_cancel_that_is_not_durable_yet_is_not_asked_for() -> None:
    """The trade is the shard's, and ahead of its commit: only what the desk was told counts."""
    async with floor() as here:
        trade = a_resting_trade()
        trade.acknowledged = True
        here.exchange.states[trade.trade_id] = []
        here.desk.watch(trade)
        trade.cancel_requested = True
        await here.called(("lookup", 1))
        await here.passes(0.1)
        assert ("cancel", 1) not in here.exchange.calls
        here.desk.watch(trade)  # read again from the database, where it is requested
        await eventually(lambda: _true(("cancel", 1) in here.exchange.calls))


async def test_what_was_taken_back_too_early_is_asked_for_although_the_trade_has_ended() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.desk.done(trade.trade_id)
        here.desk.ask_again(Report(trade.trade_id, ReportType.BUSTED, "sim", "e1"))
        await here.heard(filled(trade))


async def test_an_order_of_another_exchange_is_never_sent_here() -> None:
    async with floor(forgotten_after_s=0.1) as here:
        trade = a_trade()
        trade.venue = "gone"
        here.desk.watch(trade)
        await here.called(*[("lookup", 1)] * 4)
        assert here.taken == []
