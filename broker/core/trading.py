"""The decisions: what a command or a word of the exchange does to a customer's account.

Each function takes the account as it stands, changes it, and returns the events that the ledger then commits. None of
them waits, reads a clock or does I/O; if the commit fails, the shard throws the account away and reads it again.

The order of a customer's trades is kept here: `start_next` starts a trade only when none is at work.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import assert_never

from broker.core.account import Account, Holding
from broker.core.messages import (
    Anomaly,
    CashMoved,
    Market,
    MoveCash,
    PlaceTrade,
    Refusal,
    Repeat,
    Report,
    ReportType,
    TradeEvent,
)
from broker.core.money import Money, average, in_dollars
from broker.core.states import TERMINAL, change
from broker.core.types import Fill, Side, Status, Trade

PLACED_REASON = "Stored; its turn comes when your earlier trades are done."
MAX_PRICE_EXCEEDED = "max price exceeded"
"""The exchange's reason when the order would have cost more than its max_price."""

# ------------------------------------------------------------------ placing and starting


def place(account: Account, command: PlaceTrade, now: datetime) -> TradeEvent:
    """Put a trade at the end of its customer's queue."""
    account.last_seq += 1
    trade = Trade(
        trade_id=command.trade_id,
        customer_id=command.customer_id,
        seq=account.last_seq,
        symbol=command.symbol,
        side=command.side,
        quantity=command.quantity,
        created_at=now,
        idempotency_key=command.idempotency_key,
        reason=PLACED_REASON,
        events=1,
    )
    account.waiting.append(trade)
    return TradeEvent(trade, 1, trade.status, trade.reason)


def start_next(account: Account, market: Market, collar_bps: int) -> Iterator[TradeEvent]:
    """Start the trades whose turn it is: one goes to work, those before it that cannot are refused."""
    while account.waiting and not account.working:
        yield start(account, account.waiting.popleft(), market, collar_bps)


def start(account: Account, trade: Trade, market: Market, collar_bps: int) -> TradeEvent:
    """Reserve what the trade can cost, or refuse it."""
    if market.is_listed(trade.symbol) is False:
        return _refuse(trade, Refusal.UNKNOWN_SYMBOL, f"the exchange does not list {trade.symbol}.")
    if trade.side is Side.SELL:
        return _start_sell(account, trade)
    return _start_buy(account, trade, market.ask(trade.symbol), collar_bps)


def _start_sell(account: Account, trade: Trade) -> TradeEvent:
    position = account.positions.get(trade.symbol)
    available = position.available if position else 0
    if position is None or trade.quantity > available:
        detail = f"the trade sells {trade.quantity} {trade.symbol}, {available} available."
        return _refuse(trade, Refusal.INSUFFICIENT_SHARES, detail)
    return _work(account, trade, position, trade.quantity, f"{trade.quantity} {trade.symbol}")


def _start_buy(account: Account, trade: Trade, ask: Money | None, collar_bps: int) -> TradeEvent:
    available = Money(account.cash.available)
    hold = buy_hold(trade.quantity, ask, collar_bps, available)
    if hold is None:
        cost = (
            f"needs {in_dollars(Money(trade.quantity * ask))} = {trade.quantity} x {in_dollars(ask)}"
            if ask
            else f"buys {trade.quantity} {trade.symbol}"
        )
        return _refuse(trade, Refusal.INSUFFICIENT_FUNDS, f"the trade {cost}, {in_dollars(available)} available.")
    return _work(account, trade, account.cash, hold, in_dollars(hold))


def buy_hold(quantity: int, ask: Money | None, collar_bps: int, available: Money) -> Money | None:
    """The cash that a market BUY reserves, or None where it is not there.

    The ask plus a collar in 1/10,000 (rounded up), since the price may move before the exchange fills; at most all
    that is available. Without a quote: all that is available. The exchange gets it as the most that it may spend.
    """
    if ask is None:
        return available if available > 0 else None
    cost = quantity * ask
    if cost > available:
        return None
    return min(available, Money(-(-cost * (10_000 + collar_bps) // 10_000)))


def _work(account: Account, trade: Trade, holding: Holding, hold: int, words: str) -> TradeEvent:
    holding.reserve(hold)
    trade.hold = hold
    account.working[trade.trade_id] = trade
    return _step(trade, Status.IN_PROGRESS, f"Sent to the exchange, with {words} reserved.")


def _refuse(trade: Trade, refusal: Refusal, detail: str) -> TradeEvent:
    return _step(trade, Status.REJECTED, f"{refusal}: {detail}")


def _step(trade: Trade, status: Status, reason: str, report: Report | None = None) -> TradeEvent:
    change(trade, status, reason)
    return TradeEvent(trade, trade.events, status, reason, report)


# ------------------------------------------------------------------ what the exchange says


def settle(account: Account, trade: Trade, report: Report) -> TradeEvent | Anomaly | Repeat:
    """What one word of the exchange does. Any order, any number of times: executions commute by their id."""
    if trade.status is Status.PLACED:
        return Anomaly.NEVER_SENT
    match report.type:
        case ReportType.ACCEPTED:
            return Repeat.NOTHING_NEW
        case ReportType.FILLED | ReportType.PARTIALLY_FILLED:
            return _settle_fill(account, trade, report)
        case ReportType.REJECTED | ReportType.CANCELLED | ReportType.EXPIRED:
            return _settle_end(account, trade, report)
        case _:
            assert_never(report.type)


def _settle_fill(account: Account, trade: Trade, report: Report) -> TradeEvent | Anomaly | Repeat:
    assert report.execution_id is not None
    assert report.fill is not None
    fill = report.fill
    known = trade.executions.get(report.execution_id)
    if known is not None:
        return Repeat.NOTHING_NEW if known == fill else Anomaly.CONTRADICTS_EXECUTION
    if trade.status in TERMINAL:
        return Anomaly.FILL_AFTER_END
    if fill.last_qty > trade.leaves_quantity:
        return Anomaly.OVERFILL
    if trade.side is Side.BUY and fill.last_qty * fill.last_px > trade.hold:
        return Anomaly.ABOVE_MAX_PRICE
    _move(account, trade, fill)
    trade.executions[report.execution_id] = fill
    trade.filled_quantity += fill.last_qty
    trade.filled_value = Money(trade.filled_value + fill.last_qty * fill.last_px)
    price = in_dollars(average(trade.filled_value, trade.filled_quantity))
    if trade.leaves_quantity:
        words = f"Filled {trade.filled_quantity} of {trade.quantity} {trade.symbol} so far, at {price} on average."
        return _step(trade, Status.PARTIALLY_FILLED, words, report)
    _release(account, trade)
    return _step(trade, Status.FILLED, f"Filled {trade.quantity} {trade.symbol} at {price} on average.", report)


def _move(account: Account, trade: Trade, fill: Fill) -> None:
    """The fill's cash and shares, out of what the trade has reserved."""
    cost = fill.last_qty * fill.last_px
    position = account.positions.setdefault(trade.symbol, Holding())
    if trade.side is Side.BUY:
        trade.hold -= cost
        account.cash.release(cost)
        account.cash.add(-cost)
        position.add(fill.last_qty)
    else:
        trade.hold -= fill.last_qty
        position.release(fill.last_qty)
        position.add(-fill.last_qty)
        account.cash.add(cost)


def _settle_end(account: Account, trade: Trade, report: Report) -> TradeEvent | Repeat:
    if trade.status in TERMINAL:
        return Repeat.NOTHING_NEW
    if report.filled_quantity > trade.filled_quantity:
        return Repeat.MORE_TO_COME
    reason = _reason_of_end(account, trade, report)
    _release(account, trade)
    if trade.filled_quantity and report.type is ReportType.REJECTED:
        return _step(trade, Status.CANCELLED, reason)
    return _step(trade, Status[report.type.name], reason)


def _reason_of_end(account: Account, trade: Trade, report: Report) -> str:
    reason = report.reason or f"the exchange gave no reason ({report.type.lower()})"
    if reason != MAX_PRICE_EXCEEDED:
        return reason
    held = in_dollars(Money(trade.hold))
    # The trade could spend all that was there: what was missing is money, not a wider collar.
    if account.cash.available == 0:
        return f"{Refusal.INSUFFICIENT_FUNDS}: {trade.quantity} {trade.symbol} cost more than the {held} available."
    return f"{reason}: the price moved above the {held} reserved for the trade."


def _release(account: Account, trade: Trade) -> None:
    holding = account.cash if trade.side is Side.BUY else account.positions.get(trade.symbol)
    if trade.hold:
        assert holding is not None
        holding.release(trade.hold)
    trade.hold = 0
    del account.working[trade.trade_id]


# ------------------------------------------------------------------ operators


def move_cash(account: Account, command: MoveCash) -> CashMoved | Refusal:
    """Credit or debit; a debit takes only what is available."""
    if -command.amount > account.cash.available:
        return Refusal.INSUFFICIENT_FUNDS
    account.cash.add(command.amount)
    return CashMoved(command.customer_id, command.amount, command.reference)
