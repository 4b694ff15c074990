"""The decisions about orders: what a customer's command does to the account, up to the order's way to the exchange.

Each function takes the account as it stands, changes it, and returns the events that the ledger then commits. None of
them waits, reads a clock or does I/O; if the commit fails, the shard throws the account away and reads it again. What
the exchange then says of an order is decided in `broker.core.settlement`.

The order of a customer's trades is kept here: `start_next` starts a trade only when none before it is at work, unless
that one rests at the exchange, acknowledged, with its cash or shares on hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from broker.core import credit, risk
from broker.core.account import Account, rests
from broker.core.conditions import Conditions
from broker.core.credit import Case
from broker.core.messages import (
    CashMoved,
    MoveCash,
    PlaceTrade,
    Refusal,
    Refused,
    ReplaceTrade,
    Report,
    Step,
    TradeEvent,
)
from broker.core.money import Money, format_money, in_dollars
from broker.core.postings import Entry
from broker.core.states import TERMINAL, change, note
from broker.core.types import OrderType, Side, Status, Trade

PLACED_REASON = "Stored; its turn comes when your earlier trades are done."
REQUESTED = "Cancelled at your request."
ASKED = "asked"
"""The exchange's reason for a cancel that we asked for."""
_NOT_YET = " Not yet: the exchange decides what has traded before."
_REMEMBERED = timedelta(seconds=1)
"""How long the checks of conduct look back at least; a longer duplicate window lengthens it."""

# ------------------------------------------------------------------ placing and starting


def place(account: Account, command: PlaceTrade, conditions: Conditions) -> list[TradeEvent]:
    """Put a trade at the end of its customer's queue, or refuse it there for how it was placed."""
    trade = _new_trade(account, command, conditions)
    events = [_begin(account, trade, conditions)]
    refused = None
    if risk.may_be_refused_at_placing(account, conditions):
        refused = risk.first_refusal(risk.AT_PLACING, Case(account, trade, conditions))
    _remember(account, trade, conditions)
    if refused is None:
        account.waiting.append(trade)
    else:
        events.append(_refuse(trade, refused))
    return events


def _new_trade(account: Account, command: PlaceTrade, conditions: Conditions) -> Trade:
    return Trade(
        trade_id=command.trade_id,
        customer_id=command.customer_id,
        seq=account.last_seq + 1,
        symbol=command.symbol,
        side=command.side,
        quantity=command.quantity,
        created_at=conditions.now,
        venue=conditions.market.venue(command.symbol),
        order_type=command.order_type,
        time_in_force=command.time_in_force,
        limit_price=command.limit_price,
        stop_price=command.stop_price,
        client_order_id=command.client_order_id,
        idempotency_key=command.idempotency_key,
    )


def _begin(account: Account, trade: Trade, conditions: Conditions) -> TradeEvent:
    account.last_seq += 1
    trade.reason, trade.events = PLACED_REASON, 1
    return TradeEvent(trade, 1, trade.status, trade.reason, Step.PLACED)


def _remember(account: Account, trade: Trade, conditions: Conditions) -> None:
    limits = conditions.controls.limits(account.account_type, account.customer_id)
    since = trade.created_at - max(_REMEMBERED, timedelta(milliseconds=limits.duplicate_window_ms))
    placed = account.placed
    while placed and (placed[0].created_at < since or len(placed) >= 2 * limits.orders_per_second):
        placed.popleft()
    placed.append(trade)


def start_next(account: Account, conditions: Conditions) -> Iterator[TradeEvent]:
    """Start the trades whose turn it is: one goes to work, those before it that cannot are refused."""
    while account.waiting and may_start(account, conditions):
        yield start(account, account.waiting.popleft(), conditions)


def may_start(account: Account, conditions: Conditions) -> bool:
    """Whether it is the next trade's turn: none is at work before it, or only one whose exchange has gone away.

    An exchange that is down for long must not hold up a customer's trades at others; for its own, the checks say no.
    """
    if account.turn is None:
        return True
    at_work = account.working[account.turn]
    return not conditions.market.is_reachable(at_work.symbol)


def start(account: Account, trade: Trade, conditions: Conditions) -> TradeEvent:
    """Reserve what the trade can cost, or refuse it."""
    case = Case(account, trade, conditions)
    refused = risk.first_refusal(risk.AT_START, case)
    if refused is not None:
        return _refuse(trade, refused)
    return _work(account, trade, case, case.hold)


def _work(account: Account, trade: Trade, case: Case, hold: int) -> TradeEvent:
    """Send it: `hold` is what it reserves, of a replacement only what the replaced order does not hold already."""
    trade.hold = hold
    if trade.side is Side.BUY and trade.limit_price is None:
        trade.max_price = Money(case.hold - case.fees)
    account.holding(trade).reserve(hold)
    change(trade, Status.IN_PROGRESS, f"Sent to the exchange, with {_in_words(trade, case.hold)} reserved.")
    account.work(trade)
    return TradeEvent(trade, trade.events, trade.status, trade.reason, Step.STARTED)


def _in_words(trade: Trade, hold: int) -> str:
    return in_dollars(Money(hold)) if trade.side is Side.BUY else f"{hold} {trade.symbol}"


def _refuse(trade: Trade, refused: Refused) -> TradeEvent:
    event = end(trade, Status.REJECTED, refused.reason)
    event.refused = refused
    return event


def end(trade: Trade, status: Status, reason: str, report: Report | None = None) -> TradeEvent:
    """The trade's last step."""
    change(trade, status, reason)
    return TradeEvent(trade, trade.events, status, reason, Step.ENDED, report)


def remark(
    trade: Trade, step: Step, reason: str, report: Report | None = None, entry: Entry | None = None
) -> TradeEvent:
    """A step that leaves the trade's status as it is."""
    note(trade, reason)
    return TradeEvent(trade, trade.events, trade.status, reason, step, report, entry)


# ------------------------------------------------------------------ cancel and replace


def cancel(account: Account, trade: Trade, reason: str = REQUESTED) -> list[TradeEvent]:
    """End what is left of a trade: at once where it was not sent, else the exchange decides.

    A replacement that is on its way is cancelled with it, since one of the two will be at the exchange.
    """
    if trade.status is Status.PLACED:
        account.waiting.remove(trade)
        return [end(trade, Status.CANCELLED, reason)]
    both = [trade, *(each for each in account.working.values() if each.replaces == trade.trade_id)]
    return [_request_cancel(each, reason) for each in both if not each.cancel_requested and each.status not in TERMINAL]


def _request_cancel(trade: Trade, reason: str) -> TradeEvent:
    trade.cancel_requested = True
    return remark(trade, Step.CANCEL_REQUESTED, reason + _NOT_YET)


def reason_of_cancel(trade: Trade) -> str:
    """Why a trade that was to be cancelled is, as whoever asked for it said."""
    return trade.reason.removesuffix(_NOT_YET) if trade.reason.endswith(_NOT_YET) else REQUESTED


def replace(account: Account, old: Trade, command: ReplaceTrade, conditions: Conditions) -> list[TradeEvent] | Refused:
    """Put a new order in the place of an open one, or say why that is not possible (then nothing has happened).

    The new one reserves only what it needs more than the old one; the rest passes to it when the exchange has replaced.
    """
    wanted = _replacement(old, command)
    problem = _why_not(account, old, wanted)
    if problem is not None:
        return Refused(Refusal.CANNOT_BE_REPLACED, problem)
    if old.status is Status.PLACED:
        return _replace_waiting(account, old, wanted, conditions)
    return _replace_at_exchange(account, old, wanted, conditions)


def _replacement(old: Trade, command: ReplaceTrade) -> PlaceTrade:
    return PlaceTrade(
        trade_id=command.trade_id,
        customer_id=command.customer_id,
        symbol=old.symbol,
        side=old.side,
        quantity=old.leaves_quantity if command.quantity is None else command.quantity,
        order_type=old.order_type,
        time_in_force=old.time_in_force,
        limit_price=old.limit_price if command.limit_price is None else command.limit_price,
        stop_price=old.stop_price if command.stop_price is None else command.stop_price,
        client_order_id=command.client_order_id,
    )


def _why_not(account: Account, old: Trade, wanted: PlaceTrade) -> str | None:
    problem = None
    if old.order_type is OrderType.MARKET:
        problem = "a market order cannot be replaced, only cancelled."
    elif (wanted.limit_price is None) is not (old.limit_price is None):
        problem = f"a {old.order_type.replace('_', '-')} order has no limit price."
    elif (wanted.stop_price is None) is not (old.stop_price is None):
        problem = f"a {old.order_type.replace('_', '-')} order has no stop price."
    elif old.status is Status.PLACED:
        problem = None
    elif old.cancel_requested:
        problem = "it is being cancelled."
    elif not old.acknowledged:
        problem = "the exchange has not acknowledged it yet; try again in a moment."
    elif any(each.replaces == old.trade_id for each in account.working.values()):
        problem = "another order is about to replace it."
    return problem


def _replace_waiting(account: Account, old: Trade, wanted: PlaceTrade, conditions: Conditions) -> list[TradeEvent]:
    """The exchange has never heard of the old order, and never will; the new one waits for its turn like any other."""
    events = place(account, wanted, conditions)
    new = events[0].trade
    new.replaces = old.trade_id
    if new.status is Status.REJECTED:
        return events
    account.waiting.remove(old)
    return [*events, end(old, Status.REPLACED, f"Replaced by order {new.trade_id} before it was sent.")]


def _replace_at_exchange(account: Account, old: Trade, wanted: PlaceTrade, conditions: Conditions) -> list[TradeEvent]:
    trade = _new_trade(account, wanted, conditions)
    trade.replaces, trade.replaces_filled, trade.venue = old.trade_id, old.filled_quantity, old.venue
    events = [_begin(account, trade, conditions)]
    case = Case(account, trade, conditions, freed=old.hold)
    refused = risk.first_refusal((*risk.AT_PLACING, *risk.AT_START), case)
    _remember(account, trade, conditions)
    if refused is not None:
        return [*events, _refuse(trade, refused)]
    return [*events, _work(account, trade, case, max(0, case.hold - old.hold))]


# ------------------------------------------------------------------ estimates


@dataclass(slots=True)
class Estimate:
    """What an order would do; money in $0.0001. `cost` is None where no quote is known."""

    price: Money | None
    cost: Money | None
    fees: Money
    hold: int
    buying_power: Money
    buying_power_after: Money
    refusals: list[Refused]


def estimate(account: Account, command: PlaceTrade, conditions: Conditions) -> Estimate:
    """Look at an order as if its turn had come now, and leave everything as it is."""
    trade = _new_trade(account, command, conditions)
    case = Case(account, trade, conditions)
    refused = list(risk.refusals((*risk.AT_PLACING, *risk.AT_START), case))
    before = credit.spending_power(account, conditions)
    if trade.side is Side.SELL:
        return _estimated_sale(case, before, refused)
    cost = case.cost
    after = Money(max(0, before - case.hold))
    if cost is None:
        return Estimate(None, None, Money(0), case.hold, before, after, refused)
    return Estimate(cost.price, cost.least, cost.fees, case.hold, before, after, refused)


def _estimated_sale(case: Case, before: Money, refused: list[Refused]) -> Estimate:
    trade, price = case.trade, case.price
    if price is None:
        return Estimate(None, None, Money(0), trade.quantity, before, before, refused)
    proceeds = Money(trade.quantity * price)
    fees = credit.sale_fees(case, proceeds)
    return Estimate(price, Money(fees - proceeds), fees, trade.quantity, before, before, refused)


# ------------------------------------------------------------------ operators


def move_cash(account: Account, command: MoveCash, conditions: Conditions) -> CashMoved | Refused:
    """Credit or debit; a debit takes only what is available, and on margin what the positions do not need."""
    if command.amount < 0:
        most = credit.withdrawable(account, conditions)
        if -command.amount > most:
            figures = {"needed": format_money(Money(-command.amount)), "available": format_money(most)}
            return Refused(Refusal.INSUFFICIENT_FUNDS, f"less than {figures['needed']} is available.", figures)
    account.cash.add(command.amount)
    return CashMoved(command.customer_id, command.amount, command.reference)


def acknowledge(account: Account, trade: Trade) -> None:
    """The exchange has the order; where it may stay for days, the next of its customer's need not wait for it."""
    trade.acknowledged = True
    if rests(trade):
        account.pass_turn(trade)
