"""A reader of order updates while the database tells less than was heard: fakes of the database, no clock."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import cast

import pytest

from broker.config import Config
from broker.core.types import CustomerId
from broker.order_feed import BooksSetBack, OrderFeed
from broker.order_updates import OrderUpdates
from broker.updates import Updates

ADA, BOB = CustomerId(1001), CustomerId(1002)
SILENCE_S = 60.0


class Books:
    """Has so many updates of each customer. What `meanwhile` does happens after it has looked, before it answers."""

    def __init__(self) -> None:
        self.newest_seq = {ADA: 3, BOB: 3}
        self.meanwhile: Callable[[], None] = lambda: None
        self.has_read = asyncio.Event()
        self.readers: list[CustomerId] = []
        self.answers_of = {ADA: asyncio.Event(), BOB: asyncio.Event()}
        for each in self.answers_of.values():
            each.set()

    async def newest(self, customer_id: CustomerId) -> int:
        return self.newest_seq[customer_id]

    async def newest_of(self, customer_ids: Sequence[CustomerId]) -> dict[CustomerId, int]:
        found = {each: self.newest_seq[each] for each in customer_ids}
        self.meanwhile()
        return found

    async def read(self, customer_id: CustomerId, after: int, limit: int) -> list[tuple[int, bytes]]:
        self.has_read.set()
        self.readers.append(customer_id)
        await self.answers_of[customer_id].wait()
        return [(seq, b"%d" % seq) for seq in range(after + 1, self.newest_seq[customer_id] + 1)][:limit]


@pytest.fixture
def books() -> Books:
    return Books()


@pytest.fixture
def feed(books: Books) -> OrderFeed:
    return OrderFeed(cast(OrderUpdates, books), Updates(), Config())


async def test_a_reader_ends_when_what_it_has_is_gone_from_the_database(books: Books, feed: OrderFeed) -> None:
    with feed.follow(ADA) as reader, feed.follow(BOB) as other:
        for each in (reader, other):
            await each.begin(None)
        waiting = asyncio.create_task(reader.next(SILENCE_S))
        await feed.check()
        books.newest_seq[ADA] = 2
        await feed.check()
        with pytest.raises(BooksSetBack, match=r"^The books were set back; ask for your orders, and connect again\.$"):
            await waiting
        books.newest_seq[BOB] = 4
        await feed.check()
        assert await other.next(SILENCE_S) == [(4, b"4")]


async def test_a_reader_that_asks_for_what_it_heard_of_in_vain_ends(books: Books, feed: OrderFeed) -> None:
    with feed.follow(ADA) as reader:
        await reader.begin(None)
        reader.hear(4)  # of a commit that was lost, before it was read
        waiting = asyncio.create_task(reader.next(SILENCE_S))
        await books.has_read.wait()
        await feed.check()
        books.newest_seq[ADA] = 4  # the number is given out again: what has it is not what we heard of
        with pytest.raises(BooksSetBack):
            await waiting


async def test_what_is_committed_while_the_database_is_asked_is_no_setback(books: Books, feed: OrderFeed) -> None:
    with feed.follow(ADA) as reader:
        await reader.begin(None)

        def commit() -> None:
            books.newest_seq[ADA] += 1
            reader.hear(books.newest_seq[ADA])

        books.meanwhile = commit
        for _ in range(3):
            await feed.check()
        assert [seq for seq, _ in await reader.next(SILENCE_S)] == [4, 5, 6]


async def test_one_who_comes_while_the_database_is_asked_is_no_setback(books: Books, feed: OrderFeed) -> None:
    with feed.follow(ADA) as reader, feed.follow(BOB) as late:
        await reader.begin(None)
        books.meanwhile = lambda: late.hear(3)
        await feed.check()
        books.meanwhile = lambda: None
        await feed.check()
        books.newest_seq[BOB] = 4
        await feed.check()
        assert [seq for seq, _ in await late.next(SILENCE_S)] == [1, 2, 3, 4]


async def test_however_many_catch_up_what_is_new_is_read_at_once(books: Books, feed: OrderFeed) -> None:
    books.newest_seq[ADA] = 10 * Config().order_stream_page
    books.answers_of[ADA].clear()
    with ExitStack() as followed:
        catching_up = [followed.enter_context(feed.follow(ADA)) for _ in range(8)]
        for each in catching_up:
            await each.begin(0)
        waiting = [asyncio.create_task(each.next(SILENCE_S)) for each in catching_up]
        await books.has_read.wait()
        live = followed.enter_context(feed.follow(BOB))
        await live.begin(2)
        assert await asyncio.wait_for(live.next(SILENCE_S), 1.0) == [(3, b"3")]
        books.answers_of[ADA].set()
        assert {len(each) for each in await asyncio.gather(*waiting)} == {Config().order_stream_page}


async def test_who_is_far_behind_waits_for_one_read_of_each_customer_and_not_of_each_stream(
    books: Books, feed: OrderFeed
) -> None:
    page = Config().order_stream_page
    books.newest_seq = {ADA: 10 * page, BOB: 10 * page}
    books.answers_of[ADA].clear()
    with ExitStack() as followed:
        readers = [followed.enter_context(feed.follow(customer_id)) for customer_id in [ADA] * 8 + [BOB]]
        for each in readers:
            await each.begin(0)
        waiting = [asyncio.create_task(each.next(SILENCE_S)) for each in readers]
        await books.has_read.wait()
        books.answers_of[ADA].set()
        assert {len(each) for each in await asyncio.gather(*waiting)} == {page}
    assert books.readers == [ADA, BOB, *[ADA] * 7]


async def test_who_leaves_while_it_waits_to_catch_up_leaves_its_turn_to_others(books: Books, feed: OrderFeed) -> None:
    page = Config().order_stream_page
    books.newest_seq = {ADA: 10 * page, BOB: 10 * page}
    books.answers_of[ADA].clear()
    with ExitStack() as followed:
        readers = [followed.enter_context(feed.follow(customer_id)) for customer_id in (ADA, ADA, ADA, BOB)]
        for each in readers:
            await each.begin(0)
        waiting = [asyncio.create_task(each.next(SILENCE_S)) for each in readers]
        await books.has_read.wait()
        for task in waiting[:2]:  # one that reads, one that waits
            task.cancel()
        await asyncio.wait(waiting[:2])
        books.answers_of[ADA].set()
        assert [len(each) for each in await asyncio.gather(*waiting[2:])] == [page, page]
