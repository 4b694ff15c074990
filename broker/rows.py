"""Events as rows: what one commit writes, in the shapes of commit_batch's arguments (schema.sql)."""

from collections.abc import Callable, Sequence
from typing import Any, assert_never
from uuid import UUID

from broker.core.corporate import AnyEvent, PositionAdjusted
from broker.core.messages import CashMoved, MarginLevel, Restricted, TradeEvent
from broker.core.postings import CASH, EntryKind, House, Move, Posting, entry_postings, house_owner, move_postings
from broker.core.reset import AccountReset
from broker.core.types import CustomerId, Status, Trade, TradeId

Row = tuple[Any, ...]

_MAY_RESERVE = frozenset({Status.HELD, Status.IN_PROGRESS})


class Rows:
    """The rows of one commit."""

    __slots__ = (
        "_begun",
        "_new_id",
        "_shard",
        "busts",
        "controls",
        "events",
        "executions",
        "levels",
        "opened",
        "placed",
        "postings",
        "settled",
        "started",
        "transfers",
    )

    def __init__(self, shard: int, new_id: Callable[[], UUID]) -> None:
        self._shard = shard
        self._new_id = new_id
        self._begun: set[TradeId] = set()
        self.opened: set[tuple[int, str]] = set()
        self.settled: list[Row] = []
        self.transfers: list[Row] = []
        self.postings: list[Row] = []
        self.executions: list[Row] = []
        self.busts: list[Row] = []
        self.placed: list[Row] = []
        self.started: list[Row] = []
        self.events: list[Row] = []
        self.levels: list[Row] = []
        self.controls: list[Row] = []

    def columns(self) -> Sequence[Sequence[Row]]:
        """The arguments of commit_batch, in its order, after the claims and the opened accounts."""
        return (
            self.settled,
            self.transfers,
            self.postings,
            self.executions,
            self.busts,
            self.placed,
            self.started,
            self.events,
            self.levels,
            self.controls,
        )

    def add(self, event: AnyEvent) -> None:
        """One event, after those that came before it."""
        match event:
            case TradeEvent():
                self._trade_event(event)
            case CashMoved():
                lines = self._against(House.EXTERNAL, event.customer_id, (Move(CASH, event.amount),))
                self._post("cash", event.reference, event.customer_id, lines)
            case PositionAdjusted():
                lines = self._against(House.CORPORATE, event.customer_id, event.moves)
                self._post("corporate", event.reference, event.customer_id, lines)
                self.opened.update((event.customer_id, move.asset) for move in event.moves if move.asset != CASH)
            case AccountReset():
                lines = self._against(House.EXTERNAL, event.customer_id, event.moves)
                self._post("reset", event.reference, event.customer_id, lines)
                self.opened.update((event.customer_id, move.asset) for move in event.moves if move.asset != CASH)
            case MarginLevel():
                self.levels.append((event.customer_id, event.day, event.level))
            case Restricted():
                self.controls.append((f"customer:{event.customer_id}", event.reason))
            case _:
                assert_never(event)

    def _against(self, house: House, customer_id: CustomerId, moves: Sequence[Move]) -> list[Posting]:
        return move_postings(customer_id, house_owner(self._shard, house), moves)

    def _trade_event(self, event: TradeEvent) -> None:
        trade, report = event.trade, event.report
        execution_id = report.execution_id if report else None
        self.events.append(
            (
                trade.customer_id,
                event.seq,
                trade.trade_id,
                event.number,
                event.step,
                event.status,
                event.reason,
                event.filled_quantity,
                event.filled_value,
                event.acknowledged,
                event.cancel_requested,
                event.quantity,
                execution_id,
            )
        )
        if event.entry:
            self._execution(event)
        # The trade's row is written once for the whole batch, as it stands after its last event.
        if event.number == trade.events:
            self._write(trade, is_new=trade.trade_id in self._begun or event.number == 1)
        elif event.number == 1:
            self._begun.add(trade.trade_id)

    def _execution(self, event: TradeEvent) -> None:
        trade, report, entry = event.trade, event.report, event.entry
        assert report is not None
        assert entry is not None
        lines = entry_postings(trade.customer_id, self._shard, trade.symbol, entry)
        reference = f"{report.venue}:{report.execution_id}"
        transfer_id = self._post(entry.kind, reference, trade.customer_id, lines)
        if entry.is_first:
            self.opened.add((trade.customer_id, trade.symbol))
        if entry.kind is EntryKind.BUST:
            self.busts.append((report.venue, report.execution_id, transfer_id))
            return
        fill = entry.fill
        self.executions.append(
            (
                report.venue,
                report.execution_id,
                trade.trade_id,
                fill.last_qty,
                fill.last_px,
                fill.fee,
                fill.gain,
                fill.suspense,
                fill.corrects,
                transfer_id,
            )
        )

    def _post(self, kind: str, reference: str, customer_id: int, lines: Sequence[Posting]) -> UUID:
        transfer_id = self._new_id()
        self.transfers.append((transfer_id, kind, reference, customer_id))
        for line in lines:
            self.postings.append((transfer_id, *line))
            if line.owner_id < 0:
                self.opened.add((line.owner_id, line.asset))
        return transfer_id

    def _write(self, trade: Trade, *, is_new: bool) -> None:
        """The trade's row as it stands: a new one, one that begins to hold, or one that may only release."""
        if is_new:
            self.placed.append(_new_trade(trade))
        elif trade.status in _MAY_RESERVE:
            self.started.append(_figures(trade))
        else:
            self.settled.append(_figures(trade))


def _new_trade(trade: Trade) -> Row:
    return (
        trade.trade_id,
        trade.customer_id,
        trade.seq,
        trade.symbol,
        trade.side,
        trade.quantity,
        trade.venue,
        trade.order_type,
        trade.time_in_force,
        trade.limit_price,
        trade.stop_price,
        trade.idempotency_key,
        trade.client_order_id,
        trade.replaces,
        trade.replaces_filled,
        trade.order_class,
        trade.group,
        trade.role,
        trade.trail_amount,
        trade.trail_bps,
        trade.extended_hours,
        trade.triggered,
        trade.status,
        trade.reason,
        trade.hold,
        trade.max_price,
        trade.acknowledged,
        trade.cancel_requested,
        trade.events,
    )


def _figures(trade: Trade) -> Row:
    return (
        trade.trade_id,
        trade.quantity,
        trade.stop_price,
        trade.triggered,
        trade.status,
        trade.reason,
        trade.hold,
        trade.max_price,
        trade.filled_quantity,
        trade.filled_value,
        trade.acknowledged,
        trade.cancel_requested,
        trade.events,
    )
