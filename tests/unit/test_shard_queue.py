"""A shard's queue: who gets in while it has much to do."""

import asyncio
from unittest.mock import Mock
from uuid import uuid4

import pytest

from broker.batch import Item, Overloaded
from broker.config import Config
from broker.core.messages import PlaceTrade, Report, ReportType
from broker.core.types import CustomerId, Side, TradeId
from broker.metrics import Metrics
from broker.shards import Shard, Shards
from tests.builders import AAPL


def a_shard(room: int) -> Shard:
    """One that nobody runs: what is in its queue stays there until a test takes it out."""
    return Shard(0, Mock(), Mock(), Mock(), Mock(), Mock(), Config(shard_queue_max=room), Metrics())


def place(shard: Shard, customer: int) -> None:
    customer_id = CustomerId(customer)
    shard.submit(customer_id, PlaceTrade(TradeId(uuid4()), customer_id, AAPL, Side.BUY, 1, None))


async def recovered(shard: Shard, trade: bool) -> list[Item]:
    """What the shard gets to do while 1,000 customers are recovered, and others trade at every turn."""
    shards = Shards([shard], Mock(), Mock(), Metrics())
    recovery = asyncio.create_task(shards.recover({CustomerId(number): 0 for number in range(1_000)}))
    taken: list[Item] = []
    async with asyncio.timeout(20):
        while not recovery.done() or shard._queue:
            await asyncio.sleep(0)
            if trade:
                place(shard, 5_000)
            batch = shard._drain()
            for item in batch:
                item.reply.set_result(None)
            taken += batch
            trade = trade and not recovery.done()
    return taken


async def test_recovery_leaves_room_for_who_trades_now() -> None:
    taken = await recovered(a_shard(room=300), trade=True)  # a place that finds none raises Overloaded
    assert [item.customer_id for item in taken if item.customer_id < 5_000] == list(range(1_000))


async def test_recovery_gets_on_where_there_is_hardly_any_room() -> None:
    assert len(await recovered(a_shard(room=1), trade=False)) == 1_000


async def test_recovery_gets_on_while_the_queue_is_full_of_trades() -> None:
    shard = a_shard(room=300)
    for number in range(300):
        place(shard, 5_000 + number)
    recovery = asyncio.create_task(Shards([shard], Mock(), Mock(), Metrics()).recover({CustomerId(1): 0}))
    async with asyncio.timeout(20):
        await recovery


async def test_a_full_queue_is_said_to_be_full() -> None:
    shard = a_shard(room=40)
    for number in range(40):
        place(shard, number)
    with pytest.raises(Overloaded):
        place(shard, 40)


async def test_words_that_are_more_than_the_queue_takes_are_all_heard() -> None:
    """Else the first of them are taken again and again, and the last never."""
    shard = a_shard(room=2)
    shards = Shards([shard], lambda _: CustomerId(1), Mock(), Metrics())
    trade_id = TradeId(uuid4())
    words = [Report(trade_id, ReportType.ACCEPTED, "sim", reason=str(number)) for number in range(11)]
    hearing = asyncio.create_task(shards.report(words))
    heard: list[str | None] = []
    while not hearing.done():
        await asyncio.sleep(0)
        for item in shard._drain():
            assert isinstance(item.command, Report)
            heard.append(item.command.reason)
            item.reply.set_result(item.command.reason == "3")
    assert await hearing == {trade_id}
    assert heard == [word.reason for word in words]


async def test_words_for_which_there_is_no_room_at_all_are_to_be_said_again() -> None:
    shard = a_shard(room=2)
    shards = Shards([shard], lambda _: CustomerId(1), Mock(), Metrics())
    for _ in range(4):
        shard.submit(CustomerId(1), Report(TradeId(uuid4()), ReportType.ACCEPTED, "sim"))
    with pytest.raises(Overloaded):
        await shards.report([Report(TradeId(uuid4()), ReportType.ACCEPTED, "sim")])
