"""The desk: no trade is stuck, and nothing is sent a second time before the exchange was asked."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from broker.batch import Overloaded
from broker.config import Config
from broker.core.messages import Described, Report, ReportType
from broker.core.trading import ASKED
from broker.core.types import Fill, Trade, TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.dispatch import Dispatcher
from broker.exchange import ExchangeUnavailable, Refused
from broker.metrics import Metrics
from broker.shards import BrokenRule
from tests.builders import FixedMarket, account, dollars, trade_id, working
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
        self.away = 0  # so often the database does not answer
        self.ended: set[TradeId] = set()  # by another broker
        self.cancelled: set[TradeId] = set()
        self.refusal: Exception = Overloaded("full")
        self.metrics = Metrics()
        self.desk = Dispatcher(self.exchange, "sim", self.take, self.at_work, config, self.metrics, random.Random(1))
        self.desk._now = self.desk._strays._now = self.desk._reports._now = self.clock = Clock()  # type: ignore[method-assign]

    async def at_work(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, bool]:
        if self.away:
            self.away -= 1
            raise DatabaseUnavailable("away")
        return {each: each in self.cancelled for each in trade_ids if each not in self.ended}

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
        here.desk.send(trade, here.clock.now)
        await here.heard(filled(trade))
        await here.called(("execute", 1), ("lookup", 1))
        assert here.metrics.registry.get_sample_value("broker_sweep_findings_total", {"found": "known"}) == 1


async def test_an_unanswered_order_is_asked_about_before_it_is_sent_again() -> None:
    async with floor() as here:
        here.exchange.execute_fails = 2
        here.desk.send(a_trade(), here.clock.now)
        await here.called(("execute", 1), ("lookup", 1), ("execute", 1), ("lookup", 1), ("execute", 1))


async def test_while_the_exchange_does_not_answer_questions_nothing_is_sent_again() -> None:
    async with floor() as here:
        here.exchange.execute_fails, here.exchange.lookup_fails = 1, 5
        here.desk.send(a_trade(), here.clock.now)
        await here.called(("execute", 1), *[("lookup", 1)] * 6, ("execute", 1))


async def test_31_what_waited_too_long_to_be_sent_is_looked_up_first() -> None:
    """This broker stood still with orders that were about to go out, and another one has dealt with them meanwhile."""
    async with floor(exchange_timeout_s=5.0) as here:
        ended, cancelled = a_trade(), replace(a_trade(), trade_id=trade_id(2))
        here.ended.add(ended.trade_id)
        here.cancelled.add(cancelled.trade_id)
        for trade in (ended, cancelled):
            here.desk.send(trade, here.clock.now)
        here.clock.now += 60
        given_up = Report(cancelled.trade_id, ReportType.CANCELLED, "sim", None, None, 0, ASKED, never_taken=True)
        await here.heard(given_up)
        assert not [call for call, _ in here.exchange.calls if call == "execute"]
        assert ended.trade_id not in here.desk._watched


async def test_31_what_goes_out_again_is_looked_up_first() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_fails = 1
        here.ended.add(trade.trade_id)
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1), ("lookup", 1))
        await eventually(lambda: _true(trade.trade_id not in here.desk._watched))
        assert here.exchange.calls.count(("execute", 1)) == 1


async def test_31_while_the_database_is_away_nothing_doubtful_goes_out() -> None:
    async with floor() as here:
        here.exchange.execute_fails, here.away = 1, 3
        here.desk.send(a_trade(), here.clock.now)
        await eventually(lambda: _true(here.exchange.calls.count(("execute", 1)) == 2), within_s=20)
        assert here.exchange.calls[0] == ("execute", 1)
        assert here.exchange.calls.count(("lookup", 1)) >= 4


async def test_reports_of_a_trade_that_one_of_them_ended_are_asked_for_until_all_are_taken() -> None:
    """Of three executions the second ended the trade, the third was not taken: nobody else would ask for it."""
    async with floor() as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.refuse_takes = 3
        here.desk.send(trade, here.clock.now)
        await eventually(lambda: _true(here.refuse_takes < 3))
        here.desk.done(trade.trade_id)
        await here.heard(filled(trade))


async def test_what_the_exchange_denies_right_after_it_spoke_of_it_is_not_believed_at_once() -> None:
    """It took an execution back, and comes from a restart blind: its word answered now, the bust would be lost."""
    async with floor() as here:
        trade = a_trade()
        with pytest.raises(ExchangeUnavailable, match="1 of 1 orders that the exchange spoke of it does not know"):
            await here.desk.ask([trade.trade_id])
        here.exchange.states[trade.trade_id] = [filled(trade)]
        await here.desk.ask([trade.trade_id])
        assert here.taken == [filled(trade)]


async def test_what_the_exchange_goes_on_denying_is_believed() -> None:
    async with floor(recent_trades_max=2) as here:
        first, second, third = [trade_id(number) for number in (1, 2, 3)]
        for each in (first, second, third):  # of no more than these it remembers since when
            with pytest.raises(ExchangeUnavailable):
                await here.desk.ask([each])
        here.clock.now += 0.4
        await here.desk.ask([second, third])
        with pytest.raises(ExchangeUnavailable):
            await here.desk.ask([first])
        with pytest.raises(ExchangeUnavailable):  # it was believed: this is another denial
            await here.desk.ask([second])


async def test_of_two_that_it_denies_in_turns_both_are_believed_in_the_end() -> None:
    """Each time the one has insisted, the other one has not yet: neither begins anew for that."""
    async with floor() as here:
        first, second = trade_id(1), trade_id(2)
        with pytest.raises(ExchangeUnavailable):
            await here.desk.ask([first])
        here.clock.now += 0.2
        for _ in range(2):
            with pytest.raises(ExchangeUnavailable):
                await here.desk.ask([first, second])
            here.clock.now += 0.25
        await here.desk.ask([first, second, first])


async def test_a_denial_of_long_ago_makes_no_new_one_believed() -> None:
    async with floor() as here:
        with pytest.raises(ExchangeUnavailable):
            await here.desk.ask([trade_id(1)])
        here.clock.now += 10_000
        with pytest.raises(ExchangeUnavailable):
            await here.desk.ask([trade_id(1)])


async def test_a_cancel_of_what_another_broker_has_sent_goes_to_the_exchange() -> None:
    """We never sent it, since our places were taken: the other one took it up, and the exchange has it."""
    async with floor() as here:
        trade = a_trade()
        trade.acknowledged = True
        here.exchange.states[trade.trade_id] = []
        here.desk.send(trade, here.clock.now)
        here.desk.cancel(trade)
        await eventually(lambda: _true(("cancel", 1) in here.exchange.calls), within_s=20)
        assert here.taken == [], "it must not end before the exchange has ended it"
        assert ("execute", 1) not in here.exchange.calls


async def test_an_order_that_waited_between_its_commit_and_the_desk_is_looked_up_before_it_is_sent() -> None:
    """The whole process stood still there; another one has ended the order meanwhile."""
    async with floor() as here:
        trade = a_trade()
        here.ended.add(trade.trade_id)
        here.desk.send(trade, here.clock.now - 60)
        await here.passes(1)
        assert ("execute", 1) not in here.exchange.calls


async def test_an_order_that_was_taken_anyway_is_not_sent_again() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_fails = 1
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.desk.send(trade, here.clock.now)
        await here.heard(filled(trade))
        assert here.exchange.calls == [("execute", 1), ("lookup", 1)]


async def test_an_order_that_was_taken_and_is_denied_later_is_sent_again_only_after_a_while() -> None:
    async with floor() as here:
        here.desk.send(a_trade(), here.clock.now)
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
        here.desk.send(trade, here.clock.now)
        await here.heard(Report(trade.trade_id, ReportType.REJECTED, "sim", reason="unknown symbol"))


def a_resting_trade() -> Trade:
    trade = working(account(cash="100000"), FixedMarket({"AAPL": "190.20"}), limit="150")
    assert trade.trade_id.int == 1
    return trade


async def test_that_a_limit_order_was_taken_is_reported_at_once() -> None:
    """So that the customer's next trade need not wait for a callback that was lost."""
    async with floor(look_after_s=10, look_max_s=10) as here:
        trade = a_resting_trade()
        here.desk.send(trade, here.clock.now)
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
        here.desk.send(trade, here.clock.now)
        await eventually(lambda: _true(filled(trade) in here.taken), within_s=20)


async def test_a_cancel_goes_out_after_its_order() -> None:
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_answer = here.desk.cancel
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1), ("cancel", 1))


def withdrawn(trade: Trade, reason: str) -> Report:
    return Report(trade.trade_id, ReportType.CANCELLED, "sim", reason=reason, never_taken=True)


async def test_21_what_was_found_at_work_is_not_given_up_on_one_denial() -> None:
    """Whether the exchange had it before the restart is not known, and it may have come back without its books."""
    async with floor(forgotten_after_s=0.4, exchange_timeout_s=0.01) as here:
        trade = a_trade()
        trade.cancel_requested = True
        here.desk.watch(trade)
        await here.heard(withdrawn(trade, "asked"))
        assert here.exchange.calls.count(("lookup", 1)) >= 3, "it was believed too soon"
        assert ("execute", 1) not in here.exchange.calls


async def test_21_an_order_whose_part_is_in_suspense_and_is_denied_is_never_sent_again() -> None:
    async with floor(forgotten_after_s=0.2) as here:
        trade = a_trade()
        trade.executions["e1"] = Fill(4, dollars("900"), suspense=True)
        here.desk.watch(trade)
        reason = "the exchange lost the order after it had filled 0 of 10 AAPL"
        await here.heard(Report(trade.trade_id, ReportType.CANCELLED, "sim", None, None, 0, reason))
        assert ("execute", 1) not in here.exchange.calls


async def test_what_was_cancelled_before_it_was_sent_is_not_sent() -> None:
    async with floor() as here:
        trade = a_trade()
        here.desk.send(trade, here.clock.now)
        here.desk.cancel(trade)
        await here.heard(withdrawn(trade, "asked"))
        assert here.exchange.calls == []


async def test_what_is_cancelled_while_the_exchange_is_away_is_not_sent_when_it_comes_back() -> None:
    """Only once no copy can be on its way any more: the exchange is asked, and asked again."""
    async with floor(exchange_timeout_s=0.2) as here:
        trade = a_trade()
        here.exchange.execute_fails, here.exchange.lookup_fails = 1, 2
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1))
        here.desk.cancel(trade)
        await here.heard(withdrawn(trade, "asked"))
        assert here.exchange.calls.count(("execute", 1)) == 1


async def test_after_a_switch_nothing_goes_out_that_it_covers() -> None:
    async with floor(exchange_timeout_s=0.1) as here:
        first, second = a_trade(), a_trade()
        second.trade_id = TradeId(type(second.trade_id)(int=2))
        here.exchange.execute_fails = 1
        here.desk.send(first, here.clock.now)
        await here.called(("execute", 1))
        here.desk._stopped = lambda _: "trading stopped: wrong prices."
        here.desk.send(second, here.clock.now)
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
        here.desk.send(trade, here.clock.now)
        await here.heard(filled(trade))
        await here.called(("execute", 1), ("lookup", 1), ("lookup", 1), ("lookup", 1))


async def test_the_owner_is_known_after_the_end_too_but_not_for_ever() -> None:
    here = Floor(Config(open_trades_max=2, recent_trades_max=2))
    trades = []
    for number in range(6):
        trade = a_trade()
        trade.trade_id = TradeId(type(trade.trade_id)(int=number))
        trades.append(trade)
        here.desk.send(trade, here.clock.now)
        here.desk.done(trade.trade_id)
    assert [here.desk.owner(trade.trade_id) for trade in trades] == [None, None, 1001, 1001, 1001, 1001]


@pytest.mark.parametrize("orders", [1, 200])
async def test_orders_go_out_in_bounded_arrays_in_their_order(orders: int) -> None:
    async with floor(send_batch_max=64, send_in_flight_max=1) as here:
        for number in range(orders):
            trade = a_trade()
            trade.trade_id = TradeId(type(trade.trade_id)(int=number))
            here.desk.send(trade, here.clock.now)
        await here.called(*(("execute", number) for number in range(orders)))


async def test_a_refusal_of_a_second_copy_is_believed_only_when_the_exchange_does_not_know_the_order() -> None:
    """The first copy was late, and was taken after all: the exchange works on it."""
    async with floor() as here:
        trade = a_trade()
        here.exchange.execute_fails = 1
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1), ("lookup", 1))
        here.exchange.states[trade.trade_id] = []
        here.exchange.execute_answer = lambda _: Refused("this id was taken with another content")
        await here.called(("execute", 1), ("lookup", 1), ("execute", 1), *[("lookup", 1)] * 3)
        assert here.taken == []


async def test_17_what_the_exchange_has_where_it_refuses_a_second_copy_is_taken_in_and_not_guessed() -> None:
    """It may be another order under our id: that it has ours only the shard can tell."""
    here = Floor(Config())
    here.desk._now = lambda: 100.0  # type: ignore[method-assign]
    trade = a_resting_trade()
    another = Report(trade.trade_id, ReportType.ACCEPTED, "sim", described=Described("MSFT", "SELL", 500))
    here.exchange.execute_fails = 1
    here.desk.send(trade, 100.0)
    await here.desk._send([trade.trade_id])
    await here.desk._look(list(here.desk._watched.values()))  # it does not know it
    here.exchange.states[trade.trade_id] = [another]
    here.exchange.execute_answer = lambda _: Refused("this id was taken with another content")
    await here.desk._send([trade.trade_id])
    assert here.exchange.calls == [("execute", 1), ("lookup", 1), ("execute", 1), ("lookup", 1)]
    assert here.taken == [another]
    assert not here.desk._accepted, "the desk says nothing of its own"


async def test_17_where_the_exchange_insists_on_another_order_ours_ends_and_neither_is_cancelled() -> None:
    """Ours cannot be there, and a cancel would end the other one: it goes by the id."""
    here, now = Floor(Config(forgotten_after_s=30.0)), 100.0
    here.desk._now = lambda: now  # type: ignore[method-assign]
    trade = a_trade()
    another = Report(trade.trade_id, ReportType.ACCEPTED, "sim", described=Described("MSFT", "SELL", 500))
    here.exchange.states[trade.trade_id] = [another]
    here.desk.watch(trade)
    (watched,) = here.desk._watched.values()
    here.desk.cancel(trade)
    for number in range(4):
        await here.desk._look([watched])
        assert (watched.due, here.taken) == (now + 7.5, [another] * (number + 1))
        assert not here.desk._may_be_cancelled(watched)
        now = watched.due
    await here.desk._look([watched])
    end = here.taken[-1]
    assert (end.type, end.never_taken, end.described) == (ReportType.CANCELLED, True, None)
    assert end.reason == "the exchange has another order under its id"
    assert here.exchange.calls == [("lookup", 1)] * 5
    assert not here.desk._outgoing


async def test_17_what_turns_out_to_be_ours_goes_on_and_can_be_cancelled() -> None:
    here, now = Floor(Config(forgotten_after_s=30.0)), 100.0
    here.desk._now = lambda: now  # type: ignore[method-assign]
    trade = a_trade()
    another = Report(trade.trade_id, ReportType.ACCEPTED, "sim", described=Described("MSFT", "SELL", 500))
    here.desk.watch(trade)
    (watched,) = here.desk._watched.values()
    for number in range(6):  # it says the one and the other in turn: that is no insisting
        here.exchange.states[trade.trade_id] = [replace(another, described=None) if number % 2 else another]
        await here.desk._look([watched])
        now += 20.0
    assert [report.type for report in here.taken] == [ReportType.ACCEPTED] * 6
    assert here.desk._may_be_cancelled(watched)


async def test_17_somebody_elses_order_is_no_stray_of_ours_to_be_cancelled() -> None:
    async with floor(exchange_timeout_s=0.1, rest_look_s=0.2) as here:
        trade = a_trade()
        another = Report(trade.trade_id, ReportType.ACCEPTED, "sim", described=Described("MSFT", "SELL", 500))
        here.exchange.states[trade.trade_id] = [another]
        here.desk.look_for_stray(trade)
        await here.heard(another)
        await here.passes(1.0)
        assert here.exchange.calls == [("lookup", 1)]


async def test_19_what_waited_for_an_exchange_that_was_away_is_looked_at_as_soon_as_it_is_back() -> None:
    """And not where some of its answers are missing: then it is busy, and asking more makes that worse."""
    here, now = Floor(Config(look_after_s=1.0, look_max_s=15.0)), 100.0
    here.desk._now = lambda: now  # type: ignore[method-assign]
    first = a_trade()
    for trade in (first, replace(first, trade_id=TradeId(UUID(int=2)))):
        here.desk.watch(trade)
    one, other = here.desk._watched.values()
    for away_s, most in ((60.0, 1.0), (2.0, 15.0)):
        here.exchange.lookup_fails = 6
        for _ in range(6):
            await here.desk._look([one, other])
            now += away_s / 6
        waits = other.due
        await here.desk._look([one])
        assert other.due <= now + most
        assert (other.due == waits) == (away_s < 3.0)
        other.failures = 0


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


def _are_within(pauses: Sequence[Sequence[float]], most: Sequence[float]) -> bool:
    """Each of a row is up to a quarter shorter than it may be, and no two are the same."""
    is_each = all(
        0.75 * longest <= pause <= longest for row, longest in zip(pauses, most, strict=True) for pause in row
    )
    return is_each and len({pause for row in pauses for pause in row}) == sum(len(row) for row in pauses)


@pytest.mark.parametrize("call", ["lookup", "cancel"])
async def test_19_an_exchange_that_gives_no_answer_is_asked_ever_more_rarely_with_jitter_until_it_does(
    call: str,
) -> None:
    """As one that says 429 to everything: whatever counts as no answer is treated alike."""
    here = Floor(Config(look_after_s=1.0, look_max_s=15.0))
    here.desk._now = lambda: 100.0  # type: ignore[method-assign]
    for number in (1, 2, 3):
        here.desk.watch(replace(a_trade(), trade_id=trade_id(number), executions={}))
    watched = list(here.desk._watched.values())
    ask = here.desk._look if call == "lookup" else here.desk._send_cancels
    for answers_again in (0, 1):
        setattr(here.exchange, f"{call}_fails", 7)
        pauses = []
        for _ in range(7):
            await ask(watched)
            pauses.append([each.due - 100.0 for each in watched])
        assert _are_within(pauses, [min(each << answers_again, 15) for each in (1, 2, 4, 8, 15, 15, 15)]), pauses
        here.exchange.states = {each.trade.trade_id: [] for each in watched}
        await here.desk._look(watched)  # it answers: a second one that says nothing new is later than the first
        assert all(each.due - 100.0 <= 2 << answers_again for each in watched)


async def test_19_what_the_exchange_does_not_take_is_sent_again_ever_more_rarely_with_jitter() -> None:
    """It says 429 to orders, and answers when it is asked about them."""
    here = Floor(Config(look_after_s=1.0, look_max_s=15.0))
    here.desk._now = lambda: 100.0  # type: ignore[method-assign]
    trades = [replace(a_trade(), trade_id=trade_id(number), executions={}) for number in (1, 2, 3)]
    for trade in trades:
        here.desk.send(trade, 100.0)
    watched = list(here.desk._watched.values())
    pauses = []
    for _ in range(7):
        here.exchange.execute_fails = 1
        await here.desk._send([trade.trade_id for trade in trades])
        pauses.append([each.due - 100.0 for each in watched])
        await here.desk._look(watched)
    assert _are_within(pauses, [1, 2, 4, 8, 15, 15, 15]), pauses
    assert [call for call, _ in here.exchange.calls] == (["execute"] * 3 + ["lookup"] * 3) * 7, "asked before each"


async def test_executions_that_never_come_are_not_asked_for_without_a_pause() -> None:
    async with floor(look_after_s=0.05) as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = []
        here.desk.watch(trade)
        here.desk.look_soon(trade.trade_id)
        await here.called(("lookup", 1))
        moment = here.clock.now
        here.desk._now = lambda: moment  # type: ignore[method-assign]
        for _ in range(20):
            here.desk.look_soon(trade.trade_id)
            await asyncio.sleep(0.005)
        assert here.exchange.calls == [("lookup", 1)], "no time has passed"
        here.desk._now = here.clock  # type: ignore[method-assign]
        await here.called(("lookup", 1), ("lookup", 1))


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


async def test_an_order_of_another_exchange_is_never_sent_here() -> None:
    async with floor(forgotten_after_s=0.1) as here:
        trade = a_trade()
        trade.venue = "gone"
        here.desk.watch(trade)
        await here.called(*[("lookup", 1)] * 4)
        assert here.taken == []


async def test_a_call_that_failed_says_nothing_of_the_exchange_once_there_is_nothing_to_ask_it_about() -> None:
    """Else its orders were refused for ever: nobody would find out that it answers again."""
    async with floor() as here:
        here.exchange.execute_fails, here.exchange.lookup_fails = 1, 1_000
        trade = a_trade()
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1), ("lookup", 1))
        await here.passes(1.0)
        assert here.desk.down_for_s > 0.9
        here.desk.done(trade.trade_id)  # a callback has ended it
        await here.passes(0.5)
        assert here.desk.down_for_s == 0.0
        here.desk.send(a_trade(), here.clock.now)
        assert here.desk.down_for_s == 0.0, "whether it is still away this one finds out"


def open_there(trade: Trade) -> Report:
    return Report(trade.trade_id, ReportType.ACCEPTED, "sim")


async def test_what_has_ended_here_and_is_open_there_is_cancelled_there_until_it_has_ended() -> None:
    async with floor(exchange_timeout_s=0.5) as here:
        trade = a_resting_trade()
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        here.exchange.lookup_fails = here.exchange.cancel_fails = 1
        here.desk.look_for_stray(trade)
        before = here.clock.now
        await here.called(("lookup", 1), ("lookup", 1), ("cancel", 1), ("lookup", 1), ("cancel", 1), ("lookup", 1))
        assert here.clock.now - before >= (1 + 2 + 4 + 8) * 0.5  # once no copy can be on its way; then twice as long
        over = Report(trade.trade_id, ReportType.CANCELLED, "sim")
        here.exchange.states[trade.trade_id] = [over]
        await eventually(lambda: _true(here.taken[-1:] == [over]), within_s=20)
        heard = len(here.exchange.calls)
        await here.passes(2.0)
        assert len(here.exchange.calls) == heard
        found = here.metrics.registry.get_sample_value("broker_sweep_findings_total", {"found": "open_after_end"})
        assert found is not None
        assert found >= 2


async def test_after_the_end_of_an_order_of_which_two_copies_went_out_the_exchange_is_asked_once_more() -> None:
    async with floor(exchange_timeout_s=0.5) as here:
        trade = a_trade()
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1), ("lookup", 1))  # never heard of it
        await eventually(lambda: _true(here.exchange.calls.count(("execute", 1)) == 2), within_s=20)
        here.desk.done(trade.trade_id)  # as of the first copy
        here.exchange.states[trade.trade_id] = [filled(trade)]
        here.exchange.ended.add(trade.trade_id)
        asked = [("lookup", 1), ("cancel", 1), ("lookup", 1)]  # the last one since the cancel came too late
        await eventually(lambda: _true(here.exchange.calls[-3:] == asked), within_s=20)
        await here.heard(filled(trade))
        await here.passes(1.5)
        assert here.exchange.calls[-3:] == asked


async def test_a_stray_that_fills_between_the_look_and_the_cancel() -> None:
    """Its callback was lost, and nobody would ask once more."""
    async with floor(exchange_timeout_s=0.1, rest_look_s=0.2) as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        cancel = here.exchange.cancel

        async def fills_first(trade_ids: Sequence[TradeId]) -> set[TradeId]:
            here.exchange.states[trade.trade_id] = [filled(trade)]
            here.exchange.ended.add(trade.trade_id)
            return await cancel(trade_ids)

        here.exchange.cancel = fills_first  # type: ignore[method-assign]
        here.desk.look_for_stray(trade)
        await here.heard(filled(trade))
        heard = len(here.exchange.calls)
        await here.passes(1.0)
        assert (here.taken, len(here.exchange.calls)) == ([filled(trade)], heard), "it is no suspect any more"


@pytest.mark.parametrize("second", ["not in form", "open", "denied"])
async def test_a_stray_whose_cancel_comes_too_late_is_asked_about_until_the_exchange_says_how_it_ended(
    second: str,
) -> None:
    async with floor(exchange_timeout_s=0.1, rest_look_s=0.2, forgotten_after_s=300.0) as here:
        trade = a_trade()
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        here.exchange.ended.add(trade.trade_id)
        lookup = here.exchange.lookup

        async def outdated(trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
            """Each second time; the truth after a while."""
            found = await lookup(trade_ids)
            count = here.exchange.calls.count(("lookup", 1))
            if count > 6:
                return {trade.trade_id: [filled(trade)]}
            answers = {"not in form": {trade.trade_id: []}, "open": found, "denied": {}}
            return answers[second] if count % 2 == 0 else found

        here.exchange.lookup = outdated  # type: ignore[method-assign]
        here.desk.look_for_stray(trade)
        await eventually(lambda: _true(filled(trade) in here.taken), within_s=20)
        heard = len(here.exchange.calls)
        await here.passes(1.0)
        assert len(here.exchange.calls) - heard <= 2, "the cancel and the look of the last time"


async def test_what_was_withdrawn_while_another_broker_sent_it_is_cancelled() -> None:
    async with floor(exchange_timeout_s=0.5) as here:
        trade = a_resting_trade()
        here.desk.send(trade, here.clock.now)
        here.desk.cancel(trade)  # before it went out
        await eventually(lambda: _true(bool(here.taken)), within_s=20)
        assert here.taken[0].never_taken
        assert here.exchange.calls == []
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        await here.called(("lookup", 1), ("cancel", 1))


async def test_of_an_order_that_ended_in_one_copy_nobody_is_asked_again() -> None:
    async with floor(exchange_timeout_s=0.5) as here:
        trade = a_resting_trade()
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1))
        here.desk.done(trade.trade_id)
        await here.passes(2.0)
        assert here.exchange.calls == [("execute", 1)]


async def test_what_is_at_work_is_no_stray() -> None:
    async with floor(exchange_timeout_s=0.5, rest_look_s=300.0) as here:
        trade = a_resting_trade()
        trade.acknowledged = True
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        here.desk.watch(trade)
        here.desk.look_for_stray(trade)
        await here.called(("lookup", 1))
        await here.passes(2.0)
        assert here.exchange.calls == [("lookup", 1)]


async def test_a_stray_that_is_denied_is_looked_for_until_the_exchange_insists() -> None:
    """It may have just come back without its books."""
    async with floor(exchange_timeout_s=0.3, forgotten_after_s=3.0) as here:
        trade = a_resting_trade()
        here.desk.look_for_stray(trade)
        await here.called(("lookup", 1))
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        await here.called(("lookup", 1), ("lookup", 1), ("cancel", 1))
        del here.exchange.states[trade.trade_id]
        await eventually(lambda: _true(not here.desk._strays._suspects), within_s=20)
        heard = len(here.exchange.calls)
        await here.passes(3.0)
        assert len(here.exchange.calls) == heard


async def test_an_answer_with_more_than_was_asked_for_cancels_nothing_of_others() -> None:
    async with floor(exchange_timeout_s=0.3, rest_look_s=300.0) as here:
        trade, other = a_resting_trade(), trade_id(77)
        lookup = here.exchange.lookup

        async def generous(trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
            return {**await lookup(trade_ids), other: [Report(other, ReportType.ACCEPTED, "sim")]}

        here.exchange.lookup = generous  # type: ignore[method-assign]
        here.exchange.states[trade.trade_id] = [Report(trade.trade_id, ReportType.CANCELLED, "sim")]
        here.desk.look_for_stray(trade)
        await here.heard(*here.exchange.states[trade.trade_id])
        await here.passes(1.0)
        assert here.exchange.calls == [("lookup", 1)]


async def test_what_cannot_be_taken_in_of_one_stray_spoils_no_others() -> None:
    async with floor(exchange_timeout_s=0.3) as here:
        first, second = (replace(a_resting_trade(), trade_id=trade_id(number)) for number in (1, 2))
        for each in (first, second):
            here.exchange.states[each.trade_id] = [Report(each.trade_id, ReportType.CANCELLED, "sim")]
            here.desk.look_for_stray(each)
        here.refuse_takes, here.refusal = 1, BrokenRule("no")
        await here.heard(*here.exchange.states[second.trade_id], *here.exchange.states[first.trade_id])
        assert here.exchange.calls.count(("lookup", 2)) == 1


async def test_the_end_of_a_first_copy_while_the_second_is_on_its_way() -> None:
    async with floor(exchange_timeout_s=0.5) as here:
        trade = a_resting_trade()
        execute, second, go = here.exchange.execute, asyncio.Event(), asyncio.Event()

        async def slow_the_second_time(trades: Sequence[Trade]) -> list[Refused | None]:
            if ("execute", 1) in here.exchange.calls:
                second.set()
                await go.wait()
            return await execute(trades)

        here.exchange.execute = slow_the_second_time  # type: ignore[method-assign]
        here.desk.send(trade, here.clock.now)
        await second.wait()  # it was denied
        here.desk.done(trade.trade_id)
        here.exchange.states[trade.trade_id] = [open_there(trade)]
        go.set()
        await eventually(lambda: _true(("cancel", 1) in here.exchange.calls), within_s=20)


async def test_what_is_switched_off_while_another_order_is_withdrawn_does_not_go_out() -> None:
    """The operator has heard that nothing goes out any more, the customer that its cancel is durable."""
    async with floor() as here:
        one, two = a_trade(), replace(a_trade(), trade_id=trade_id(2))
        entered, release, take = asyncio.Event(), asyncio.Event(), here.desk._reports._take

        async def slow(reports: Sequence[Report]) -> None:
            entered.set()
            await release.wait()
            await take(reports)

        here.desk._reports._take = slow
        here.desk.send(one, here.clock.now)
        here.desk.cancel(one)
        here.desk.send(two, here.clock.now)
        await entered.wait()
        here.desk.cancel(two)
        release.set()
        await eventually(lambda: _true({each.trade_id.int for each in here.taken} == {1, 2}), within_s=20)
        assert here.exchange.calls == []


async def test_an_order_of_an_exchange_that_is_not_configured_any_more_is_rejected_and_not_sent_here() -> None:
    async with floor() as here:
        never, sent = (replace(a_trade(), trade_id=trade_id(number), venue="west") for number in (1, 2))
        sent.acknowledged = True
        here.desk.send(never, here.clock.now)
        here.desk.send(sent, here.clock.now)
        reason = "its exchange (west) is not configured here any more"
        await here.heard(Report(never.trade_id, ReportType.REJECTED, "west", reason=reason, never_taken=True))
        await here.passes(1.0)
        assert ("execute", 1) not in here.exchange.calls
        assert ("execute", 2) not in here.exchange.calls


@pytest.mark.parametrize("why", ["the state is not in form", "reports cannot be taken in"])
async def test_a_cancel_in_vain_is_not_asked_for_without_a_pause(why: str) -> None:
    async with floor(look_after_s=1.0, look_max_s=15.0) as here:
        trade = a_resting_trade()
        here.exchange.states[trade.trade_id] = []
        if why == "reports cannot be taken in":
            here.exchange.states[trade.trade_id] = [Report(trade.trade_id, ReportType.CANCELLED, "sim")]
            here.refuse_takes = 1_000_000
        here.exchange.ended.add(trade.trade_id)
        here.desk.send(trade, here.clock.now)
        await here.called(("execute", 1))
        here.desk.cancel(trade)
        await here.passes(6.0)
        assert len(here.exchange.calls) < 12


async def test_orders_are_accepted_and_forgotten_while_lookups_hang() -> None:
    async with floor(look_after_s=0.05, look_batch_max=1) as here:

        async def hangs(_: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
            await asyncio.sleep(0.05)
            raise ExchangeUnavailable("no answer")

        here.exchange.lookup = hangs  # type: ignore[method-assign]
        resting = a_resting_trade()
        for number in range(10, 40):  # looked at in vain: something is always overdue
            here.desk.send(replace(resting, trade_id=trade_id(number), executions={}), here.clock.now)
        for number in range(100, 1_100):
            here.desk.send(replace(resting, trade_id=trade_id(number), executions={}), here.clock.now)
            await asyncio.sleep(0.001)
            here.desk.done(trade_id(number))
        assert len(here.desk._accepted) < 500


def test_looks_that_nobody_waits_for_are_thrown_away() -> None:
    desk = Floor(Config()).desk
    resting = a_resting_trade()
    for number in range(30_000):
        desk.watch(replace(resting, trade_id=trade_id(number + 1), executions={}))
        if number:
            desk.done(trade_id(number + 1))
    assert len(desk._due) <= 10_010
    assert any(id_ == trade_id(1) for _, _, id_ in desk._due)


async def test_what_was_read_again_before_it_went_out_is_not_given_up_as_never_sent() -> None:
    """Another broker has been at work on its customer, and may have sent it."""
    async with floor() as here:
        trade = a_trade()
        here.desk.send(trade, here.clock.now)
        here.desk.watch(trade)
        here.desk.cancel(trade)
        await here.called(("lookup", 1))
        assert here.taken == []
        assert ("execute", 1) not in here.exchange.calls
