"""The rules of broker/sql/verify on the store of the simulation: each is a function of the same number.

It says what is broken, and nothing where the books are right.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from broker.core.account import may_rest
from broker.core.messages import Step
from broker.core.postings import CASH, House
from broker.core.states import TERMINAL, TRANSITIONS, WORKING
from broker.core.types import AccountType, OrderClass, Role, Side, Status, Trade, TradeId

if TYPE_CHECKING:
    from tests.sim.store import MemoryStore
    from tests.sim.store_rows import EventRow

_STATUS_CHANGE = frozenset((before, after) for before, following in TRANSITIONS.items() for after in following)


def broken(store: "MemoryStore") -> list[str]:
    """All that is wrong with the books, a sentence each."""
    return [f"{check.__name__}: {words}" for check in CHECKS for words in check(store)]


def no_account_is_overdrawn(store: "MemoryStore") -> Iterator[str]:
    """01"""
    for key, row in store.accounts.items():
        if row.held < 0 or row.balance - row.held < row.floor:
            yield f"{key} is {row}"


def transfers_sum_to_zero(store: "MemoryStore") -> Iterator[str]:
    """02"""
    sums: Counter[tuple[object, str]] = Counter()
    for each in store.postings:
        sums[each.transfer_id, each.asset] += each.amount
    for (transfer_id, asset), excess in sums.items():
        if excess:
            yield f"transfer {transfer_id} has {excess} too much of {asset}"


def balances_are_their_postings(store: "MemoryStore") -> Iterator[str]:
    """03"""
    posted: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for each in store.postings:
        sums = posted[each.owner_id, each.asset]
        sums[0], sums[1], sums[2] = sums[0] + each.amount, sums[1] + each.cost, sums[2] + each.gain
    for key, row in store.accounts.items():
        if [row.balance, row.cost, row.gain] != posted[key]:
            yield f"{key} is {row}, posted were {posted[key]}"


def postings_have_accounts_and_transfers(store: "MemoryStore") -> Iterator[str]:
    """04"""
    for each in store.postings:
        if (each.owner_id, each.asset) not in store.accounts or each.transfer_id not in store.transfers:
            yield f"{each} has no account or no transfer"


def held_is_what_open_trades_hold(store: "MemoryStore") -> Iterator[str]:
    """05"""
    held: Counter[tuple[int, str]] = Counter()
    for trade in store.trades.values():
        held[trade.customer_id, CASH if trade.side is Side.BUY else trade.symbol] += trade.hold
    for key, row in store.accounts.items():
        if row.held != held[key]:
            yield f"of {key} {row.held} are held, by trades {held[key]}"


def trades_are_their_executions(store: "MemoryStore") -> Iterator[str]:
    """06"""
    done: Counter[TradeId] = Counter()
    value: Counter[TradeId] = Counter()
    for each in store.executions.values():
        if not each.suspense and each.corrects is None:
            done[each.trade_id] += each.last_qty
            value[each.trade_id] += each.last_qty * each.last_px
    for id_, trade in store.trades.items():
        if (trade.filled_quantity, trade.filled_value) != (done[id_], value[id_]):
            yield f"trade {id_} has filled {trade.filled_quantity}, its executions are {done[id_]}"


def finished_trades_hold_nothing(store: "MemoryStore") -> Iterator[str]:
    """07"""
    for id_, trade in store.trades.items():
        if trade.status in TERMINAL and trade.hold:
            yield f"trade {id_} is {trade.status} and holds {trade.hold}"
        if (trade.status is Status.FILLED) != (trade.filled_quantity == trade.quantity):
            yield f"trade {id_} is {trade.status} with {trade.filled_quantity} of {trade.quantity} filled"


def executions_are_settled_once(store: "MemoryStore") -> Iterator[str]:
    """08"""
    moved: defaultdict[object, Counter[str]] = defaultdict(Counter)
    for posting in store.postings:
        if posting.owner_id < 0:
            house = -posting.owner_id % 10
            if house == House.CLEARING:
                moved[posting.transfer_id]["cash" if posting.asset == CASH else "shares"] += posting.amount
            elif house == House.FEES:
                moved[posting.transfer_id]["fee"] += posting.amount
    for each in store.executions.values():
        sign = 1 if store.trades[each.trade_id].side is Side.BUY else -1
        transfer = store.transfers.get(each.transfer_id)
        figures = moved[each.transfer_id]
        wanted = (sign * each.last_qty * each.last_px, -sign * each.last_qty, 0 if each.suspense else each.fee)
        if transfer is None or transfer.kind != ("suspense" if each.suspense else "fill"):
            yield f"{each} has no transfer of its kind"
        elif (figures["cash"], figures["shares"], figures["fee"]) != wanted:
            yield f"{each} moved {dict(figures)}, not {wanted}"


def fills_have_executions(store: "MemoryStore") -> Iterator[str]:
    """09"""
    settled = {each.transfer_id for each in store.executions.values()}
    busted = set(store.busts.values())
    for id_, transfer in store.transfers.items():
        if transfer.kind in {"fill", "suspense"} and id_ not in settled:
            yield f"{transfer} has no execution"
        if transfer.kind == "bust" and id_ not in busted:
            yield f"{transfer} has no bust"


def events_are_gapless(store: "MemoryStore") -> Iterator[str]:
    """10"""
    logged = _events_by_trade(store)
    for id_, trade in store.trades.items():
        events = logged[id_]
        numbers = [each.number for each in events]
        if numbers != list(range(1, trade.events + 1)):
            yield f"trade {id_} has {trade.events} events, logged are {numbers}"
        elif events[-1].status is not trade.status:
            yield f"trade {id_} is {trade.status}, its last event says {events[-1].status}"


def events_follow_the_state_table(store: "MemoryStore") -> Iterator[str]:
    """11"""
    for id_, events in _events_by_trade(store).items():
        if events[0].number == 1 and events[0].status is not Status.PLACED:
            yield f"trade {id_} begins {events[0].status}"
        for previous, event in pairwise(events):
            step = (previous.status, event.status)
            if step not in _STATUS_CHANGE and previous.status is not event.status:
                yield f"trade {id_} goes from {previous.status} to {event.status}"


def customers_number_their_trades(store: "MemoryStore") -> Iterator[str]:
    """12"""
    yield from _gaps("trades", [(trade.customer_id, trade.seq) for trade in store.trades.values()])


def trades_start_in_order(store: "MemoryStore") -> Iterator[str]:
    """13"""
    logged = _events_by_trade(store)
    lives: defaultdict[tuple[int, str], list[_Life]] = defaultdict(list)
    for trade in sorted(store.trades.values(), key=lambda each: each.seq):
        events = logged[trade.trade_id]
        if trade.replaces_filled is None and not any(each.step is Step.HELD for each in events):
            lives[trade.customer_id, trade.venue].append(_Life(trade, events))
    for of_one in lives.values():
        for number, later in enumerate(of_one):
            if later.started is not None:
                for earlier in of_one[:number]:
                    if earlier.passed is None or (
                        earlier.passed.at > later.started.at and earlier.passed_seq > later.started.seq
                    ):
                        yield f"trade {later.trade_id} starts before {earlier.trade_id} has ended or rests"


class _Life:
    """When a trade started, and when it no longer stood in the way of the next."""

    def __init__(self, trade: Trade, events: "list[EventRow]") -> None:
        self.trade_id = trade.trade_id
        started = [each for each in events if each.step is Step.STARTED]
        passing = [
            each
            for each in events
            if each.status in TERMINAL or (may_rest(trade) and each.step in {Step.ACCEPTED, Step.EXECUTED})
        ]
        self.started = min(started, key=lambda each: each.at, default=None)
        self.passed = min(passing, key=lambda each: each.at, default=None)
        self.passed_seq = min((each.seq for each in passing), default=0)


def cost_less_gain_is_bought_less_sold(store: "MemoryStore") -> Iterator[str]:
    """14"""
    net: Counter[tuple[int, str]] = Counter()
    for key, each in store.executions.items():
        if not each.suspense and key not in store.busts:
            trade = store.trades[each.trade_id]
            sign = 1 if trade.side is Side.BUY else -1
            net[trade.customer_id, trade.symbol] += sign * each.last_qty * each.last_px
    adjusted = set()
    for posting in store.postings:
        transfer = store.transfers.get(posting.transfer_id)
        if transfer is None:
            continue
        if transfer.kind == "corporate":
            adjusted.add((posting.owner_id, posting.asset))
        elif transfer.kind == "reset" and transfer.customer_id == posting.owner_id:
            net[posting.owner_id, posting.asset] += posting.cost - posting.gain
    for account, row in store.accounts.items():
        if account[0] > 0 and account[1] != CASH and account not in adjusted and row.cost - row.gain != net[account]:
            yield f"{account} is {row}, bought less sold is {net[account]}"


def busts_reverse_their_executions(store: "MemoryStore") -> Iterator[str]:
    """15"""
    for key, bust_id in store.busts.items():
        left: Counter[str] = Counter()
        both = (bust_id, store.executions[key].transfer_id)
        for each in store.postings:
            if each.transfer_id in both and each.owner_id < 0 and -each.owner_id % 10 == House.CLEARING:
                left[each.asset] += each.amount
        if any(left.values()):
            yield f"the bust of {key} leaves {dict(left)}"


def only_margin_accounts_owe_cash(store: "MemoryStore") -> Iterator[str]:
    """16"""
    for (owner_id, asset), row in store.accounts.items():
        if owner_id > 0 and (row.floor < 0 or row.balance < 0):
            customer = next((each for each in store.customers.values() if each.customer_id == owner_id), None)
            if customer is None or customer.account_type is not AccountType.MARGIN or asset != CASH:
                yield f"{owner_id} owes {asset}: {row}"


def replaced_trades_have_a_successor(store: "MemoryStore") -> Iterator[str]:
    """17"""
    replaced = {(trade.customer_id, trade.replaces) for trade in store.trades.values()}
    for id_, trade in store.trades.items():
        by_order = trade.status is Status.REPLACED and trade.reason.startswith("Replaced by order ")
        if by_order and (trade.customer_id, id_) not in replaced:
            yield f"trade {id_} is replaced by none"


def customers_number_their_events(store: "MemoryStore") -> Iterator[str]:
    """18"""
    yield from _gaps("events", [(each.customer_id, each.seq) for each in store.events])


def of_two_exits_one_is_at_the_exchange(store: "MemoryStore") -> Iterator[str]:
    """19"""
    for group, orders in _groups(store).items():
        if len({each.role for each in orders if each.role is not Role.ENTRY and each.status in WORKING}) > 1:
            yield f"both exits of {group} are at the exchange"


def groups_sell_what_they_bought(store: "MemoryStore") -> Iterator[str]:
    """20"""
    for group, orders in _groups(store).items():
        if any(each.order_class in {OrderClass.BRACKET, OrderClass.OTO} for each in orders):
            entered = [each.filled_quantity for each in orders if each.role is Role.ENTRY]
            left = sum(each.filled_quantity for each in orders if each.role is not Role.ENTRY)
            if entered and left > sum(entered):
                yield f"the exits of {group} traded {left}, its entry {sum(entered)}"


def held_exits_wait_for_an_open_order(store: "MemoryStore") -> Iterator[str]:
    """21"""
    for orders in _groups(store).values():
        for trade in orders:
            waits = trade.status is Status.HELD and trade.role is not Role.ENTRY and not trade.triggered
            if waits and not any(_is_waited_for(trade, other) for other in orders if other is not trade):
                yield f"exit {trade.trade_id} waits for nothing"


def _is_waited_for(trade: Trade, other: Trade) -> bool:
    if other.status not in TERMINAL:
        return other.status is not Status.HELD or other.role is not Role.STOP_LOSS
    alone = trade.role is Role.TAKE_PROFIT or trade.order_class is OrderClass.OTO
    return other.status is Status.FILLED and other.role is Role.ENTRY and alone


def cost_is_of_shares_that_are_there(store: "MemoryStore") -> Iterator[str]:
    """22"""
    for (owner_id, asset), row in store.accounts.items():
        if owner_id > 0 and (
            row.cost < 0 or (row.balance == 0 and row.cost != 0) or (asset == CASH and (row.cost != 0 or row.gain != 0))
        ):
            yield f"{owner_id}'s {asset} is {row}"


CHECKS = (
    no_account_is_overdrawn,
    transfers_sum_to_zero,
    balances_are_their_postings,
    postings_have_accounts_and_transfers,
    held_is_what_open_trades_hold,
    trades_are_their_executions,
    finished_trades_hold_nothing,
    executions_are_settled_once,
    fills_have_executions,
    events_are_gapless,
    events_follow_the_state_table,
    customers_number_their_trades,
    trades_start_in_order,
    cost_less_gain_is_bought_less_sold,
    busts_reverse_their_executions,
    only_margin_accounts_owe_cash,
    replaced_trades_have_a_successor,
    customers_number_their_events,
    of_two_exits_one_is_at_the_exchange,
    groups_sell_what_they_bought,
    held_exits_wait_for_an_open_order,
    cost_is_of_shares_that_are_there,
)


def _events_by_trade(store: "MemoryStore") -> "defaultdict[TradeId, list[EventRow]]":
    logged: defaultdict[TradeId, list[EventRow]] = defaultdict(list)
    for event in store.events:
        logged[event.trade_id].append(event)
    for events in logged.values():
        events.sort(key=lambda each: each.number)
    return logged


def _groups(store: "MemoryStore") -> dict[TradeId, list[Trade]]:
    groups: defaultdict[TradeId, list[Trade]] = defaultdict(list)
    for trade in store.trades.values():
        if trade.group is not None:
            groups[trade.group].append(trade)
    return groups


def _gaps(what: str, numbered: list[tuple[int, int]]) -> Iterator[str]:
    count: Counter[int] = Counter(customer_id for customer_id, _ in numbered)
    highest: defaultdict[int, int] = defaultdict(int)
    for customer_id, seq in numbered:
        highest[customer_id] = max(highest[customer_id], seq)
    for customer_id, number in count.items():
        if number != highest[customer_id]:
            yield f"customer {customer_id} has {number} {what}, the highest is {highest[customer_id]}"
