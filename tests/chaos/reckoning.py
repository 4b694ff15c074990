"""After the faults: has everything ended, and do clients, books and exchange tell the same story?"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import asyncpg

from broker.simulator.journal import Record
from broker.simulator.orders import Order
from broker.verify import verify
from tests.acceptance.system import TERMINAL
from tests.chaos.load import Asked, Ledger
from tests.chaos.world import AWAY, Found, World

STUCK_AFTER_S = 60.0
_SHOWN_MAX = 5

_TRADES = """
SELECT trade_id::text, customer_id::text, seq, status::text, filled_quantity, replaces::text, reason,
       idempotency_key, client_order_id, symbol, side::text, quantity, order_type::text, limit_price, stop_price,
       max_price, time_in_force::text
FROM trade
"""
_OPEN = """
SELECT trade_id::text, customer_id, seq, status, order_type, time_in_force, acknowledged, cancel_requested, reason,
       status IN ('IN PROGRESS', 'PARTIALLY FILLED') AND order_type <> 'market'
           AND acknowledged AND NOT cancel_requested AS rests
FROM trade WHERE status IN ('PLACED', 'HELD', 'IN PROGRESS', 'PARTIALLY FILLED')
"""


Trades = Mapping[str, Mapping[str, Any]]
"""Rows of the books by the ids of their trades."""


async def settled(world: World, found: Found, since: float, *, resting_may_stay: bool) -> float:
    """Wait until nothing is under way any more; how long after `since` that was. What still is after 60 s is stuck."""
    while True:
        still: list[dict[str, object]] = []
        try:
            rows = await world.fetch(_OPEN)
            still += [dict(row) for row in rows if not (resting_may_stay and row["rests"])]
        except AWAY as error:
            still.append({"database": repr(error)})
        took = time.monotonic() - since
        if not still:
            return took
        if took > STUCK_AFTER_S:
            found.wrong(f"{len(still)} orders are stuck after {took:.0f} s: {_some(still)}")
            return took
        await asyncio.sleep(0.2)


async def cancels_kept(world: World, ledger: Ledger, found: Found) -> None:
    """Every order of which a cancel was acknowledged has ended, though nobody asks for it again."""
    rows = await world.fetch("SELECT trade_id::text, status::text FROM trade")
    for sentence in open_though_cancelled(ledger, {row["trade_id"]: row["status"] for row in rows}):
        found.wrong(sentence)


def open_though_cancelled(ledger: Ledger, statuses: Mapping[str, str]) -> Iterator[str]:
    """The cancels that were acknowledged and forgotten."""
    for order_id in sorted(ledger.cancelled):
        status = statuses.get(order_id, "lost")
        if status not in TERMINAL:
            yield f"{order_id} is {status}, though its cancel was acknowledged"


async def compare(world: World, ledger: Ledger, found: Found) -> None:
    """Everything that can be wrong is wrong nowhere. The exchange has ended, so that its journal is nobody's."""
    broken = [each for each in await verify(world.dsn) if each.row is not None]
    for each in broken:
        found.wrong(f"broker verify: {each.rule}: {each.row}")
    trades = {row["trade_id"]: dict(row) for row in await world.fetch(_TRADES)}
    for sentence in (*as_told(ledger, trades), *as_asked(ledger, trades)):
        found.wrong(sentence)
    held = await world.fetch("SELECT owner_id, asset, held FROM account WHERE held <> 0")
    if held:
        found.wrong(f"{len(held)} accounts hold something for nobody: {_some(map(dict, held))}")
    inbox = await world.fetch("SELECT cause, payload, received_at::text FROM inbox")
    if inbox:
        found.wrong(f"{len(inbox)} words of the exchange contradict the books: {_some(map(dict, inbox))}")
    executions = await world.fetch("SELECT trade_id::text, execution_id, last_qty, last_px, suspense FROM execution")
    orders = _orders_of(world.journal())
    world.note_arrivals()
    for sentence in (
        *as_sent(orders, trades),
        *_as_executed(orders, trades, executions),
        *_in_order(world.arrived, trades),
    ):
        found.wrong(sentence)
    found.notes["orders in the books"] += len(trades)
    found.notes["orders at the exchange"] += len(orders)
    found.notes["executions"] += len(executions)
    found.notes["orders filled"] += sum(trade["status"] == "FILLED" for trade in trades.values())


def as_told(ledger: Ledger, trades: Trades) -> Iterator[str]:
    """What clients were told is so: nothing lost, nothing else than it was said to be, everything in its order."""
    for customer, ids in ledger.placed.items():
        lost = [each for each in ids if each not in trades]
        if lost:
            yield f"customer {customer}: {len(lost)} acknowledged orders are lost: {_some(lost)}"
        foreign = [each for each in ids if each in trades and trades[each]["customer_id"] != customer]
        if foreign:
            yield f"customer {customer} was told of somebody else's orders: {_some(foreign)}"
        seqs = [trades[each]["seq"] for each in ids if each in trades]
        if seqs != sorted(set(seqs)):
            yield f"customer {customer}: placed in another order than it was told: {seqs}"
    for order_id, status in ledger.ended.items():
        if order_id in trades and trades[order_id]["status"].lower() != status:
            yield f"{order_id} was said to be {status}, and is {trades[order_id]['status']}"
    for order_id, filled in ledger.filled.items():
        if order_id in trades and trades[order_id]["filled_quantity"] < filled:
            yield f"{order_id} was said to have filled {filled}, and has {trades[order_id]['filled_quantity']}"


def as_asked(ledger: Ledger, trades: Trades) -> Iterator[str]:
    """Every order is what its customer asked for under this name, and under the name is the order that it was told."""
    for order_id, trade in trades.items():
        name = trade["customer_id"], trade["idempotency_key"] or trade["client_order_id"] or ""
        asked, placed = ledger.asked.get(name), Asked(**{each.name: trade[each.name] for each in fields(Asked)})
        if asked != placed:
            yield f"{order_id}: customer {name[0]} asked as {name[1]} for {asked}, and has {placed}"
        told = ledger.by_key.get(name, order_id)
        if told != order_id:
            yield f"customer {name[0]} was told that {name[1]} is {told}, and it is {order_id}"


_AS_SENT = ("symbol", "side", "quantity", "order_type", "time_in_force", "limit_price", "stop_price", "max_price")


def as_sent(orders: Mapping[str, Order], trades: Trades) -> Iterator[str]:
    """Every order at the exchange is the one in our books."""
    for order_id, order in orders.items():
        trade = trades.get(order_id)
        if trade is None:
            continue  # said elsewhere
        ours = tuple(trade[name] for name in _AS_SENT)
        prices = (order.price, order.stop_price, order.max_price)
        theirs = (order.symbol, order.side, order.quantity, order.type, order.time_in_force, *prices)
        if ours != theirs:
            yield f"{order_id} is {ours} here, and {theirs} at the exchange"
        if order.replaces is not None and order.replaces.id != trade["replaces"]:
            yield f"{order_id} replaces {trade['replaces']} here, and {order.replaces.id} at the exchange"


def _orders_of(records: Iterable[Record]) -> dict[str, Order]:
    """All orders that the exchange has ever taken, by its journal."""
    orders: dict[str, Order] = {}
    for record in records:
        if record.order is not None:
            known = orders.get(record.order.id)
            if known is None or not known.is_finished or record.order.is_finished:
                orders[record.order.id] = record.order
        elif record.execution is not None:
            orders[record.of].execute(record.execution)
    return orders


def _as_executed(orders: Mapping[str, Order], trades: Trades, executions: Iterable[asyncpg.Record]) -> Iterator[str]:
    """Every execution of the exchange stands in our books once, with the same figures, and no other does."""
    ours: dict[str, tuple[str, int, int]] = {}
    for row in executions:
        if row["execution_id"] in ours:
            yield f"execution {row['execution_id']} is in the books twice"
        ours[row["execution_id"]] = (row["trade_id"], row["last_qty"], row["last_px"])
        if row["suspense"]:
            yield f"execution {row['execution_id']} went to suspense: {trades[row['trade_id']]}"
    theirs = {
        f"{order.id}-{number}": (order.id, execution.quantity, int(execution.price))
        for order in orders.values()
        for number, execution in enumerate(order.executions, 1)
    }
    for what, those in (
        ("not in the books", theirs.keys() - ours.keys()),
        ("not at the exchange", ours.keys() - theirs.keys()),
        ("not the same in both", {each for each in ours.keys() & theirs.keys() if ours[each] != theirs[each]}),
    ):
        if those:
            yield f"{len(those)} executions are {what}: {_some(sorted(those))}"
    unknown = orders.keys() - trades.keys()
    if unknown:
        yield f"the exchange has {len(unknown)} orders that nobody placed: {_some(sorted(unknown))}"
    for order_id, order in orders.items():
        if order_id in trades and trades[order_id]["status"] in TERMINAL and not order.is_finished:
            yield f"{order_id} is {trades[order_id]['status']} here, and open at the exchange"


def _in_order(arrived: Iterable[str], trades: Trades) -> Iterator[str]:
    """A customer's orders reached the exchange in the order placed. A replacement waits for nobody."""
    last: dict[str, tuple[int, str]] = {}
    for order_id in arrived:
        trade = trades.get(order_id)
        if trade is None or trade["replaces"] is not None:
            continue
        before, before_id = last.get(trade["customer_id"], (0, ""))
        if trade["seq"] < before:
            it = f"{order_id} (its {trade['seq']}.)"
            yield f"customer {trade['customer_id']}: {it} came to the exchange after {before_id} ({before}.)"
        last[trade["customer_id"]] = max((before, before_id), (trade["seq"], order_id))


def _some(rows: Iterable[object]) -> str:
    return "; ".join(str(row) for _, row in zip(range(_SHOWN_MAX), rows, strict=False))
