"""Order groups: what happens to one order of a bracket, OCO or OTO, and what that means for the others.

The exits of a bracket or OTO are held here until the entry has filled in full. Of two exits only one is ever at the
exchange, and so the two need the shares that they sell only once: the take profit rests there, and the stop loss is
held here until its price is reached; then the take profit is cancelled, and when the exchange has done so the stop loss
goes out for what is left. Whatever the exchange does meanwhile, nothing is sold twice.

An exit that may not go out when it should (a halt, the kill switch) stays held and is tried again every second: nobody
shall lose the protection of a position.
"""

from dataclasses import replace

from broker.core import risk, trading, trailing
from broker.core.account import Account
from broker.core.conditions import Conditions
from broker.core.credit import Case
from broker.core.messages import Leg, PlaceTrade, Refused, Step, TradeEvent, Wake
from broker.core.money import Money
from broker.core.states import TERMINAL
from broker.core.trading import REQUESTED, drop, hold_back, let_go, remark, why_not_yet
from broker.core.types import OrderClass, OrderType, Role, Side, Status, TimeInForce, Trade, TradeId

_OPPOSITE = {Side.BUY: Side.SELL, Side.SELL: Side.BUY}


# ------------------------------------------------------------------ placing


def place(account: Account, command: PlaceTrade, conditions: Conditions) -> list[TradeEvent]:
    """Place an order, and hold the exits that come with it."""
    if not command.legs:
        return trading.place(account, command, conditions)
    events = trading.place(account, command, conditions, _refusal_of_exits(account, command, conditions))
    first = events[0].trade
    if first.status in TERMINAL:
        return events
    _begin_group(first, command)
    account.join_group(first)
    for leg in command.legs:
        account.last_seq += 1
        trade = _exit(first, leg, account.last_seq)
        account.join_group(trade)
        placed = TradeEvent(trade, 1, trade.status, trade.reason, Step.PLACED)
        events += [placed, hold_back(account, trade, f"Held until {_waits_for(first, trade)}.")]
    return events


def _waits_for(first: Trade, trade: Trade) -> str:
    """All of it, since nothing is told when the first of two things has come."""
    if first.role is Role.TAKE_PROFIT:
        return "its price is reached"
    filled = f"order {first.trade_id} has filled"
    is_watched = first.order_class is OrderClass.BRACKET and trade.role is Role.STOP_LOSS
    return f"{filled}, and then its price is reached" if is_watched else filled


def refusal(account: Account, command: PlaceTrade, conditions: Conditions) -> Refused | None:
    """Why an order, or one of its exits, would be refused if its turn were now; nothing changes."""
    refused = trading.refusal(account, command, conditions)
    return refused or _refusal_of_exits(account, command, conditions)


def _refusal_of_exits(account: Account, command: PlaceTrade, conditions: Conditions) -> Refused | None:
    first = trading.new_trade(account, command, conditions)
    _begin_group(first, command)
    cases = (Case(account, _exit(first, leg, first.seq), conditions) for leg in command.legs)
    return next((refused for case in cases if (refused := risk.first_refusal(risk.AT_PLACING_EXIT, case))), None)


def _begin_group(first: Trade, command: PlaceTrade) -> None:
    first.order_class, first.group = command.order_class, first.trade_id
    first.role = Role.TAKE_PROFIT if command.order_class is OrderClass.OCO else Role.ENTRY


def _exit(first: Trade, leg: Leg, seq: int) -> Trade:
    return Trade(
        trade_id=leg.trade_id,
        customer_id=first.customer_id,
        seq=seq,
        symbol=first.symbol,
        side=_OPPOSITE[first.side] if first.role is Role.ENTRY else first.side,
        quantity=first.quantity,
        created_at=first.created_at,
        venue=first.venue,
        order_type=_type_of(leg),
        time_in_force=first.time_in_force,
        limit_price=leg.limit_price,
        stop_price=leg.stop_price,
        order_class=first.order_class,
        group=first.group,
        role=Role.TAKE_PROFIT if leg.stop_price is None else Role.STOP_LOSS,
        reason="Placed together with its group.",
        events=1,
    )


def _type_of(leg: Leg) -> OrderType:
    if leg.stop_price is None:
        return OrderType.LIMIT
    return OrderType.STOP if leg.limit_price is None else OrderType.STOP_LIMIT


# ------------------------------------------------------------------ who belongs together


def open_orders(account: Account, group: TradeId) -> list[Trade]:
    """The orders of a group that have not ended."""
    return [each for each in account.groups.get(group, ()) if each.status not in TERMINAL]


def _others(account: Account, trade: Trade) -> list[Trade]:
    if trade.group is None:
        return []
    return [each for each in open_orders(account, trade.group) if each is not trade]


def is_armed(account: Account, trade: Trade) -> bool:
    """Whether an order that is held here waits for a price or the opening, and not for its entry."""
    others = _others(account, trade)
    return not any(each.role is Role.ENTRY and not _never_stood(each, others) for each in others)


def held_with(account: Account, trade: Trade) -> list[Trade]:
    """The orders, of this one's group or this one alone, that are held here and wait for a price or the opening."""
    orders = [trade] if trade.group is None else open_orders(account, trade.group)
    return [each for each in orders if each.trade_id in account.held and is_armed(account, each)]


def _never_stood(trade: Trade, others: list[Trade]) -> bool:
    """A replacement that has not come to stand in its place, and cannot any more: the other one has ended."""
    return (
        trade.replaces_at_exchange
        and not trade.acknowledged
        and all(each.trade_id != trade.replaces for each in others)
    )


# ------------------------------------------------------------------ what follows


def follow(account: Account, event: TradeEvent, conditions: Conditions) -> list[TradeEvent]:
    """What a step of one order means for the others of its group; their steps may mean something in their turn."""
    trade = event.trade
    if trade.group is None:
        return []
    events: list[TradeEvent] = []
    if event.step is Step.EXECUTED:
        filled = event.status is Status.FILLED
        events = _filled(account, trade, conditions) if filled else _restate(account, trade)
    elif event.step is Step.ENDED and not _stands_replaced(account, trade):
        events = _ended(account, trade, event.status, conditions)
    if trade.status in TERMINAL and not open_orders(account, trade.group):
        account.groups.pop(trade.group, None)
    return events


def _stands_replaced(account: Account, trade: Trade) -> bool:
    """Whether another of its group took its place. An exchange may say so unasked: then the group has lost an order."""
    orders = account.groups.get(trade.group, ()) if trade.group is not None else ()
    return trade.status is Status.REPLACED and any(
        each.replaces == trade.trade_id and each.status is not Status.REJECTED for each in orders
    )


def _filled(account: Account, trade: Trade, conditions: Conditions) -> list[TradeEvent]:
    if trade.role is not Role.ENTRY:
        return _cancel_others(account, trade, Status.CANCELLED, "The other exit of its group has filled.")
    exits = [each for each in _others(account, trade) if each.role is not Role.ENTRY and each.status is Status.HELD]
    first = min(exits, key=lambda each: each.role is Role.STOP_LOSS, default=None)  # an only stop loss goes out, too
    return [] if first is None else _send(account, first, conditions)


def _send(account: Account, trade: Trade, conditions: Conditions) -> list[TradeEvent]:
    """Let an exit go out. Where that cannot be now it stays, says so once, and is tried again when it wakes up."""
    refused = why_not_yet(account, trade, conditions)
    if refused is None:
        return [let_go(account, trade, conditions)]
    return _wait(trade, refused)


def _wait(trade: Trade, refused: Refused) -> list[TradeEvent]:
    """Said once for each kind of refusal: its figures move with the market, and it is looked at every second.

    What was said stands in the order's reason and nowhere else, also after a restart; the kind is what it begins with.
    """
    kind = f"It waits: {refused.refusal}: "
    return [] if trade.reason.startswith(kind) else [remark(trade, Step.HELD, kind + refused.detail)]


def _restate(account: Account, trade: Trade) -> list[TradeEvent]:
    """Part of one exit has filled: the other one is for what is left."""
    events = []
    for each in _others(account, trade):
        if trade.role is not Role.ENTRY and each.status is Status.HELD and each.quantity > trade.leaves_quantity:
            each.quantity = trade.leaves_quantity
            words = f"For {each.quantity} {each.symbol} now: the other exit has filled in part."
            events.append(remark(each, Step.RESTATED, words))
    return events


def _ended(account: Account, trade: Trade, status: Status, conditions: Conditions) -> list[TradeEvent]:
    others = _others(account, trade)
    stop = next((each for each in others if each.triggered and each.status is Status.HELD), None)
    if stop is not None:  # it waits for the exchange to let go of the other exit, and of what was to replace it
        return _send(account, stop, conditions) if others == [stop] else []
    if status is Status.REJECTED and (_never_stood(trade, others) or trade.replaces in {o.trade_id for o in others}):
        return []  # the order that it was to replace speaks for itself
    return _cancel_others(account, trade, status, f"Order {trade.trade_id} of its group is {status.value.lower()}.")


def _cancel_others(account: Account, trade: Trade, status: Status, reason: str) -> list[TradeEvent]:
    events: list[TradeEvent] = []
    end = Status.EXPIRED if status is Status.EXPIRED else Status.CANCELLED
    for each in _others(account, trade):
        if each.status is Status.HELD:
            events.append(drop(account, each, end, reason))
        elif each.status not in TERMINAL:
            events += trading.cancel(account, each, reason)
    return events


def cancel(account: Account, trade: Trade, reason: str = REQUESTED) -> list[TradeEvent]:
    """End what is left of an order because somebody asked for it.

    With an exit, what is held of its group ends at once, and no price brings it out any more. With an entry the exits
    stay until it has ended: the exchange may have filled it.
    """
    events = trading.cancel(account, trade, reason)
    if trade.group is not None and trade.role is not Role.ENTRY:
        together = f"Cancelled together with order {trade.trade_id}."
        held = [each for each in _others(account, trade) if each.status is Status.HELD and is_armed(account, each)]
        events += [drop(account, each, Status.CANCELLED, together) for each in held]
    return events


# ------------------------------------------------------------------ what is held wakes up


def wake(account: Account, command: Wake, conditions: Conditions) -> list[TradeEvent]:
    """Look whether what an order on hold waits for has come; where it has not, nothing happens."""
    trade = account.held.get(command.trade_id)
    if trade is None or not is_armed(account, trade):
        return []
    if _day_is_over(trade, conditions):
        return [drop(account, trade, Status.EXPIRED, "The session ended.")]
    if not trade.is_exit_on_hold and trade.order_type is OrderType.MARKET:
        if conditions.is_open:
            account.queue(trade)
        return []
    if _needs_no_price(account, trade):
        return _send(account, trade, conditions)
    stop = command.stop_price if trade.order_type is OrderType.TRAILING_STOP else trade.stop_price
    if trade.triggered or stop is None or command.price is None or not conditions.is_open:
        return []  # what is traded before the opening and after the close triggers nothing
    return _trigger(account, trade, stop, conditions) if trailing.is_reached(trade.side, stop, command.price) else []


def needs_no_price(trade: Trade) -> bool:
    """Whether an armed order waits for nothing but being allowed to go out: a price means nothing to it."""
    if trade.role is Role.TAKE_PROFIT or trade.triggered:
        return trade.is_exit_on_hold
    return trade.order_class is OrderClass.OTO and trade.is_exit_on_hold


def _needs_no_price(account: Account, trade: Trade) -> bool:
    return needs_no_price(trade) and not (trade.triggered and _others(account, trade))


def _day_is_over(trade: Trade, conditions: Conditions) -> bool:
    """Of a day order that stands alone or is the first of its group: exits end with the one that is at the exchange."""
    if trade.is_exit_on_hold or trade.time_in_force is not TimeInForce.DAY:
        return False
    return conditions.policy.session_end(trade.created_at) <= conditions.now


def _trigger(account: Account, trade: Trade, stop: Money, conditions: Conditions) -> list[TradeEvent]:
    """The price is reached: out it goes, or first the other exit has to. Not before it is clear that it may go."""
    others = _others(account, trade)
    refused = why_not_yet(account, replace(trade, stop_price=stop), conditions, others)
    if refused is not None:
        return _wait(trade, refused)
    trade.triggered, trade.stop_price = True, stop
    if not others:
        return [let_go(account, trade, conditions)]
    reason = "The stop loss of its group was reached."
    events = [remark(trade, Step.TRIGGERED, "Its price is reached; it goes out when the other exit is cancelled.")]
    going = [each for each in others if not each.cancel_requested]
    return events + [event for each in going for event in trading.cancel(account, each, reason)]
