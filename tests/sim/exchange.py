"""An exchange that misbehaves: it fills, loses, repeats, contradicts and forgets, as the seed decides.

What it has executed stands on its tape, for ever: the tape is the truth with which the broker's books are compared at
the end. Its words pass through the same mapping as those of the HTTP venue (broker.exchange). Two things it never
does, since nobody could notice them: words about an order that has ended (a late fill, a bust) are told until they are
taken; and an order is on its way for at most the broker's exchange_timeout_s.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from broker.core.account import may_rest, overtakes
from broker.core.messages import Report, ReportType
from broker.core.money import Money, format_money
from broker.core.types import CustomerId, OrderType, Side, Status, Symbol, TimeInForce, Trade, TradeId
from broker.exchange import ExchangeUnavailable, Refused, _Event, _Execution, _report, _reports, _State
from tests.sim.asked import differences

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")
VENUE = "sim"
_OPEN = {ReportType.ACCEPTED, ReportType.PARTIALLY_FILLED}


@dataclass(slots=True, eq=False)
class Execution:
    """A line of the tape."""

    execution_id: str
    trade_id: TradeId
    quantity: int
    price: Money
    busted: bool = False
    corrects: str | None = None
    taken: bool = False  # a callback with it was answered


@dataclass(slots=True, eq=False)
class Order:
    """An order in the exchange's book."""

    trade_id: TradeId
    customer_id: CustomerId
    symbol: Symbol
    side: Side
    quantity: int
    limit_price: Money | None
    max_price: Money | None
    may_rest: bool
    lasts: bool
    order_type: OrderType
    time_in_force: TimeInForce
    status: ReportType = ReportType.ACCEPTED
    filled: int = 0
    spent: int = 0
    reason: str | None = None
    executions: list[Execution] = field(default_factory=list)
    is_forgotten: bool = False

    @property
    def is_open(self) -> bool:
        return self.status in _OPEN


class Exchange:
    """The one venue of the simulated world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._loop = world.loop
        self._rng = world.rng("exchange")
        self.url = "sim"
        self.orders: dict[TradeId, Order] = {}
        self.tape: dict[str, Execution] = {}
        self.arrivals: dict[CustomerId, list[TradeId]] = {}
        self.untold = 0  # words that are on their way
        self.said_no: set[TradeId] = set()
        self._answering: Counter[TradeId] = Counter()  # taken, and the answer is on its way back
        self._arrived: set[TradeId] = set()
        self._refused: dict[TradeId, Refused] = {}
        self._away_until = 0.0
        self._blind_until = 0.0
        self._numbers = 0

    # -------------------------------------------------------------- what the broker calls

    async def execute(self, trades: Sequence[Trade]) -> list[Refused | None]:
        """See broker.exchange.Exchange."""
        orders = [(_order(trade), trade.seq, overtakes(trade), _replaced(trade)) for trade in trades]
        ids = [trade.trade_id for trade in trades]
        return await self._call("execute", lambda: [self._take(*each) for each in orders], ids)

    async def cancel(self, trade_ids: Sequence[TradeId]) -> set[TradeId]:
        """See broker.exchange.Exchange."""
        ids = list(trade_ids)
        return await self._call("cancel", lambda: {each for each in ids if not self._cancel(each)})

    async def lookup(self, trade_ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
        """See broker.exchange.Exchange."""
        ids = list(trade_ids)
        return await self._call("lookup", lambda: self._look(ids))

    async def _call(self, name: str, apply: Callable[[], T], sent: Sequence[TradeId] = ()) -> T:
        """The request lands although its sender may have died meanwhile; the answer may find nobody.

        Each way takes its time, so a word may overtake the answer, and an answer may be outdated when it arrives.
        """
        world, rng, faults = self._world, self._rng, self._world.faults
        answer = self._loop.create_future()
        began = self._loop.time()
        patience = world.config.exchange_timeout_s
        world.busy_seconds.add(int(began))
        on_way, way_back = (
            rng.random() * patience * 0.98 if rng.random() < faults.call_slow else world.held_up(rng, 0.02)
            for _ in range(2)
        )
        fails, is_lost = rng.random() < faults.call_fails, rng.random() < faults.answer_lost

        def give_up() -> None:
            if not answer.done():
                answer.set_exception(ExchangeUnavailable(f"{name} was not answered"))

        def land() -> None:
            if fails or self._away_until > self._loop.time():
                world.saw("the exchange answers 5xx")
                give_up()
                return
            result = apply()
            if is_lost or on_way + way_back > patience:
                world.saw("the exchange's answer is lost")
                self._loop.call_at(began + patience, give_up, context=self._loop.world)
            else:
                self._answering.update(sent)
                self._loop.call_at(self._loop.time() + way_back, arrive, result, context=self._loop.world)

        def arrive(result: T) -> None:
            self._answering.subtract(sent)
            if not answer.done():
                answer.set_result(result)

        self._loop.call_at(began + on_way, land, context=self._loop.world)
        return await answer

    # -------------------------------------------------------------- orders

    def _look(self, ids: Sequence[TradeId]) -> dict[TradeId, list[Report]]:
        if self._is_blind:
            self._world.saw("the exchange denies what it has")
            return {}
        return {each: _reports(_state(self.orders[each]), VENUE) for each in ids if each in self.orders}

    def _take(self, order: Order, seq: int, overtakes_: bool, replaces: tuple[TradeId, int] | None) -> Refused | None:
        world, rng, faults = self._world, self._rng, self._world.faults
        trade_id = order.trade_id
        stored = world.store.trades.get(trade_id)
        if stored is None:
            world.fail(f"an order that nobody placed came to the exchange: {trade_id}")
            return None
        if stored.status in {Status.PLACED, Status.HELD}:
            world.fail(f"{trade_id} came to the exchange before its start was durable: it is {stored.status}")
        if trade_id in world.asked:
            for words in differences(world.asked, trade_id, order):
                world.fail(f"{words}, as it came to the exchange")
        if trade_id in self.orders:
            world.saw("a second copy of an order")
            is_alone = not (world.drawn.second_process or world.drawn.stops)  # else its first copy may be refused
            if rng.random() < faults.copy_refused and not self._is_blind and is_alone:
                self.said_no.add(trade_id)
                return Refused("a second copy")
            return None
        if trade_id in self._refused:
            return self._refused[trade_id]
        if trade_id not in self._arrived:
            self._arrived.add(trade_id)
            if not overtakes_:
                self.arrivals.setdefault(order.customer_id, []).append(trade_id)
                world.sequence(order.customer_id, seq)
        else:
            world.saw("an order that was forgotten is sent again")
        problem = self._replace(trade_id, replaces) if replaces else None
        if problem is None and rng.random() < faults.refused and not replaces:
            problem = "not taken here"
        if problem is not None:
            world.log("refused", trade_id)
            self.said_no.add(trade_id)
            self._refused[trade_id] = Refused(problem)
            return self._refused[trade_id]
        self.orders[trade_id] = order
        world.log("accepted", trade_id)
        if order.may_rest:
            self._tell(order, ReportType.ACCEPTED)
        self._later(order)
        return None

    def _replace(self, trade_id: TradeId, replaces: tuple[TradeId, int]) -> str | None:
        old = self.orders.get(replaces[0])
        if old is None or not old.is_open:
            return "the order to replace is finished or unknown"
        if old.filled != replaces[1]:
            return "the order to replace has filled meanwhile"
        old.status = ReportType.REPLACED
        self._world.saw("an order is replaced at the exchange")
        self._world.log("replaced", old.trade_id)
        self._tell(old, ReportType.REPLACED)
        return None

    def _cancel(self, trade_id: TradeId) -> bool:
        order = self.orders.get(trade_id)
        if order is None:
            return False
        if order.is_open:
            self._end(order, ReportType.CANCELLED, "asked")
            self._world.saw("an order is cancelled at the exchange")
        return order.status is ReportType.CANCELLED and order.reason == "asked"

    # -------------------------------------------------------------- what becomes of them

    def _later(self, order: Order) -> None:
        rng = self._rng
        delay = rng.random() * rng.choice((0.05, 0.5, 10.0))
        self._loop.call_at(self._loop.time() + delay, self._go_on, order, context=self._loop.world)

    def _go_on(self, order: Order) -> None:
        """The order's next moment in the market."""
        if order.is_forgotten or not order.is_open:
            return
        world, rng, faults = self._world, self._rng, self._world.faults
        if order.filled == 0 and rng.random() < faults.rejected and not order.may_rest:
            self._end(order, ReportType.REJECTED, "no borrow")
            self._after_end(order)
            return
        if order.may_rest and rng.random() < (0.4 if order.lasts else 0.15):
            return  # it rests, for ever
        if order.filled and rng.random() < faults.no_liquidity:
            self._end(order, ReportType.CANCELLED, "no liquidity")
            self._after_end(order)
            return
        if order.may_rest and not order.lasts and rng.random() < faults.expires:
            world.saw("an order expires")
            self._end(order, ReportType.EXPIRED, "the session ended")
            self._after_end(order)
            return
        leaves = order.quantity - order.filled
        quantity = rng.randint(1, leaves) if rng.random() < faults.parts else leaves
        if rng.random() < faults.overfill and quantity == leaves:
            quantity += rng.randint(1, 5)
            world.saw("an overfill")
        self._fill(order, quantity)
        if order.is_open:
            self._later(order)
        else:
            self._after_end(order)

    def _fill(self, order: Order, quantity: int, *, late: bool = False) -> None:
        order.filled += quantity
        if not late:
            order.status = ReportType.FILLED if order.filled >= order.quantity else ReportType.PARTIALLY_FILLED
        price = self._price(order, quantity)
        order.spent += quantity * price
        done = self._execute(order, quantity, price)
        is_final = order.status is ReportType.FILLED or late
        type_ = ReportType.FILLED if is_final else ReportType.PARTIALLY_FILLED
        must = late or order.filled > order.quantity or self._is_too_dear(order, price)
        self._world.log("filled", order.trade_id, quantity, price, done.execution_id)
        self._tell(order, type_, done, must=must)

    def _price(self, order: Order, quantity: int) -> Money:
        market = self._world.price(order.symbol)
        if self._rng.random() < self._world.faults.too_dear:
            self._world.saw("an execution at a price that is not the customer's")
            return Money(market * 3 if order.side is Side.BUY else max(1, market // 3))
        if order.limit_price is not None:
            return order.limit_price
        if order.max_price is not None:
            leaves = max(quantity, order.quantity - (order.filled - quantity))
            return Money(max(1, min(market, (order.max_price - order.spent) // leaves)))
        return market

    def _is_too_dear(self, order: Order, price: Money) -> bool:
        if order.limit_price is not None:
            return price > order.limit_price if order.side is Side.BUY else price < order.limit_price
        return order.max_price is not None and order.spent > order.max_price

    def _execute(self, order: Order, quantity: int, price: Money, corrects: str | None = None) -> Execution:
        self._numbers += 1
        done = Execution(f"e{self._numbers}", order.trade_id, quantity, price, corrects=corrects)
        order.executions.append(done)
        self.tape[done.execution_id] = done
        return done

    def _end(self, order: Order, status: ReportType, reason: str) -> None:
        order.status, order.reason = status, reason
        if status is ReportType.REJECTED:
            self.said_no.add(order.trade_id)
        self._world.log("ended", order.trade_id, status.value)
        self._tell(order, status)

    def _after_end(self, order: Order) -> None:
        """What has ended trades all the same: the exchange contradicts itself."""
        if self._rng.random() < self._world.faults.after_end:
            self._world.saw("a fill after the end")
            delay = self._rng.random() * self._rng.choice((0.1, 20.0))
            self._world.goes_on_until(self._loop.time() + delay)
            self._loop.call_at(self._loop.time() + delay, self._late_fill, order, context=self._loop.world)

    def _late_fill(self, order: Order) -> None:
        if not order.is_forgotten and not order.is_open:
            self._fill(order, self._rng.randint(1, 5), late=True)

    @property
    def _is_blind(self) -> bool:
        """It has come back, and not read its books yet."""
        return self._blind_until > self._loop.time()

    # -------------------------------------------------------------- misfortunes that the world brings

    def go_away(self, seconds: float) -> None:
        """It answers nobody for a while."""
        self._away_until = self._loop.time() + seconds
        self._world.goes_on_until(self._away_until)
        self._world.saw("the exchange is away")

    def restart(self) -> None:
        """It comes back without some of its orders: those of which nothing was heard, or all that was.

        Or, once, it comes back with all of them, and for a while says that it has none.
        """
        if not self._blind_until and self._rng.random() < 0.5:
            self._blind_until = self._loop.time() + self._rng.choice((3.0, 20.0))
            self._world.goes_on_until(self._blind_until)
            return
        for order in list(self.orders.values()):
            if all(each.taken and each.corrects is None for each in order.executions) and self._rng.random() < 0.5:
                if order.executions and order.filled >= order.quantity:
                    continue
                self._world.saw("an order is forgotten" if not order.executions else "an order is forgotten in part")
                self._world.log("forgotten", order.trade_id)
                order.is_forgotten = True
                del self.orders[order.trade_id]

    def take_back(self) -> None:
        """A bust, or a correction, of an execution: told or not."""
        known = [each for each in self.tape.values() if not each.busted and each.trade_id in self.orders]
        if not known:
            return
        wrong = self._rng.choice(known)
        order = self.orders[wrong.trade_id]
        wrong.busted = True
        if self._rng.random() < 0.5:
            self._world.saw("a bust")
            self._world.log("busted", order.trade_id, wrong.execution_id)
            self._tell(order, ReportType.BUSTED, wrong, must=True)
        else:
            self._world.saw("a correction")
            quantity = self._rng.randint(1, wrong.quantity)
            price = Money(max(1, wrong.price - self._rng.randint(0, 5_000)))
            right = self._execute(order, quantity, price, wrong.execution_id)
            self._world.log("corrected", order.trade_id, wrong.execution_id, right.execution_id)
            self._tell(order, ReportType.CORRECTED, right, must=True)

    def speak_of_strangers(self) -> None:
        """A word about an order that nobody ever placed."""
        self._world.saw("a word about a stranger's order")
        stranger = UUID(int=self._rng.getrandbits(128))
        event = _Event(ReportType.ACCEPTED, stranger)
        self._send([event], None, None, must=False)

    # -------------------------------------------------------------- words

    def _tell(self, order: Order, type_: ReportType, done: Execution | None = None, *, must: bool = False) -> None:
        """By callback: lost, late, twice, in any order; at least once only what must be."""
        rng, faults = self._rng, self._world.faults
        event = _Event(type_, order.trade_id, filled_quantity=order.filled, reason=order.reason)
        if done is not None:
            event.execution_id, event.corrects = done.execution_id, done.corrects
            event.quantity, event.price = done.quantity, format_money(done.price)
        if not must and rng.random() < faults.word_lost:
            self._world.saw("a word is lost for ever")
            return
        copies = 1
        if rng.random() < faults.word_twice:
            copies += rng.randint(1, 2)
            self._world.saw("a word is said twice")
        for _ in range(copies):
            self._send([event], order, done, must=must)

    def _send(self, events: list[_Event], order: Order | None, done: Execution | None, *, must: bool) -> None:
        rng, faults = self._rng, self._world.faults
        delay = rng.random() * (rng.choice((2.0, 40.0)) if rng.random() < faults.word_late else 0.02)
        self.untold += 1
        self._world.goes_on_until(self._loop.time() + delay)
        self._loop.call_at(self._loop.time() + delay, self._begin, events, order, done, must, context=self._loop.world)

    def _begin(self, events: list[_Event], order: Order | None, done: Execution | None, must: bool) -> None:
        self._loop.spawn(self._post(events, order, done, must=must))

    async def _post(self, events: list[_Event], order: Order | None, done: Execution | None, *, must: bool) -> None:
        """Say it until it is taken. What was forgotten meanwhile is not said any more."""
        rng, world = self._rng, self._world
        pause = 0.2
        while order is None or must or not order.is_forgotten:
            if self._is_blind:  # it says nothing either, until it has found its books
                await self._loop.pause(self._blind_until - self._loop.time())
            if order is not None and self._answering[order.trade_id] > 0:
                world.saw("a word overtakes the answer")
            if await world.call_back([_report(event, VENUE) for event in events]):
                if done is not None:
                    done.taken = True
                    world.check_taken(events, done)
                    self._contradict(events[0], order)
                break
            await self._loop.pause(pause * (0.5 + rng.random()))
            pause = min(10.0, 2 * pause)
        self.untold -= 1

    def _contradict(self, event: _Event, order: Order | None) -> None:
        """The same execution once more, with other figures: nobody may believe it."""
        if event.type is ReportType.BUSTED or self._rng.random() >= self._world.faults.word_contradicts:
            return
        if (VENUE, event.execution_id) not in self._world.store.executions:
            return  # the truth is in the inbox: a lie would be the first that is heard of it
        self._world.saw("a known execution with other figures")
        lie = _Event(
            event.type,
            event.order_id,
            event.execution_id,
            (event.quantity or 0) + 1,
            event.price,
            event.filled_quantity,
            event.reason,
            event.corrects,
        )
        self._send([lie], order, None, must=False)


def _order(trade: Trade) -> Order:
    """The order as its message says it: the trade itself may change before it is read."""
    return Order(
        trade.trade_id,
        trade.customer_id,
        trade.symbol,
        trade.side,
        trade.quantity,
        trade.limit_price,
        trade.max_price,
        may_rest(trade) and trade.time_in_force in {TimeInForce.DAY, TimeInForce.GTC},
        trade.time_in_force is TimeInForce.GTC and trade.order_type is not OrderType.MARKET,
        trade.order_type,
        trade.time_in_force,
    )


def _replaced(trade: Trade) -> tuple[TradeId, int] | None:
    if not trade.replaces_at_exchange:
        return None
    assert trade.replaces is not None
    assert trade.replaces_filled is not None
    return trade.replaces, trade.replaces_filled


def _state(order: Order) -> _State:
    executions = [
        _Execution(each.execution_id, each.quantity, format_money(each.price), each.busted, each.corrects)
        for each in order.executions
    ]
    said = (order.reason, order.symbol, order.side, order.quantity)
    return _State(order.trade_id, order.status, order.filled, executions, *said)
