"""The decisions about what the exchange says: fills, ends, replacements, and executions that it takes back.

Every word may come in any order, any number of times: executions commute by their id, an end waits for the executions
that it counts, and what is known already changes nothing. What cannot be the customer's (more than was ordered, above
what was reserved, after the end) is booked to the suspense account: the shares exist, so they are in the books.
"""

from collections.abc import Sequence
from typing import assert_never

from broker.core import cost_basis
from broker.core.account import Account, Holding
from broker.core.conditions import Conditions
from broker.core.fees import fill_fees
from broker.core.holds import full_hold
from broker.core.messages import Anomaly, Event, Refusal, Repeat, Report, ReportType, Restricted, Step, TradeEvent
from broker.core.money import Money, average, in_dollars
from broker.core.postings import Entry, EntryKind, fill_entry, suspense_entry
from broker.core.states import TERMINAL, change
from broker.core.trading import ASKED, acknowledge, end, reason_of_cancel, remark
from broker.core.types import AccountType, Fill, Side, Status, Trade

MAX_PRICE_EXCEEDED = "max price exceeded"
"""The exchange's reason when the order would have cost more than its max_price."""

Outcome = Event | Anomaly | Repeat


def settle(account: Account, trade: Trade, report: Report, conditions: Conditions) -> Sequence[Outcome]:
    """What one word of the exchange does, in order. Of an order that another one has it can know nothing.

    Nor has it ours, where it has another one under its id.
    """
    if (anomaly := _cannot_be(trade, report)) is not None:
        return (anomaly,)
    match report.type:
        case ReportType.ACCEPTED:
            return _accepted(account, trade, report, conditions) or (Repeat.NOTHING_NEW,)
        case ReportType.FILLED | ReportType.PARTIALLY_FILLED:
            return _filled(account, trade, report, conditions)
        case ReportType.REJECTED | ReportType.CANCELLED | ReportType.EXPIRED:
            return _ended(account, trade, report, conditions)
        case ReportType.REPLACED:
            return _replaced(account, trade, report, conditions)
        case ReportType.BUSTED | ReportType.CORRECTED:
            return _taken_back(account, trade, report)
        case _:
            assert_never(report.type)


_ENDS = {ReportType.REJECTED, ReportType.CANCELLED, ReportType.EXPIRED}


def contradicts_the_end(trade: Trade, report: Report) -> bool:
    """Whether the exchange is to be asked once more after the end of the order, since its words do not go together.

    It has the order open, although it has ended here before it was done: the word is late, or of a copy that nobody
    watches. Or it ends the order with less than it has executed: then there may be more that it has not told.
    """
    if report.venue != trade.venue or report.is_of_another(trade):
        return False
    if trade.status not in TERMINAL:
        return report.type in _ENDS and report.filled_quantity < _known_quantity(trade)
    if report.type is ReportType.PARTIALLY_FILLED:
        return trade.status is not Status.FILLED and report.execution_id not in trade.executions
    return trade.status is not Status.FILLED and report.type is ReportType.ACCEPTED


def _cannot_be(trade: Trade, report: Report) -> Anomaly | None:
    if report.venue != trade.venue:
        return Anomaly.OTHER_VENUE
    if trade.status in {Status.PLACED, Status.HELD}:
        return Anomaly.NEVER_SENT
    return Anomaly.ANOTHER_ORDER if report.is_of_another(trade) else None


# ------------------------------------------------------------------ taken


def _accepted(account: Account, trade: Trade, report: Report, conditions: Conditions) -> list[Outcome]:
    """The exchange has the order; if it is to replace another one, it has done so."""
    if trade.acknowledged or trade.status in TERMINAL:
        return []
    outcomes = _take_place(account, trade, conditions)
    acknowledge(account, trade)
    reason = trade.reason if trade.cancel_requested else "The exchange has it."  # why it is to be cancelled stays
    return [*outcomes, remark(trade, Step.ACCEPTED, reason, report)]


def _take_place(account: Account, trade: Trade, conditions: Conditions) -> list[Outcome]:
    """The replaced order ends, and what it held passes to the one in its place."""
    old = account.working.get(trade.replaces) if trade.replaces else None
    if old is None or trade.acknowledged:
        return []
    passed = trade.hold + old.hold
    ended = _close(account, old, Status.REPLACED, f"Replaced by order {trade.trade_id}.")
    hold = min(full_hold(trade, conditions.buy_fees, conditions.today), passed)
    if hold > trade.hold:
        account.holding(trade).reserve(hold - trade.hold)
        trade.hold = hold
    return [ended]


def _replaced(account: Account, old: Trade, report: Report, conditions: Conditions) -> Sequence[Outcome]:
    """Another order stands in its place: the one of ours that was to."""
    if old.status in TERMINAL:
        return (Repeat.NOTHING_NEW,)
    if report.filled_quantity > _known_quantity(old):
        return (Repeat.MORE_TO_COME,)
    new = next((each for each in account.working.values() if each.replaces == old.trade_id), None)
    if new is not None:
        return _accepted(account, new, Report(new.trade_id, ReportType.ACCEPTED, report.venue), conditions)
    return (_close(account, old, Status.REPLACED, "Replaced by another order.", report),)


# ------------------------------------------------------------------ fills


def _filled(account: Account, trade: Trade, report: Report, conditions: Conditions) -> Sequence[Outcome]:
    assert report.execution_id is not None
    assert report.fill is not None
    fill = _own(report.fill)
    known = trade.executions.get(report.execution_id)
    if known is not None:
        if known != fill:
            return (Anomaly.CONTRADICTS_EXECUTION,)
        # Also of a repeat: whoever was to ask after the first time may have died.
        return (Repeat.MORE_TO_COME if _has_ended_unseen(trade, report) else Repeat.NOTHING_NEW,)
    outcomes: list[Outcome] = []
    if trade.replaces and not trade.acknowledged and trade.status not in TERMINAL:
        outcomes = _take_place(account, trade, conditions)
    _price_in_fees(trade, fill, conditions)
    problem = _why_not_the_customers(trade, fill)
    if problem is not None:
        # The exchange has the order, and may say nothing else of it: so the customer's next one may start.
        taken = _accepted(account, trade, Report(trade.trade_id, ReportType.ACCEPTED, report.venue), conditions)
        return [*outcomes, problem, *taken, *_to_suspense(account, trade, report, fill)]
    if not trade.acknowledged:
        acknowledge(account, trade)
    entry = _book(account, trade, fill)
    if account.account_type is AccountType.MARGIN:
        account.day_trades.note(conditions.today, trade.symbol, trade.side, trade.trade_id)
    trade.executions[report.execution_id] = fill
    trade.filled_quantity += fill.last_qty
    trade.filled_value = Money(trade.filled_value + fill.value)
    return [*outcomes, _executed(account, trade, report, entry), *_end_if_told_all(account, trade, report)]


def _own(fill: Fill) -> Fill:
    """A fill of our own to write on: the report may be decided a second time, after a commit that failed."""
    return Fill(fill.last_qty, fill.last_px)


def _price_in_fees(trade: Trade, fill: Fill, conditions: Conditions) -> None:
    rules = conditions.buy_fees if trade.side is Side.BUY else conditions.sell_fees
    if rules:
        before = (trade.filled_quantity, trade.filled_value)
        after = (before[0] + fill.last_qty, Money(before[1] + fill.value))
        fees = fill_fees(rules, trade.side, before, after, conditions.today)
        fill.fee = Money(sum(fee.amount for fee in fees))
        if trade.side is Side.BUY:  # rates may have risen since it was reserved: what is above that is waived
            fill.fee = Money(min(fill.fee, max(0, trade.hold - fill.value)))


def _why_not_the_customers(trade: Trade, fill: Fill) -> Anomaly | None:
    if trade.status in TERMINAL:
        return Anomaly.FILL_AFTER_END
    if fill.last_qty > trade.leaves_quantity or (trade.side is Side.SELL and fill.last_qty > trade.hold):
        return Anomaly.OVERFILL
    if trade.side is Side.BUY and (fill.value > trade.hold or _is_too_dear(trade, fill)):
        return Anomaly.ABOVE_MAX_PRICE
    if trade.side is Side.SELL and trade.limit_price is not None and fill.last_px < trade.limit_price:
        return Anomaly.BELOW_LIMIT
    return None


def _is_too_dear(trade: Trade, fill: Fill) -> bool:
    """Above the limit, or above what the exchange was told that it may spend on all of it."""
    if trade.limit_price is not None:
        return fill.last_px > trade.limit_price
    return trade.max_price is not None and trade.filled_value + fill.value > trade.max_price


def _book(account: Account, trade: Trade, fill: Fill) -> Entry:
    """Move the fill's cash and shares, out of what the trade has reserved."""
    position, is_first = _position(account, trade)
    if trade.side is Side.BUY:
        paid = fill.value + fill.fee
        trade.hold -= paid
        account.cash.release(paid)
        entry = fill_entry(trade.side, fill, fill.value, 0)
    else:
        trade.hold -= fill.last_qty
        position.release(fill.last_qty)
        cost_out, gain = cost_basis.sell(position.cost, position.balance, fill.last_qty, fill.value)
        fill.gain = gain
        entry = fill_entry(trade.side, fill, -cost_out, gain)
    entry.is_first = is_first
    _apply(account, position, entry)
    return entry


def _position(account: Account, trade: Trade) -> tuple[Holding, bool]:
    """The trade's position, and whether it is the customer's first of this symbol."""
    position = account.positions.get(trade.symbol)
    if position is not None:
        return position, False
    position = account.positions[trade.symbol] = Holding()
    return position, True


def _apply(account: Account, position: Holding, entry: Entry) -> None:
    account.cash.add(entry.cash + entry.owed_cash)
    position.add(entry.shares + entry.owed_shares)
    position.cost = Money(position.cost + entry.cost)
    position.gain = Money(position.gain + entry.gain)


def _executed(account: Account, trade: Trade, report: Report, entry: Entry) -> TradeEvent:
    price = in_dollars(average(trade.filled_value, trade.filled_quantity))
    if trade.leaves_quantity:
        words = f"Filled {trade.filled_quantity} of {trade.quantity} {trade.symbol} so far, at {price} on average."
        change(trade, Status.PARTIALLY_FILLED, words)
    else:
        change(trade, Status.FILLED, f"Filled {trade.quantity} {trade.symbol} at {price} on average.")
        _release(account, trade)
    return TradeEvent(trade, trade.events, trade.status, trade.reason, Step.EXECUTED, report, entry)


# ------------------------------------------------------------------ ends


def _ended(account: Account, trade: Trade, report: Report, conditions: Conditions) -> Sequence[Outcome]:
    if trade.status in TERMINAL:
        return (Repeat.NOTHING_NEW,)
    if report.filled_quantity > _known_quantity(trade):
        return (Repeat.MORE_TO_COME,)
    outcomes: list[Outcome] = []
    # An order that ends in another way had been taken, unless it is our own desk that gives it up.
    if report.type is not ReportType.REJECTED and not report.never_taken:
        outcomes = _take_place(account, trade, conditions)
    status = Status[report.type.name]
    if trade.filled_quantity and status is Status.REJECTED:
        status = Status.CANCELLED
    outcomes.append(_close(account, trade, status, _reason_of_end(account, trade, report), report))
    return outcomes


def _reason_of_end(account: Account, trade: Trade, report: Report) -> str:
    reason = report.reason or f"the exchange gave no reason ({report.type.lower()})"
    if reason == ASKED and trade.cancel_requested:
        return reason_of_cancel(trade)
    if reason != MAX_PRICE_EXCEEDED:
        return reason
    held = in_dollars(Money(trade.hold))
    # The trade could spend all that was there: what was missing is money, not a wider collar.
    if account.cash.available == 0:
        return f"{Refusal.INSUFFICIENT_FUNDS}: {trade.quantity} {trade.symbol} cost more than the {held} available."
    return f"{reason}: the price moved above the {held} reserved for the trade."


def _close(account: Account, trade: Trade, status: Status, reason: str, report: Report | None = None) -> TradeEvent:
    event = end(trade, status, reason, report)
    _release(account, trade)
    return event


def _release(account: Account, trade: Trade) -> None:
    if trade.hold:
        account.holding(trade).release(trade.hold)
    trade.hold = 0
    account.end(trade)


def _known_quantity(trade: Trade) -> int:
    """What we have seen of the shares that the exchange counts: those in suspense are among them."""
    return trade.filled_quantity + _suspense_quantity(trade)


def _suspense_quantity(trade: Trade) -> int:
    """A correction is not counted a second time, as the contract says."""
    return sum(fill.last_qty for fill in trade.executions.values() if fill.suspense and fill.corrects is None)


# ------------------------------------------------------------------ what cannot be the customer's


def _to_suspense(account: Account, trade: Trade, report: Report, fill: Fill) -> list[Outcome]:
    assert report.execution_id is not None
    fill.suspense, fill.fee = True, Money(0)
    trade.executions[report.execution_id] = fill
    words = f"{fill.last_qty} {trade.symbol} at {in_dollars(fill.last_px)} are not yours: booked to the broker."
    event = remark(trade, Step.SUSPENSE, words, report, suspense_entry(trade.side, fill))
    return [event, *_end_if_told_all(account, trade, report)]


def _end_if_told_all(account: Account, trade: Trade, report: Report) -> list[Outcome]:
    """With what is in suspense the exchange has executed all of it: it will say no more of it."""
    if _has_ended_unseen(trade, report):
        return [Repeat.MORE_TO_COME]
    if trade.status in TERMINAL or _known_quantity(trade) < trade.quantity:
        return []
    return [
        _close(account, trade, Status.CANCELLED, "the exchange executed it in a way that could not be booked to you")
    ]


def _has_ended_unseen(trade: Trade, report: Report) -> bool:
    """It has ended, or any word may end it, and the exchange counts more than we know: nobody would ask for that."""
    known, told = _known_quantity(trade), report.filled_quantity
    may_end = trade.status in TERMINAL or known >= trade.quantity or told > trade.quantity
    return may_end and told > known


# ------------------------------------------------------------------ executions that are taken back


def _taken_back(account: Account, trade: Trade, report: Report) -> Sequence[Outcome]:
    """A bust reverses an execution by new postings; a correction then books the one in its place."""
    corrected = report.type is ReportType.CORRECTED
    wrong_id = report.corrects if corrected else report.execution_id
    assert wrong_id is not None
    wrong = trade.executions.get(wrong_id)
    if wrong is None:
        return (Anomaly.UNKNOWN_EXECUTION,)
    if corrected and (done := _corrected_before(trade, wrong_id, report)):
        return (done,)
    events: list[TradeEvent] = []
    if not wrong.busted:
        bust = Report(trade.trade_id, ReportType.BUSTED, report.venue, wrong_id)
        events.append(_bust(account, trade, wrong, bust))
    if corrected:
        events.append(_correct(account, trade, wrong_id, report, events[0].entry if events else None))
    return [*events, *_restriction(account, trade, events)] or (Repeat.NOTHING_NEW,)


def _corrected_before(trade: Trade, wrong_id: str, report: Report) -> Repeat | Anomaly | None:
    """An execution is corrected once, by one that is new; the correction may then be corrected in its turn."""
    assert report.execution_id is not None
    known = trade.executions.get(report.execution_id)
    if known is None and all(each.corrects != wrong_id for each in trade.executions.values()):
        return None
    is_repeat = known is not None and known.corrects == wrong_id and known == report.fill
    return Repeat.NOTHING_NEW if is_repeat else Anomaly.CONTRADICTS_EXECUTION


def _bust(account: Account, trade: Trade, fill: Fill, report: Report) -> TradeEvent:
    fill.busted = True
    shares = -fill.last_qty if trade.side is Side.BUY else fill.last_qty
    entry = Entry(EntryKind.BUST, fill, shares, -shares * fill.last_px + fill.fee, -fill.fee)
    words = f"The exchange took {fill.last_qty} {trade.symbol} at {in_dollars(fill.last_px)} back."
    _reverse(account, trade, fill, entry)
    return remark(trade, Step.BUSTED, words, report, entry)


def _correct(account: Account, trade: Trade, wrong_id: str, report: Report, bust: Entry | None) -> TradeEvent:
    """The execution in the other one's place; what the customer could not give back for that one it pays first."""
    assert report.execution_id is not None
    assert report.fill is not None
    fill, wrong = _own(report.fill), trade.executions[wrong_id]
    fill.corrects, fill.suspense, fill.fee = wrong_id, wrong.suspense, wrong.fee
    trade.executions[report.execution_id] = fill
    shares = fill.last_qty if trade.side is Side.BUY else -fill.last_qty
    kind = EntryKind.SUSPENSE if fill.suspense else EntryKind.FILL
    entry = Entry(kind, fill, shares, -shares * fill.last_px - fill.fee, fill.fee)
    if bust is not None:
        entry.owed_cash = -min(bust.owed_cash, max(0, entry.cash))
        entry.owed_shares = -min(bust.owed_shares, max(0, entry.shares))
    words = f"The exchange corrected it to {fill.last_qty} {trade.symbol} at {in_dollars(fill.last_px)}."
    _reverse(account, trade, fill, entry)
    return remark(trade, Step.CORRECTED, words, report, entry)


def _reverse(account: Account, trade: Trade, fill: Fill, entry: Entry) -> None:
    """Book what changes hands after the fact; what the customer does not have any more, it owes the broker."""
    if fill.suspense:
        return
    position, entry.is_first = _position(account, trade)
    entry.owed_cash += max(0, -entry.cash - max(0, account.cash.available - account.cash.floor))
    entry.owed_shares += max(0, -entry.shares - max(0, position.available))
    _cost_of_reversal(position, fill, entry)
    _apply(account, position, entry)


def _restriction(account: Account, trade: Trade, events: Sequence[TradeEvent]) -> list[Outcome]:
    """Whoever owes after all of it places no new orders until an operator says so."""
    entries = [event.entry for event in events if event.entry is not None]
    cash, shares = sum(entry.owed_cash for entry in entries), sum(entry.owed_shares for entry in entries)
    if cash <= 0 and shares <= 0:
        return []
    owed = " and ".join(
        [*([in_dollars(Money(cash))] if cash > 0 else []), *([f"{shares} {trade.symbol}"] if shares > 0 else [])]
    )
    reason = f"{owed} are owed since the exchange took an execution of {trade.trade_id} back"
    return [Restricted(account.customer_id, reason)]


def _cost_of_reversal(position: Holding, fill: Fill, entry: Entry) -> None:
    """Cost less gain always changes by what was paid less what was received, so the sum over a position stays right."""
    if entry.kind is EntryKind.BUST and entry.shares > 0:  # shares come back at what they had cost
        entry.cost, entry.gain = fill.value - fill.gain, -fill.gain
    elif entry.shares > 0:  # of those that pay what is owed, nothing stays
        entry.cost = fill.value * (entry.shares + entry.owed_shares) // entry.shares
        entry.gain = entry.cost - fill.value
    elif entry.kind is EntryKind.FILL:  # a corrected sale, of what there is
        sold = min(-entry.shares - entry.owed_shares, position.balance)
        cost_out = cost_basis.sell(position.cost, position.balance, sold, fill.value)[0] if sold else 0
        entry.cost, entry.gain = -cost_out, fill.value - cost_out
    else:
        left = position.balance + entry.shares + entry.owed_shares
        entry.cost = -position.cost if left == 0 else -min(position.cost, fill.value)
        entry.gain = fill.value + entry.cost
    if entry.kind is EntryKind.FILL:
        fill.gain = Money(entry.gain)
