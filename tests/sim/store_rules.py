"""The rules of schema.sql that are more than a key: those of a trade's row, of its changes, and of what shares cost."""

from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from broker.core.postings import CASH
from broker.core.states import TRANSITIONS, WORKING
from broker.core.types import OrderClass, OrderType, Role, Side, Status, TimeInForce, Trade
from broker.db import RefusedByDatabase
from broker.rows import Row
from tests.sim.store_rows import AccountRow

BIGINT = 2**63
_STATUS_CHANGE = frozenset((before, after) for before, following in TRANSITIONS.items() for after in following)
"""As it is when this is loaded: a test that breaks the table of the core does not break the database's."""


def require(kept: bool, constraint: str | None) -> None:
    if not kept:
        _refuse(constraint)


def _refuse(constraint: str | None) -> NoReturn:
    raise RefusedByDatabase(f"{constraint} is broken", constraint)


def check_range(columns: Iterable[Sequence[Row]]) -> None:
    """What no BIGINT can hold does not even leave the broker."""
    for rows in columns:
        for row in rows:
            for value in row:
                if type(value) is int and not -BIGINT <= value < BIGINT:
                    raise RefusedByDatabase("value out of int64 range", None)


def cost_is_right(asset: str, row: AccountRow) -> bool:
    """Cost is of shares that are there, and never of cash."""
    return (
        row.cost >= 0 and (row.balance != 0 or row.cost == 0) and (asset != CASH or (row.cost == 0 and row.gain == 0))
    )


_OPEN_AND_SENT = frozenset({Status.HELD, Status.IN_PROGRESS, Status.PARTIALLY_FILLED})


def may_change(was: Trade, is_now: Trade) -> bool:
    """changes_of_trades. What never changes is not among the figures that a commit can write."""
    held = was.status is Status.HELD
    if is_now.quantity != was.quantity and (not held or is_now.quantity > was.quantity):
        return False
    if is_now.stop_price != was.stop_price and (not held or was.stop_price is not None):
        return False
    if is_now.triggered != was.triggered and (was.triggered or not held):
        return False
    if (was.status, is_now.status) in _STATUS_CHANGE:
        return True
    return (
        (was.status, was.filled_quantity, was.filled_value)
        == (is_now.status, is_now.filled_quantity, is_now.filled_value)
        and is_now.events > was.events
        and (
            was.status in _OPEN_AND_SENT
            or (was.reason, was.acknowledged, was.cancel_requested)
            == (is_now.reason, is_now.acknowledged, is_now.cancel_requested)
        )
    )


def check_rules(trade: Trade) -> None:
    """rules_of_trades: the first rule that is broken, in its order."""
    for name, is_kept in _RULES:
        if not is_kept(trade):
            _refuse(name)


def _status_fits_figures(trade: Trade) -> bool:
    hold, filled = trade.hold, trade.filled_quantity
    match trade.status:
        case Status.PLACED | Status.REJECTED:
            return hold == 0 == filled
        case Status.HELD:
            return filled == 0
        case Status.IN_PROGRESS:
            return (hold > 0 or trade.replaces_filled is not None) and filled == 0
        case Status.PARTIALLY_FILLED:
            return 1 <= filled <= trade.quantity - 1
        case Status.FILLED:
            return hold == 0 and filled == trade.quantity
        case _:
            return hold == 0 and filled < trade.quantity


def _sell_holds_what_it_leaves(trade: Trade) -> bool:
    leaves = trade.quantity - trade.filled_quantity
    return (
        trade.side is Side.BUY
        or trade.status not in WORKING
        or trade.hold == leaves
        or (trade.replaces_filled is not None and trade.hold < leaves)
    )


def _prices_fit_the_type(trade: Trade) -> bool:
    type_ = trade.order_type
    trailing = type_ is OrderType.TRAILING_STOP
    with_stop = type_ in {OrderType.STOP, OrderType.STOP_LIMIT} or (trailing and trade.triggered)
    return (
        (trade.limit_price is not None) == (type_ in {OrderType.LIMIT, OrderType.STOP_LIMIT})
        and (trade.stop_price is not None) == with_stop
        and (trade.trail_amount is not None) + (trade.trail_bps is not None) == trailing
        and (trade.limit_price is None or trade.limit_price > 0)
        and (trade.stop_price is None or trade.stop_price > 0)
        and (trade.trail_amount is None or trade.trail_amount > 0)
        and (trade.trail_bps is None or 1 <= trade.trail_bps <= 9999)
    )


def _a_group_has_roles(trade: Trade) -> bool:
    alone = trade.group is None
    return (
        (trade.order_class is OrderClass.SIMPLE) == alone
        and alone == (trade.role is None)
        and (trade.order_class is not OrderClass.OCO or trade.role is not Role.ENTRY)
    )


def _filled_within_the_limit(trade: Trade) -> bool:
    if trade.limit_price is None:
        return True
    most = trade.filled_quantity * trade.limit_price
    return trade.filled_value <= most if trade.side is Side.BUY else trade.filled_value >= most


_RULES: tuple[tuple[str, Callable[[Trade], bool]], ...] = (
    ("never_overfilled", lambda t: 0 <= t.filled_quantity <= t.quantity),
    ("value_follows_quantity", lambda t: (t.filled_quantity == 0) == (t.filled_value == 0) and t.filled_value >= 0),
    ("hold_not_negative", lambda t: t.hold >= 0),
    ("trade_is_complete", lambda t: 1 <= t.quantity <= 10_000_000 and t.seq > 0 and t.events > 0 and t.reason != ""),
    ("idempotency_key_fits", lambda t: t.idempotency_key is None or 1 <= len(t.idempotency_key) <= 200),
    ("client_order_id_fits", lambda t: t.client_order_id is None or 1 <= len(t.client_order_id) <= 200),
    ("replaces_filled_is_of_another", lambda t: t.replaces_filled is None or t.replaces is not None),
    ("status_fits_figures", _status_fits_figures),
    ("sell_holds_what_it_leaves", _sell_holds_what_it_leaves),
    ("prices_fit_the_type", _prices_fit_the_type),
    ("a_group_has_roles", _a_group_has_roles),
    (
        "only_limits_trade_outside_the_session",
        lambda t: (
            not t.extended_hours
            or (t.order_type is OrderType.LIMIT and t.time_in_force in {TimeInForce.DAY, TimeInForce.GTC})
        ),
    ),
    ("filled_within_the_limit", _filled_within_the_limit),
)
