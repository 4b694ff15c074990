"""What must be so when everything has come to rest: the invariants of the books, and the exchange's truth.

The model here is naive on purpose: it adds up what stands on the exchange's tape, and looks at nothing that the core
has reckoned.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from broker.core.account import rests
from broker.core.messages import ReportType, Step
from broker.core.postings import CASH, House, house_owner
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Role, Side, Status, Trade
from tests.sim.exchange import VENUE
from tests.sim.store import MemoryStore
from tests.sim.store_rows import EventRow

if TYPE_CHECKING:
    from tests.sim.world import World


SOMETIMES = (
    "503: BrokenRule",
    "503: DatabaseUnavailable",
    "503: ExchangeUnavailable",
    "503: Overloaded",
    "503: Unanswered",
    "a bust",
    "a client gives up",
    "a correction",
    "a customer owes",
    "a fill after the end",
    "a kill",
    "a kill during recovery",
    "a known execution with other figures",
    "a late commit is fenced off",
    "a late commit lands",
    "a process is stopped",
    "a reply is lost",
    "a second copy of an order",
    "a word about a stranger's order",
    "a word overtakes the answer",
    "a word is lost for ever",
    "a word is said twice",
    "an account is stale",
    "an execution at a price that is not the customer's",
    "an execution in suspense",
    "an order expires",
    "an order is cancelled at the exchange",
    "an order is forgotten",
    "an order is forgotten in part",
    "an order is replaced at the exchange",
    "an order rests to the end",
    "an order that was forgotten is sent again",
    "another request under the same key",
    "an overfill",
    "held to the end",
    "held until its price came",
    "in the inbox: contradicts_execution",
    "in the inbox: refused_by_database",
    "in the inbox: unknown_execution",
    "in the inbox: unknown_trade",
    "reached: CANCELLED",
    "reached: EXPIRED",
    "reached: FILLED",
    "reached: REJECTED",
    "reached: REPLACED",
    "step: busted",
    "step: corrected",
    "step: restated",
    "step: triggered",
    "the database fails after a commit",
    "the database fails after a read",
    "the database fails and commits later",
    "the database fails before",
    "the database is away",
    "the database refuses",
    "the exchange answers 5xx",
    "the exchange denies what it has",
    "the exchange is asked before its word is taken",
    "the exchange is away",
    "the exchange's answer is lost",
    "the same request at once",
    "the same request again is answered with the first trade",
)
"""States that are worth reaching: one that a thousand seeds do not reach is a defect of the simulation."""


def note_what_was_reached(world: "World") -> None:
    """The states that the books show."""
    store = world.store
    for trade in store.trades.values():
        if trade.status in TERMINAL:
            world.sometimes[f"reached: {trade.status}"] += 1
        elif trade.status is Status.HELD:
            world.sometimes["held to the end"] += 1
        else:
            world.sometimes["an order rests to the end"] += 1
    for event in store.events:
        if event.step in {Step.BUSTED, Step.CORRECTED, Step.RESTATED, Step.TRIGGERED}:
            world.sometimes[f"step: {event.step}"] += 1
    for each in store.executions.values():
        world.sometimes["an execution in suspense"] += each.suspense
    for caught in store.inbox:
        world.sometimes[f"in the inbox: {caught.cause}"] += 1
    world.sometimes["a customer owes"] += len(world.controls.restricted_)


def unsettled(world: "World") -> list[str]:
    """What has not ended yet, and does not rest: nothing after a while without faults (I8, I9)."""
    found = [] if not world.exchange.untold else [f"{world.exchange.untold} words are on their way"]
    if not world.processes:
        found.append("no broker runs")
    orders = world.exchange.orders
    for trade in world.store.trades.values():
        if trade.status in TERMINAL or trade.status is Status.HELD:
            continue
        order = orders.get(trade.trade_id)
        at_rest = rests(trade) and not trade.cancel_requested and order is not None and order.is_open
        if not at_rest:
            found.append(f"{trade.trade_id} is {trade.status}, at the exchange {order and order.status}")
        elif order is not None and trade.filled_quantity != _counted(order.filled, trade):
            found.append(f"{trade.trade_id} has {trade.filled_quantity} filled, at the exchange {order.filled}")
    for order in orders.values():
        trade = world.store.trades[order.trade_id]
        if order.is_open and trade.status in TERMINAL:
            found.append(f"{trade.trade_id} is {trade.status}, and at the exchange it rests: nobody watches it")
        if order.is_open and not order.may_rest:
            found.append(f"{trade.trade_id} has not ended at the exchange")
    found += _still_watched(world)
    found += [f"{each} was executed, and is not in the books" for each in _missing(world)]
    return found


def held_too_long(world: "World") -> list[str]:
    """What is held although its price was reached: of an exit, after its entry has ended."""
    trades = world.store.trades.values()
    entries = {each.group for each in trades if each.role is Role.ENTRY and each.status not in TERMINAL}
    return [
        f"{each.trade_id} is held, and its price was reached: {each.reason}"
        for each in trades
        if each.status is Status.HELD
        and (each.group is None or each.group not in entries)
        and not _may_wait(world, each)
    ]


def _may_wait(world: "World", trade: Trade) -> bool:
    """There is a reason, which it says."""
    if trade.customer_id in world.controls.restricted_:
        return True
    return trade.reason.startswith(("It waits: insufficient", "It waits: wash trade"))


def refused_without_need(world: "World", event: EventRow, later: Sequence[EventRow]) -> str | None:
    """Why an order need not have been refused. What it lacked it may have lacked even more when it was decided on.

    Most are decided after the rest of their batch; a replacement at once, without what is freed `later` in the batch.
    """
    if event.step is not Step.ENDED or event.status is not Status.REJECTED or event.trade_id in world.exchange.said_no:
        return None
    store, drawn = world.store, world.drawn
    trade = store.trades[event.trade_id]
    customer_id, symbol = trade.customer_id, trade.symbol
    asset = CASH if trade.side is Side.BUY else symbol
    row = store.accounts.get((customer_id, asset))
    available = row.balance - row.held if row is not None else 0
    needed = trade.quantity
    if trade.side is Side.BUY:
        price = trade.limit_price or world.highest[symbol]
        needed *= price + price * (trade.trail_bps or 0) // 10_000 + 1
    match event.reason.split(":")[0]:
        case "insufficient shares":
            is_needed = trade.side is Side.SELL and (available < needed or _frees(store, customer_id, later))
        case "insufficient funds":
            is_needed = trade.side is Side.BUY and (available < needed or _frees(store, customer_id, later))
        case "trading stopped":
            is_needed = customer_id in world.controls.restricted_
        case "exchange unavailable":
            is_needed = bool(drawn.call_fails or drawn.answer_lost or drawn.call_slow or drawn.outages)
        case "wash trade":
            others = (each for each in store.trades.values() if each.customer_id == customer_id)
            is_needed = any(each.symbol == symbol and each.side is not trade.side for each in others)
        case _:
            is_needed = False
    return None if is_needed else f"{trade.trade_id} was refused without need, with {available} {asset}: {event.reason}"


def _frees(store: MemoryStore, customer_id: CustomerId, events: Sequence[EventRow]) -> bool:
    """Whether an order that was at work ends here, or some of it does: its hold is the customer's again."""
    started = {each.trade_id for each in store.events if each.step is Step.STARTED}
    return any(
        each.customer_id == customer_id and each.trade_id in started and each.step in {Step.EXECUTED, Step.ENDED}
        for each in events
    )


def _counted(filled: int, trade: Trade) -> int:
    return filled - sum(each.last_qty for each in trade.executions.values() if each.suspense and each.corrects is None)


def _missing(world: "World") -> list[str]:
    """Executions of the tape that we do not have, and busts of them; those that went to the inbox are there."""
    store = world.store
    missing = []
    for each in world.exchange.tape.values():
        key = (VENUE, each.execution_id)
        if (key not in store.executions or (each.busted and key not in store.busts)) and not _is_in_inbox(store, each):
            missing.append(f"{each.execution_id} of {each.trade_id}" + (", busted" if each.busted else ""))
    return missing


def _is_in_inbox(store: MemoryStore, each: object) -> bool:
    """What the database refused: a person has to look."""
    id_ = repr(each.execution_id)  # type: ignore[attr-defined]
    return any(caught.cause == "refused_by_database" and id_ in caught.payload for caught in store.inbox)


def at_the_end(world: "World") -> Iterator[str]:
    """All that is wrong."""
    yield from world.store.verify()
    yield from _executions(world)
    yield from _money(world)
    yield from _suspense_has_a_reason(world)
    yield from _ends_are_the_exchanges(world)
    yield from _keys(world)
    yield from _memory_is_the_database(world)


def _executions(world: "World") -> Iterator[str]:
    """I4, I9: ours are the exchange's, with its figures."""
    tape = world.exchange.tape
    for (_, id_), ours in world.store.executions.items():
        theirs = tape.get(id_)
        if theirs is None:
            yield f"execution {id_} was never made"
        elif (ours.trade_id, ours.last_qty, ours.last_px) != (theirs.trade_id, theirs.quantity, theirs.price):
            yield f"execution {id_} is {ours}, and was {theirs}"
        elif ((VENUE, id_) in world.store.busts) is not theirs.busted and not _is_in_inbox(world.store, theirs):
            yield f"execution {id_} is {'not ' if theirs.busted else ''}busted in the books"


def _memory_is_the_database(world: "World") -> Iterator[str]:
    """What a shard would decide on next; of an account that another process has changed, nothing."""
    rows = world.store.accounts
    for process in world.processes.values():
        for account in (
            each for worker in process.workers if worker.at_rest for each in worker._memory.accounts.values()
        ):
            customer_id = account.customer_id
            if account.version != rows[customer_id, CASH].version:
                continue
            for asset, holding in ((CASH, account.cash), *account.positions.items()):
                row = rows[customer_id, asset]
                if (holding.balance, holding.held) != (row.balance, row.held):
                    yield f"{asset} of {customer_id} is {holding} in memory, and {row}"


def _still_watched(world: "World") -> Iterator[str]:
    """What has ended nobody asks about any more. (Another process may not have heard of it.)"""
    if world.drawn.second_process or world.drawn.stops:
        return
    for process in world.processes.values():
        for trade_id in process.desk._watched:
            if world.store.trades[trade_id].status in TERMINAL:
                yield f"{trade_id} has ended, and the desk still asks about it"


def cash_moves(store: MemoryStore, customer_id: CustomerId) -> dict[str, int]:
    """What operators moved, by reference, the opening deposit too."""
    moved: dict[str, int] = {}
    for transfer in store.transfers.values():
        if transfer.kind == "cash" and transfer.customer_id == customer_id:
            amounts = [
                each.amount
                for each in store.postings
                if each.transfer_id == transfer.transfer_id and each.owner_id == customer_id
            ]
            moved[transfer.reference] = moved.get(transfer.reference, 0) + sum(amounts)
    return moved


def _money(world: "World") -> Iterator[str]:
    """Cash and shares of each customer, and of the broker, from the tape alone."""
    store = world.store
    expected: Counter[tuple[int, str]] = Counter()
    for customer_id in store.customers:
        for amount in cash_moves(store, customer_id).values():
            expected[customer_id, CASH] += amount
    for each in world.exchange.tape.values():
        key = (VENUE, each.execution_id)
        if key not in store.executions or each.busted:
            continue
        trade = store.trades[each.trade_id]
        sign = 1 if trade.side is Side.BUY else -1
        owner = _SUSPENSE if store.executions[key].suspense else trade.customer_id
        expected[owner, trade.symbol] += sign * each.quantity
        expected[owner, CASH] -= sign * each.quantity * each.price
    actual: Counter[tuple[int, str]] = Counter()
    owed: Counter[str] = Counter()
    for (owner, asset), row in store.accounts.items():
        if owner > 0:
            actual[owner, asset] += row.balance
        elif -owner % 10 == _number(House.SUSPENSE):
            actual[_SUSPENSE, asset] += row.balance
        elif -owner % 10 == _number(House.RECEIVABLE):
            owed[asset] += row.balance
    wrong = {key for key in {*expected, *actual} if expected[key] != actual[key]}
    if _busts_are_pending(world):
        return
    for owner, asset in sorted(wrong):
        if owner == _SUSPENSE or not owed[asset]:
            yield f"{owner} has {actual[owner, asset]} {asset}, and should have {expected[owner, asset]}"
    for asset, amount in owed.items():
        short = sum(actual[key] - expected[key] for key in wrong if key[1] == asset and key[0] != _SUSPENSE)
        if amount and short != -amount:
            yield f"customers owe {amount} {asset}, and have {short} more than they should"


_SUSPENSE = 0


def _number(house: House) -> int:
    return -house_owner(0, house) % 10


def _busts_are_pending(world: "World") -> bool:
    """A bust that the database refused is for a person."""
    return any(
        each.busted
        and (VENUE, each.execution_id) in world.store.executions
        and (VENUE, each.execution_id) not in world.store.busts
        for each in world.exchange.tape.values()
    )


def _suspense_has_a_reason(world: "World") -> Iterator[str]:
    """Nothing goes to suspense where the exchange did nothing strange."""
    drawn = world.drawn
    if drawn.overfill or drawn.after_end or drawn.too_dear or drawn.restarts or drawn.stops:
        return
    for each in world.store.executions.values():
        if each.suspense:
            yield f"{each.execution_id} is in suspense, and nothing was wrong with it"


_ENDS = {
    ReportType.FILLED: {Status.FILLED},
    ReportType.REJECTED: {Status.REJECTED},
    ReportType.CANCELLED: {Status.CANCELLED},
    ReportType.EXPIRED: {Status.EXPIRED},
    ReportType.REPLACED: {Status.REPLACED},
}


def _ends_are_the_exchanges(world: "World") -> Iterator[str]:
    """An order ended as the exchange says, where that says one thing only."""
    drawn = world.drawn
    if drawn.overfill or drawn.after_end or drawn.too_dear or drawn.restarts or drawn.stops:
        return
    for order in world.exchange.orders.values():
        status = world.store.trades[order.trade_id].status
        if order.status in _ENDS and status not in _ENDS[order.status]:
            yield f"{order.trade_id} is {status}, and at the exchange {order.status}"


def _keys(world: "World") -> Iterator[str]:
    """A key makes one trade."""
    seen: defaultdict[tuple[int, str], list[Trade]] = defaultdict(list)
    for trade in world.store.trades.values():
        for key in (trade.idempotency_key, trade.client_order_id):
            if key is not None:
                seen[trade.customer_id, key].append(trade)
    for key, trades in seen.items():
        if len(trades) > 1:
            yield f"{key} made {len(trades)} trades"
