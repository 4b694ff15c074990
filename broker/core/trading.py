"""The decisions about orders: what a customer's command does to the account, up to the order's way to the exchange.

Each function takes the account as it stands, changes it, and returns the events that the ledger then commits. None of
them waits, reads a clock or does I/O; if the commit fails, the shard throws the account away and reads it again. What
the exchange then says of an order is decided in `broker.core.settlement`.

The order of a customer's trades is kept here: `start_next` starts a trade only when none before it is at work, unless
that one rests at the exchange, acknowledged, with its cash or shares on hold.
"""

from collections.abc import Iterator, Sequence
from copy import copy
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
from broker.core.types import OrderType, Side, Status, TimeInForce, Trade

PLACED_REASON = "Stored; its turn comes when your earlier trades are done."
REQUESTED = "Cancelled at your request."
ASKED = "asked"
"""The exchange's reason for a cancel that we asked for."""
_NOT_YET = " Not yet: the exchange decides what has traded before."
_REMEMBERED = timedelta(seconds=1)
"""How long the checks of conduct look back at least; a longer duplicate window lengthens it."""

# ------------------------------------------------------------------ placing and starting


def place(
    account: Account, command: PlaceTrade, conditions: Conditions, refused: Refused | None = None
) -> list[TradeEvent]:
    """Put a trade at the end of its customer's queue, or refuse it there: for how it was placed, or as `refused`."""
    return _place(account, new_trade(account, command, conditions), conditions, refused)


def refusal(account: Account, command: PlaceTrade, conditions: Conditions) -> Refused | None:
    """Why an order would be refused if its turn were now; nothing changes."""
    case = Case(account, new_trade(account, command, conditions), conditions)
    return risk.first_refusal((*risk.AT_PLACING, *risk.AT_START), case)


def _place(account: Account, trade: Trade, conditions: Conditions, refused: Refused | None = None) -> list[TradeEvent]:
    events = [_begin(account, trade, conditions)]
    if refused is None and risk.may_be_refused_at_placing(account, conditions):
        refused = risk.first_refusal(risk.AT_PLACING, Case(account, trade, conditions))
    _remember(account, trade, conditions)
    if refused is None:
        account.waiting.append(trade)
    else:
        events.append(_refuse(trade, refused))
    return events


def new_trade(account: Account, command: PlaceTrade, conditions: Conditions) -> Trade:
    """The order as it would be placed now."""
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
        trail_amount=command.trail_amount,
        trail_bps=command.trail_bps,
        extended_hours=command.extended_hours,
        waits_for_open=command.waits_for_open,
    )


def _begin(account: Account, trade: Trade, conditions: Conditions) -> TradeEvent:
    account.last_seq += 1
    trade.reason, trade.events = PLACED_REASON, 1
    return TradeEvent(trade, 1, trade.status, trade.reason, Step.PLACED)


def _remember(account: Account, trade: Trade, conditions: Conditions) -> None:
    limits = conditions.controls.limits(account.account_type, account.customer_id)
    window = max(_REMEMBERED, timedelta(milliseconds=limits.duplicate_window_ms))
    since, account.placed_until = trade.created_at - window, trade.created_at + window
    placed = account.placed
    while placed and (placed[0].created_at < since or len(placed) >= 2 * limits.orders_per_second):
        placed.popleft()
    placed.append(trade)


def start_next(account: Account, conditions: Conditions) -> Iterator[TradeEvent]:
    """Start the trades whose turn it is: one goes to work, those before it that cannot are refused."""
    while account.waiting and may_start(account, conditions):
        yield start(account, account.waiting.popleft(), conditions)


def may_start(account: Account, conditions: Conditions) -> bool:
    """Whether it is the next trade's turn: none is at work before it, or only such whose exchanges have gone away.

    An exchange that is down for long must not hold up a customer's trades at others; for its own, the checks say no.
    """
    at_work = (account.working[each] for each in account.turns)
    return not any(conditions.market.is_reachable(each.symbol) for each in at_work)


def start(account: Account, trade: Trade, conditions: Conditions) -> TradeEvent:
    """Reserve what the trade can cost and let it go, or refuse it. What was held here is looked at as a new one."""
    _give_back(account, trade)
    case = Case(account, trade, conditions)
    refused = risk.first_refusal(risk.AT_START, case)
    if refused is not None:
        return _refuse(trade, refused)
    if trade.order_type is OrderType.TRAILING_STOP and not trade.triggered:
        reason = "It follows the market, and is held until its price is reached."
        return _hold_with(account, trade, case, reason)
    if trade.waits_for_open and trade.order_type is OrderType.MARKET and not conditions.is_open:
        return _hold_with(account, trade, case, "Held until the market opens.")
    return _work(account, trade, case, case.hold)


def why_not_yet(account: Account, trade: Trade, conditions: Conditions, others: Sequence[Trade] = ()) -> Refused | None:
    """What stands in the way of an order that is held here, if it were to go out now; nothing changes.

    It was accepted when it was placed, so only what may have changed is looked at: on the account as it is then, when
    this order, and the `others` of its group that go before it does, have given back what they hold.
    """
    return risk.first_refusal(risk.AT_TRIGGER, Case(_without(account, (trade, *others)), trade, conditions))


def _without(account: Account, trades: Sequence[Trade]) -> Account:
    """A copy to look at, in which these orders reserve nothing; what this changes nothing of is shared.

    `waiting` is: an order of a group that waits for its turn has reserved nothing yet.
    """
    then = copy(account)
    then.cash, then.positions = copy(account.cash), account.positions.copy()
    then.held, then.working = account.held.copy(), account.working.copy()
    for symbol in {each.symbol for each in trades} & account.positions.keys():
        then.positions[symbol] = copy(account.positions[symbol])
    for each in trades:
        then.held.pop(each.trade_id, None)
        then.working.pop(each.trade_id, None)
        if each.hold:
            then.holding(each).release(each.hold)
    return then


def let_go(account: Account, trade: Trade, conditions: Conditions) -> TradeEvent:
    """Send an order that was held here; `why_not_yet` has nothing against it."""
    _give_back(account, trade)
    case = Case(account, trade, conditions)
    return _work(account, trade, case, case.hold)


def _give_back(account: Account, trade: Trade) -> None:
    """It is not held here any more, and reserves nothing."""
    account.held.pop(trade.trade_id, None)
    if trade.hold:
        account.holding(trade).release(trade.hold)
        trade.hold = 0


def _hold_with(account: Account, trade: Trade, case: Case, reason: str) -> TradeEvent:
    """Reserve what it needs already now, and hold it here."""
    _reserve(account, trade, case, case.hold)
    return hold_back(account, trade, reason)


def hold_back(account: Account, trade: Trade, reason: str) -> TradeEvent:
    """Hold an order here: for its entry, its price or the opening."""
    account.held[trade.trade_id] = trade
    if trade.status is Status.HELD:  # it was held for something else
        return remark(trade, Step.HELD, reason)
    change(trade, Status.HELD, reason)
    return TradeEvent(trade, trade.events, trade.status, reason, Step.HELD)


def drop(account: Account, trade: Trade, status: Status, reason: str) -> TradeEvent:
    """End an order that is held here, or was and waits for its turn: the exchange has never heard of it."""
    if trade.trade_id not in account.held:
        account.leave_queue(trade)
    _give_back(account, trade)
    return end(trade, status, reason)


def _work(account: Account, trade: Trade, case: Case, hold: int) -> TradeEvent:
    """Send it: `hold` is what it reserves, of a replacement only what the replaced order does not hold already."""
    _reserve(account, trade, case, hold)
    change(trade, Status.IN_PROGRESS, f"Sent to the exchange, with {_in_words(trade, case.hold)} reserved.")
    account.work(trade)
    return TradeEvent(trade, trade.events, trade.status, trade.reason, Step.STARTED)


def _reserve(account: Account, trade: Trade, case: Case, hold: int) -> None:
    trade.hold = hold
    if trade.side is Side.BUY and trade.limit_price is None:
        trade.max_price = Money(case.hold - case.fees)
    account.holding(trade).reserve(hold)


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
        account.leave_queue(trade)
        return [end(trade, Status.CANCELLED, reason)]
    if trade.status is Status.HELD:
        return [drop(account, trade, Status.CANCELLED, reason)]
    standing_in = (each for each in account.working.values() if each.replaces is not None)  # few: == of ids is slow
    both = [trade, *(each for each in standing_in if each.replaces == trade.trade_id)]
    return [_request_cancel(each, reason) for each in both if not each.cancel_requested and each.status not in TERMINAL]


def _request_cancel(trade: Trade, reason: str) -> TradeEvent:
    trade.cancel_requested, trade.cancel_reason = True, reason
    return remark(trade, Step.CANCEL_REQUESTED, reason + _NOT_YET)


def reason_of_cancel(trade: Trade) -> str:
    """Why a trade that was to be cancelled is, as whoever asked for it said; after a restart, that somebody has."""
    if trade.cancel_reason:
        return trade.cancel_reason
    return trade.reason.removesuffix(_NOT_YET) if trade.reason.endswith(_NOT_YET) else "Cancelled, as was asked for."


def replace(account: Account, old: Trade, command: ReplaceTrade, conditions: Conditions) -> list[TradeEvent] | Refused:
    """Put a new order in the place of an open one, or say why that is not possible (then nothing has happened).

    The new one reserves only what it needs more than the old one; the rest passes to it when the exchange has replaced.
    """
    wanted = _replacement(old, command)
    problem = _why_not(account, old, wanted, command)
    if problem is not None:
        return Refused(Refusal.CANNOT_BE_REPLACED, problem)
    new = _stand_in(account, old, wanted, conditions)
    if old.status is Status.PLACED:
        return _replace_waiting(account, old, new, conditions)
    if old.status is Status.HELD:
        return _replace_held(account, old, new, conditions)
    return _replace_at_exchange(account, old, new, conditions)


def _replacement(old: Trade, command: ReplaceTrade) -> PlaceTrade:
    return PlaceTrade(
        trade_id=command.trade_id,
        customer_id=command.customer_id,
        symbol=old.symbol,
        side=old.side,
        quantity=_new_quantity(old, command),
        order_type=old.order_type,
        time_in_force=command.time_in_force or old.time_in_force,
        limit_price=old.limit_price if command.limit_price is None else command.limit_price,
        stop_price=old.stop_price if command.stop_price is None else command.stop_price,
        client_order_id=command.client_order_id,
        trail_amount=old.trail_amount if command.trail is None or old.trail_amount is None else command.trail,
        trail_bps=old.trail_bps if command.trail is None or old.trail_bps is None else command.trail // 100,
        extended_hours=old.extended_hours,
        waits_for_open=old.waits_for_open,
    )


def _new_quantity(old: Trade, command: ReplaceTrade) -> int:
    if command.quantity is None:
        return old.leaves_quantity
    return command.quantity - old.filled_quantity if command.counts_filled else command.quantity


_LASTING = frozenset({TimeInForce.DAY, TimeInForce.GTC})


def _why_not(account: Account, old: Trade, wanted: PlaceTrade, command: ReplaceTrade) -> str | None:
    return _why_not_with_these_figures(old, wanted, command) or _why_not_now(account, old)


def _why_not_with_these_figures(old: Trade, wanted: PlaceTrade, command: ReplaceTrade) -> str | None:
    problem = None
    if old.order_type is OrderType.MARKET:
        problem = "a market order cannot be replaced, only cancelled."
    elif (wanted.limit_price is None) is not (old.limit_price is None):
        problem = f"a {old.order_type.replace('_', '-')} order has no limit price."
    elif old.triggered and old.order_type is OrderType.TRAILING_STOP:
        problem = "its price was reached: it is a stop order by now, which can only be cancelled."
    elif (wanted.stop_price is None) is not (old.stop_price is None):
        problem = f"a {old.order_type.replace('_', '-')} order has no stop price."
    elif wanted.quantity <= 0:
        problem = f"{old.filled_quantity} of it have filled already."
    elif command.trail is not None and (trail := _why_no_trail(old, command.trail)):
        problem = trail
    elif wanted.time_in_force is not old.time_in_force and not {wanted.time_in_force, old.time_in_force} <= _LASTING:
        problem = "its time in force can only change between day and gtc."
    elif old.group is not None and wanted.quantity != old.leaves_quantity:
        problem = "it belongs together with other orders, of which only the prices can be replaced."
    return problem


def _why_not_now(account: Account, old: Trade) -> str | None:
    problem = None
    if old.triggered and old.status is Status.HELD:
        problem = "its price is reached, and it is about to be sent."
    elif old.status in {Status.PLACED, Status.HELD}:
        problem = None
    elif old.cancel_requested:
        problem = "it is being cancelled."
    elif not old.acknowledged:
        problem = "the exchange has not acknowledged it yet; try again in a moment."
    elif any(each.replaces == old.trade_id for each in account.working.values()):
        problem = "another order is about to replace it."
    return problem


def _stand_in(account: Account, old: Trade, wanted: PlaceTrade, conditions: Conditions) -> Trade:
    """The new order, in the old one's place in its group."""
    new = new_trade(account, wanted, conditions)
    new.replaces, new.venue = old.trade_id, old.venue
    new.order_class, new.group, new.role = old.order_class, old.group, old.role
    account.join_group(new)
    return new


def _why_no_trail(old: Trade, trail: Money) -> str | None:
    if old.order_type is not OrderType.TRAILING_STOP:
        return f"a {old.order_type.replace('_', '-')} order has no trail."
    if old.trail_bps is not None and (trail % 100 or not 0 < trail < 1_000_000):
        return "its trail is a percentage above 0 and below 100, with at most 2 decimals."
    return None


def _replace_held(account: Account, old: Trade, new: Trade, conditions: Conditions) -> list[TradeEvent]:
    """The exchange has never heard of the old order; the new one is held here in its place."""
    events = [_begin(account, new, conditions)]
    checks = risk.AT_PLACING if old.is_exit_on_hold else (*risk.AT_PLACING, *risk.AT_START)
    refused = risk.first_refusal(checks, Case(account, new, conditions, freed=old.hold))
    _remember(account, new, conditions)
    if refused is not None:
        return [*events, _refuse(new, refused)]
    waits_for = old.reason
    events.append(drop(account, old, Status.REPLACED, f"Replaced by order {new.trade_id}."))
    return [*events, hold_back(account, new, waits_for) if old.is_exit_on_hold else start(account, new, conditions)]


def _replace_waiting(account: Account, old: Trade, new: Trade, conditions: Conditions) -> list[TradeEvent]:
    """The exchange has never heard of the old order, and never will; the new one waits for its turn like any other."""
    events = _place(account, new, conditions)
    if new.status is Status.REJECTED:
        return events
    account.leave_queue(old)
    return [*events, end(old, Status.REPLACED, f"Replaced by order {new.trade_id} before it was sent.")]


def _replace_at_exchange(account: Account, old: Trade, trade: Trade, conditions: Conditions) -> list[TradeEvent]:
    trade.replaces_filled = old.filled_quantity
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
    trade = new_trade(account, command, conditions)
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
