"""A shard's queue: who gets in while it has much to do."""

import asyncio
from unittest.mock import Mock
from uuid import uuid4

import pytest

from broker.batch import Item, Overloaded
from broker.config import Config
from broker.core.messages import PlaceTrade
from broker.core.types import CustomerId, Side, TradeId
from broker.metrics import Metrics
from broker.shards import Shard, Shards
from tests.builders import AAPL

ROOM = 40


def a_shard() -> Shard:
    """One that nobody runs: what is in its queue stays there until a test takes it out."""
    return Shard(0, Mock(), Mock(), Mock(), Mock(), Mock(), Config(shard_queue_max=ROOM), Metrics())


def place(shard: Shard, customer: int) -> None:
    customer_id = CustomerId(customer)
    shard.submit(customer_id, PlaceTrade(TradeId(uuid4()), customer_id, AAPL, Side.BUY, 1, None))


async def test_recovery_leaves_room_for_who_trades_now() -> None:
    shard = a_shard()
    shards = Shards([shard], Mock(), Mock(), Metrics())
    recovery = asyncio.create_task(shards.recover({CustomerId(number): 0 for number in range(100)}))
    taken: list[Item] = []
    while not recovery.done():
        await asyncio.sleep(0.01)
        place(shard, 5_000)
        taken += shard._drain()
    assert [item.customer_id for item in taken if item.customer_id < 5_000] == list(range(100))


async def test_a_full_queue_is_said_to_be_full() -> None:
    shard = a_shard()
    for number in range(ROOM):
        place(shard, number)
    with pytest.raises(Overloaded):
        place(shard, ROOM)
