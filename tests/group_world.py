"""One customer whose commands are decided as a shard decides them, with an exchange that says what a test wants."""

import asyncio
from uuid import UUID

from broker.batch import Batch, Command, Decided, Item, Known
from broker.config import Config
from broker.core.account import Account
from broker.core.conditions import Policy
from broker.core.messages import Leg, PlaceTrade, Report, ReportType, TradeEvent, Wake
from broker.core.money import Money
from broker.core.types import Fill, OrderClass, OrderType, Side, Trade, TradeId
from tests.builders import NOW, FixedControls, FixedMarket, conditions, dollars, order, trade_id

CONFIG = Config()


class _Answer:
    """Nobody waits for it."""

    def done(self) -> bool:
        return False


class GroupWorld:
    """What a shard has of one customer. `trades` are all there ever were, by their numbers."""

    def __init__(self, holder: Account, market: FixedMarket, policy: Policy | None = None) -> None:
        self.holder = holder
        self.market = market
        self.policy = policy or Policy()
        self.controls = FixedControls()
        self.now = NOW
        self.trades: dict[TradeId, Trade] = {}
        self.executions = 0

    def decide(self, command: Command) -> Decided:
        """One batch with one command."""
        world = conditions(self.market, self.controls, self.policy, self.now)
        self.holder.ended = self.trades
        batch = Batch({self.holder.customer_id: self.holder}, Known(), world, CONFIG)
        reply: asyncio.Future[object] = _Answer()  # type: ignore[assignment]
        decided = batch.decide([Item(self.holder.customer_id, command, reply, 0)], advance=True)
        for event in decided.events:
            if isinstance(event, TradeEvent):
                self.trades[event.trade.trade_id] = event.trade
        cash = self.holder.cash
        assert cash.balance - cash.held >= cash.floor, "what is reserved must be there, as the database has it"
        return decided

    def do(self, command: Command) -> list[tuple[int, str, str]]:
        """What happened: the number of each order, its step and its status then."""
        events = self.decide(command).events
        return [
            (each.trade.trade_id.int, str(each.step), str(each.status))
            for each in events
            if isinstance(each, TradeEvent)
        ]

    def trade(self, number: int) -> Trade:
        """The order of this number."""
        return self.trades[trade_id(number)]

    def fill(self, number: int, quantity: int, price: str) -> list[tuple[int, str, str]]:
        """The exchange has executed so much of an order."""
        self.executions += 1
        trade = self.trade(number)
        fill = Fill(quantity, dollars(price))
        filled = trade.filled_quantity + quantity
        report = Report(
            trade.trade_id, ReportType.PARTIALLY_FILLED, "sim", f"e{self.executions}", fill, filled_quantity=filled
        )
        return self.do(report)

    def say(self, number: int, type_: str, reason: str | None = None) -> list[tuple[int, str, str]]:
        """The exchange says something else of an order."""
        trade = self.trade(number)
        return self.do(
            Report(trade.trade_id, ReportType(type_), "sim", filled_quantity=trade.filled_quantity, reason=reason)
        )

    def wake(self, number: int, price: str, stop: str | None = None) -> list[tuple[int, str, str]]:
        """The market has come to a price."""
        stop_price = dollars(stop) if stop else None
        return self.do(Wake(self.holder.customer_id, trade_id(number), dollars(price), stop_price))

    def open(self) -> dict[int, str]:
        """The statuses of the orders that have not ended."""
        everything = [*self.holder.waiting, *self.holder.held.values(), *self.holder.working.values()]
        return {each.trade_id.int: str(each.status) for each in everything}


def group(
    holder: Account,
    kind: OrderClass,
    take_profit: str | None,
    stop_loss: str | None,
    *,
    number: int = 1,
    stop_limit: str | None = None,
    **fields: object,
) -> PlaceTrade:
    """An order with exits: order `number`, and from there on the take profit, then the stop loss."""
    command = order(holder, number=number, **fields)  # type: ignore[arg-type]
    legs = []
    if take_profit is not None:
        legs.append(Leg(TradeId(UUID(int=number + 1)), limit_price=dollars(take_profit)))
    if stop_loss is not None:
        limit = dollars(stop_limit) if stop_limit else None
        legs.append(Leg(TradeId(UUID(int=number + 1 + len(legs))), limit, dollars(stop_loss)))
    command.order_class, command.legs = kind, tuple(legs)
    return command


def trailing(
    holder: Account, side: Side = Side.SELL, quantity: int = 10, amount: str | None = None, bps: int | None = None
) -> PlaceTrade:
    """A trailing stop."""
    command = order(holder, side, quantity)
    command.order_type = OrderType.TRAILING_STOP
    command.trail_amount = Money(dollars(amount)) if amount else None
    command.trail_bps = bps
    return command
