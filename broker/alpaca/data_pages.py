"""Pages of rows of several symbols: sorted by symbol, then by time, so many at most in all."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from broker.alpaca.data_query import Past, Place
from broker.core.types import Symbol

_AT_ONCE = 1_000
"""Rows that are made before others get their turn on the loop: about 1 ms."""

Item = TypeVar("Item")
Row = TypeVar("Row")
Read = Callable[[Symbol, Place | None, int], Awaitable[Sequence[Item]]]
"""Reads at most so many of a symbol, after the place where the page before ended, where it ended in this symbol."""


async def read_page(
    symbols: Sequence[Symbol],
    wanted: Past,
    read: Read[Item],
    time_of: Callable[[Item], datetime],
    row_of: Callable[[Item], Row],
) -> tuple[dict[str, list[Row]], str | None]:
    """The rows of a page by symbol, and the token of the next one."""
    page: dict[str, list[Row]] = {}
    left, last = wanted.limit, wanted.after
    for symbol in symbols:
        if wanted.after is not None and symbol < wanted.after.symbol:
            continue
        before = wanted.after if wanted.after is not None and symbol == wanted.after.symbol else None
        found = await read(symbol, before, left + 1)
        shown = found[:left]
        if shown:
            page[symbol] = await _rows(shown, row_of)
            last = _last(symbol, shown, time_of, before)
            left -= len(shown)
        if len(found) > len(shown):
            assert last is not None, "a page has room for one row at least"
            return page, last.token
    return page, None


def _last(symbol: Symbol, found: Sequence[Item], time_of: Callable[[Item], datetime], before: Place | None) -> Place:
    """The place after these rows."""
    at = time_of(found[-1])
    count = sum(1 for each in found if time_of(each) == at)
    if before is not None and before.at == at:
        count += before.count
    return Place(symbol, at, count)


async def _rows(found: Sequence[Item], row_of: Callable[[Item], Row]) -> list[Row]:
    rows: list[Row] = []
    for begin in range(0, len(found), _AT_ONCE):
        rows += [row_of(each) for each in found[begin : begin + _AT_ONCE]]
        await asyncio.sleep(0)
    return rows


def from_memory(wanted: Past, kept: Callable[[Symbol], list[Item]], time_of: Callable[[Item], datetime]) -> Read[Item]:
    """Reads rows that are kept in memory, in the order of their times."""

    async def read(symbol: Symbol, after: Place | None, limit: int) -> Sequence[Item]:
        found = [each for each in kept(symbol) if wanted.start <= time_of(each) <= wanted.end]
        if wanted.newest_first:
            found.reverse()
        begin = 0 if after is None else _had(found, after, time_of, newest_first=wanted.newest_first)
        return found[begin : begin + limit]

    return read


def _had(found: Sequence[Item], after: Place, time_of: Callable[[Item], datetime], *, newest_first: bool) -> int:
    """How many of these the pages before have had."""
    earlier = sum(1 for each in found if (time_of(each) > after.at if newest_first else time_of(each) < after.at))
    return earlier + min(after.count, sum(1 for each in found if time_of(each) == after.at))
