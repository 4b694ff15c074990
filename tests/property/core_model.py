"""The naive model beside the core: it adds up what was posted, and on its own what the exchange was heard to say.

Nothing in here looks at how the core decides. It keeps sums, and compares them with the account, the postings and the
rules of the tables in schema.sql.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

from broker.core.account import Account
from broker.core.corporate import ActionKind, AnyEvent, CorporateAction, PositionAdjusted
from broker.core.fees import FeeRule, order_fees
from broker.core.messages import CashMoved, Restricted, Step, TradeEvent
from broker.core.money import Money
from broker.core.postings import CASH, House, Move, Posting, entry_postings, house_owner, move_postings
from broker.core.states import TERMINAL, TRANSITIONS
from broker.core.types import CustomerId, Side, Status, Symbol, Trade, TradeId

CLEARING, EXTERNAL, FEES, RECEIVABLE, SUSPENSE, CORPORATE = (house_owner(0, house) for house in House)

_FIGURES = ("status", "filled_quantity", "filled_value", "hold", "reason", "acknowledged", "cancel_requested")


@dataclass(slots=True)
class Said:
    """An execution, as the exchange said it."""

    owner_id: int
    symbol: Symbol
    sign: int  # 1 of a BUY, -1 of a SELL
    quantity: int
    price: int
    fee: int
    cost_out: int | None = None  # of a sale: what its shares had cost
    is_alive: bool = True

    @property
    def value(self) -> int:
        return self.quantity * self.price


@dataclass(slots=True)
class Order:
    """The figures of one order, added up from its events."""

    trade: Trade
    events: int = 0
    status: Status | None = None
    hold: int = 0
    quantity: int = 0
    value: int = 0
    suspended: int = 0
    as_ended: tuple[object, ...] | None = None

    @property
    def seen(self) -> int:
        """Shares of it that the exchange told us of: a correction is of shares that were told before."""
        return self.quantity + self.suspended


class Model:
    """What everybody has, by adding up."""

    def __init__(self, rules: tuple[FeeRule, ...]) -> None:
        self._rules = rules
        self.posted: Counter[tuple[int, str]] = Counter()
        self.expected: Counter[tuple[int, str]] = Counter()
        self.cost: Counter[tuple[int, str]] = Counter()
        self.gain: Counter[tuple[int, str]] = Counter()
        self.paid: Counter[tuple[int, str]] = Counter()  # for shares that customers bought, less what sales brought
        self.orders: dict[TradeId, Order] = {}
        self.said: dict[tuple[TradeId, str], Said] = {}
        self.last_started: Counter[int] = Counter()

    # ------------------------------------------------------------ taking events in

    def take(self, event: AnyEvent, day: date) -> None:
        """One event, in its order."""
        if isinstance(event, TradeEvent):
            self._trade_event(event, day)
        elif isinstance(event, CashMoved):
            self._move(event.customer_id, EXTERNAL, [Move(CASH, event.amount)])
        else:
            assert isinstance(event, Restricted)

    def adjust(self, event: PositionAdjusted, action: CorporateAction, shares: int) -> None:
        """A corporate action on a position of so many shares."""
        customer, symbol = event.customer_id, action.symbol
        match action.kind:
            case ActionKind.CASH_DIVIDEND:
                wanted = {CASH: shares * action.per_share}
            case ActionKind.SYMBOL_CHANGE:
                assert action.new_symbol is not None
                wanted = {symbol: -shares, action.new_symbol: shares}
                self.paid[customer, action.new_symbol] += self.paid.pop((customer, symbol), 0)
            case ActionKind.SPLIT:
                whole, rest = divmod(shares * action.numerator, action.denominator)
                wanted = {symbol: whole - shares, CASH: rest * action.price // action.denominator}
                self.paid[customer, symbol] -= wanted[CASH]
        assert {move.asset: move.amount for move in event.moves if move.amount} == {
            k: n for k, n in wanted.items() if n
        }
        self._move(customer, CORPORATE, event.moves)

    def _move(self, customer: CustomerId, other: int, moves: Iterable[Move]) -> None:
        moves = list(moves)
        self._post(move_postings(customer, other, moves))
        for move in moves:
            self.expected[customer, move.asset] += move.amount
            self.expected[other, move.asset] -= move.amount

    def _post(self, lines: list[Posting]) -> None:
        """A transfer: balanced for each asset, at most one line for each row, none of them empty."""
        sums: Counter[str] = Counter()
        for line in lines:
            sums[line.asset] += line.amount
            self.posted[line.owner_id, line.asset] += line.amount
            self.cost[line.owner_id, line.asset] += line.cost
            self.gain[line.owner_id, line.asset] += line.gain
            assert line.amount or line.cost or line.gain
            assert line.owner_id > 0 or not (line.cost or line.gain)
        assert not any(sums.values()), f"unbalanced: {lines}"
        assert len({(line.owner_id, line.asset) for line in lines}) == len(lines), f"two lines for a row: {lines}"

    def _trade_event(self, event: TradeEvent, day: date) -> None:
        trade = event.trade
        order = self.orders.setdefault(trade.trade_id, Order(trade))
        order.events += 1
        assert event.number == order.events, f"event {event.number} after {order.events - 1}"
        self._follow(order, event)
        match event.step:
            case Step.STARTED:
                order.hold = trade.hold
                if not trade.replaces_at_exchange:
                    assert trade.seq > self.last_started[trade.customer_id], "an earlier trade starts after a later one"
                    self.last_started[trade.customer_id] = trade.seq
            case Step.EXECUTED:
                self._executed(order, event, day)
            case Step.SUSPENSE:
                order.suspended += self._say(event, SUSPENSE, 0).quantity
            case Step.BUSTED | Step.CORRECTED:
                self._taken_back(event)
            case Step.ENDED:
                self._pass_hold(order, event, day)
                order.hold = 0
        if event.entry:
            self._post(entry_postings(trade.customer_id, 0, trade.symbol, event.entry))

    def _follow(self, order: Order, event: TradeEvent) -> None:
        """Its statuses are a path through the table, and nothing but events comes after the last one."""
        if event.step is Step.PLACED:
            assert (order.status, event.status) == (None, Status.PLACED)
        elif event.step in {Step.STARTED, Step.EXECUTED, Step.ENDED}:
            assert order.status is not None
            assert event.status in TRANSITIONS[order.status], f"{order.status} -> {event.status}"
        else:
            assert event.status is order.status
        order.status = event.status
        if event.status in TERMINAL and order.as_ended is None:
            order.as_ended = figures(event.trade)

    def _executed(self, order: Order, event: TradeEvent, day: date) -> None:
        trade, fill = event.trade, event.report.fill if event.report else None
        assert fill is not None
        quantity, value = fill.last_qty, fill.value
        fee = self._fees(trade, order.quantity + quantity, order.value + value, day)
        fee -= self._fees(trade, order.quantity, order.value, day)
        is_buy = trade.side is Side.BUY
        fee = min(fee, order.hold - value if is_buy else value)  # never more than is there for it
        order.hold -= value + fee if is_buy else quantity
        order.quantity, order.value = order.quantity + quantity, order.value + value
        row = (trade.customer_id, trade.symbol)
        cost_out = -value if is_buy else self.cost[row] * quantity // self.posted[row]
        assert event.entry is not None
        assert (event.entry.cost, event.entry.gain) == (-cost_out, 0 if is_buy else value - cost_out)
        if event.status is Status.FILLED:
            order.hold = 0
        self._say(event, trade.customer_id, fee).cost_out = None if is_buy else cost_out

    def _fees(self, trade: Trade, quantity: int, value: int, day: date) -> int:
        return sum(fee.amount for fee in order_fees(self._rules, trade.side, quantity, Money(value), day))

    def _pass_hold(self, order: Order, event: TradeEvent, day: date) -> None:
        """What a replaced order held goes to the one that takes its place, as far as that one needs it."""
        if event.status is not Status.REPLACED:
            return
        for new in self.orders.values():
            trade = new.trade
            at_exchange = trade.replaces_at_exchange and new.status not in TERMINAL
            if trade.replaces == order.trade.trade_id and at_exchange:
                value = trade.quantity * trade.limit_price if trade.limit_price is not None else trade.max_price
                full = trade.quantity
                if trade.side is Side.BUY:
                    assert value is not None
                    full = value + self._fees(trade, trade.quantity, value, day)
                new.hold = max(new.hold, min(full, new.hold + order.hold))

    # ------------------------------------------------------------ what the exchange said

    def _say(self, event: TradeEvent, owner_id: int, fee: int) -> Said:
        trade, report = event.trade, event.report
        assert report is not None
        assert report.execution_id is not None
        assert report.fill is not None
        key = (trade.trade_id, report.execution_id)
        assert key not in self.said, "an execution is settled once"
        sign = 1 if trade.side is Side.BUY else -1
        said = Said(owner_id, trade.symbol, sign, report.fill.last_qty, report.fill.last_px, fee)
        self.said[key] = said
        self._count(said, 1)
        return said

    def _count(self, said: Said, times: int) -> None:
        shares, value, fee = times * said.sign * said.quantity, times * said.sign * said.value, times * said.fee
        self.expected[said.owner_id, said.symbol] += shares
        self.expected[CLEARING, said.symbol] -= shares
        self.expected[said.owner_id, CASH] -= value + fee
        self.expected[CLEARING, CASH] += value
        self.expected[FEES, CASH] += fee
        if said.owner_id > 0:
            self.paid[said.owner_id, said.symbol] += value

    def _taken_back(self, event: TradeEvent) -> None:
        trade, report, entry = event.trade, event.report, event.entry
        assert report is not None
        assert entry is not None
        if event.step is Step.BUSTED:
            said = self.said[trade.trade_id, report.execution_id or ""]
            assert said.is_alive, "an execution is taken back once"
            said.is_alive = False
            assert said.cost_out in {None, entry.cost}, "shares come back at what they had cost"
            self._count(said, -1)
        else:
            wrong = self.said[trade.trade_id, report.corrects or ""]
            assert not wrong.is_alive, "a correction stands in the place of what was taken back"
            self._say(event, wrong.owner_id, wrong.fee)
        # Below zero: what comes in pays first what the bust before it left owed.
        assert -max(0, entry.cash) <= entry.owed_cash <= max(0, -entry.cash)
        assert -max(0, entry.shares) <= entry.owed_shares <= max(0, -entry.shares)
        for asset, owed in ((CASH, entry.owed_cash), (trade.symbol, entry.owed_shares)):
            self.expected[trade.customer_id, asset] += owed
            self.expected[RECEIVABLE, asset] -= owed

    # ------------------------------------------------------------ what must always hold

    def check(self, account: Account) -> None:
        """The books as a whole, and one account with its open orders."""
        assert self.posted == self.expected
        customer = account.customer_id
        held: Counter[str] = Counter()
        for trade in account.working.values():
            self.check_order(trade)
            held[CASH if trade.side is Side.BUY else trade.symbol] += self.orders[trade.trade_id].hold
        for asset, holding in ((CASH, account.cash), *account.positions.items()):
            row = (customer, asset)
            assert holding.balance == self.posted[row]
            assert holding.held == held.pop(asset, 0)
            assert holding.available >= holding.floor
            assert (holding.cost, holding.gain) == (self.cost[row], self.gain[row])
            assert holding.cost >= 0
            assert holding.balance or not holding.cost, "a cost without shares"
            assert asset == CASH or holding.cost - holding.gain == self.paid[row]
        assert not any(held.values())

    def check_order(self, trade: Trade) -> None:
        """One order against what was added up, and against the rules of its table."""
        order = self.orders[trade.trade_id]
        assert (trade.status, trade.events) == (order.status, order.events)
        assert (trade.filled_quantity, trade.filled_value, trade.hold) == (order.quantity, order.value, order.hold)
        counted = [each for each in trade.executions.values() if not each.suspense and each.corrects is None]
        assert trade.filled_quantity == sum(each.last_qty for each in counted) <= trade.quantity
        assert trade.filled_value == sum(each.value for each in counted)
        check_row(trade)
        assert trade.status in TERMINAL or order.seen < trade.quantity, "nothing will end it"
        if trade.status in TERMINAL:
            assert figures(trade) == order.as_ended, "a finished trade has changed"
            assert trade.hold == 0


def figures(trade: Trade) -> tuple[object, ...]:
    """What of a trade does not change any more once it has ended."""
    return tuple(getattr(trade, name) for name in _FIGURES)


def check_row(trade: Trade) -> None:
    """The rules of the table `trade` in schema.sql."""
    filled, hold = trade.filled_quantity, trade.hold
    assert hold >= 0
    assert trade.reason
    match trade.status:
        case Status.PLACED:
            assert (hold, filled) == (0, 0)
        case Status.IN_PROGRESS:
            assert hold > 0 or trade.replaces_at_exchange
            assert filled == 0
        case Status.PARTIALLY_FILLED:
            assert 1 <= filled < trade.quantity
        case Status.FILLED:
            assert filled == trade.quantity
        case Status.REJECTED:
            assert filled == 0
        case _:
            assert filled < trade.quantity
    if trade.side is Side.SELL and trade.status not in TERMINAL and trade.status is not Status.PLACED:
        assert hold == trade.leaves_quantity or (trade.replaces_at_exchange and hold < trade.leaves_quantity)
    if trade.limit_price is not None:
        past = trade.filled_value - filled * trade.limit_price
        assert past <= 0 if trade.side is Side.BUY else past >= 0
    if trade.max_price is not None:
        assert trade.filled_value <= trade.max_price
