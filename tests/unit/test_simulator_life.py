"""Whatever brokers, operators, the market, the clock and kills do: what is told of an order is a possible life."""

from collections import Counter
from datetime import timedelta
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from broker.core.money import Money, format_money, parse_money
from broker.core.types import OrderType, Side, TimeInForce
from broker.simulator.amendments import Refusal
from broker.simulator.orders import AUCTIONS, FINISHED, WAITING
from broker.simulator.outcome import Outcome
from broker.simulator.script import Delay, Due, Fill, Partial, Reject
from broker.simulator.wire import Amendment, Answer, Event, NewOrder, OrderStatus, Replaces
from tests.simulated import AAPL, AT, Bench, buy, order_id, told

S = OrderStatus
KINDS = [kind for kind in OrderType if kind is not OrderType.TRAILING_STOP]


class Life:
    """Random steps on one exchange, and everything that was told."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.hours = self.random.choice(["always", "XNYS"])
        self.faults = {"partial": 0.3, "reject": 0.05}
        self.bench = Bench(hours=self.hours, at=AT, **self.faults)
        self.events: dict[str, list[Event]] = {}
        self.parts: list[tuple[str, list[int]]] = []
        self.due: list[Due] = []
        self.count = 0

    def note(self, events: list[Event]) -> None:
        for event in events:
            self.events.setdefault(event.order_id, []).append(event)

    def take(self, outcome: Outcome) -> None:
        self.parts += outcome.resting
        self.due += outcome.due
        self.note(told(outcome))

    def price(self) -> str:
        return format_money(Money(parse_money("190.00") + self.random.randint(-40, 60) * 100))

    def order(self) -> NewOrder:
        self.count += 1
        kind, side = self.random.choice(KINDS), self.random.choice([*Side])
        fields = {"type": kind, "side": side, "quantity": self.random.choice([1, 10, 10, 1_000, 20_000])}
        can_auction = kind in {OrderType.MARKET, OrderType.LIMIT}
        lives = [*TimeInForce, TimeInForce.DAY] if can_auction else [*set(TimeInForce) - AUCTIONS, TimeInForce.DAY]
        fields |= {"time_in_force": self.random.choice(sorted(lives)), "max_price": None}
        if kind is OrderType.LIMIT and fields["time_in_force"] in WAITING:
            fields["extended_hours"] = self.random.random() < 0.3
        if kind in {OrderType.LIMIT, OrderType.STOP_LIMIT}:
            fields["price"] = self.price()
        elif side is Side.BUY:
            fields["max_price"] = format_money(
                Money(int(fields["quantity"] * self.random.randint(1_890_000, 1_960_000)))
            )
        if kind in {OrderType.STOP, OrderType.STOP_LIMIT}:
            fields["stop_price"] = self.price()
        return buy(self.count, **fields)

    def replacement(self) -> NewOrder:
        new = self.order()
        open_orders = self.bench.exchange.orders.open()
        if open_orders:
            old = self.random.choice(open_orders)
            new.side, new.type, new.time_in_force = old.side, old.type, old.time_in_force
            new.extended_hours = old.extended_hours
            for name in ("price", "stop_price", "max_price"):
                amount = getattr(old, name)
                setattr(new, name, None if amount is None else format_money(amount))
            if self.random.random() < 0.5:
                new.quantity = max(old.leaves_quantity - self.random.randint(0, 5), 1)
            filled = old.filled_quantity if self.random.random() < 0.9 else old.filled_quantity + 1
            new.replaces = Replaces(old.id, filled)
        return new

    def step(self) -> None:
        draw = self.random.random()
        if draw < 0.05:
            self.operate()
        elif draw < 0.45:
            outcome = self.bench.accept(*(self.order() for _ in range(self.random.randint(1, 3))))
            assert {result.status for result in outcome.results} == {Answer.ACCEPTED}
            self.take(outcome)
        elif draw < 0.6:
            outcome = self.bench.accept(self.replacement())
            self.take(outcome)
        elif draw < 0.7:
            number = self.random.randint(1, self.count + 1)
            outcome = self.bench.cancel(number)
            assert self.bench.cancel(number).cancels == outcome.cancels
            self.note(told(outcome))
        elif draw < 0.8:
            self.bench.noise.draw = self.random.random()
            bid = parse_money(self.price())
            self.note(self.bench.quote(format_money(bid), format_money(Money(bid + 200))))
        elif draw < 0.85 and self.due:
            self.take(self.bench.exchange.go_on(self.due.pop(0), self.bench.at))
        elif draw < 0.9 and self.parts:
            identity, parts = self.parts.pop(0)
            self.note(told(self.bench.exchange.fill(identity, parts[0], self.bench.at)))
            if parts[1:]:
                self.parts.append((identity, parts[1:]))
        elif draw < 0.94:
            self.amend()
        elif draw < 0.97:
            self.bench.at += timedelta(hours=self.random.choice([0, 1, 5, 24]), minutes=13)
            self.note(told(self.bench.exchange.advance(self.bench.at)))
        else:
            self.kill()

    def operate(self) -> None:
        """An operator at the test bench."""
        exchange, books = self.bench.exchange, self.bench.books
        draw = self.random.random()
        if draw < 0.3:
            price = Money(parse_money(self.price()) // 100 * 100)
            self.take(exchange.set_price(AAPL, price, False, self.bench.at))
        elif draw < 0.4:
            books.halt(AAPL, "news")
        elif draw < 0.7:
            self.take(exchange.resume(AAPL, self.bench.at))
        else:
            steps = [Reject(), Delay(20), Fill(), Partial(quantity=3), Partial(parts=(1, 4, 2))]
            self.bench.script.add(None, [self.random.choice(steps)])

    def amend(self) -> None:
        execution_id = f"{order_id(self.random.randint(1, self.count + 1))}-{self.random.randint(1, 3)}"
        if self.random.random() < 0.5:
            outcome = self.bench.exchange.bust(execution_id, "erroneous trade", self.bench.at)
        else:
            outcome = self.bench.exchange.correct(execution_id, None, Money(1_900_000), self.bench.at)
        if not isinstance(outcome, Refusal):
            self.note(told(outcome))

    def kill(self) -> None:
        before = {order.id: order.state() for order in self.bench.exchange.orders.all()}
        self.bench, events = self.bench.recovered(hours=self.hours, **self.faults)
        self.parts = [
            (order.id, [order.leaves_quantity]) for order in self.bench.exchange.orders.open() if order.is_immediate
        ]
        self.due = []
        touched = {event.order_id for event in events}
        for order in self.bench.exchange.orders.all():
            assert order.id in touched or order.state() == before[order.id]
        self.note(events)


def is_possible(events: list[Event]) -> bool:
    """Whether an order can have lived so, and no event contradicts the one before it."""
    status, total = None, 0
    for event in events:
        if isinstance(event.type, Amendment):
            assert event.filled_quantity == total
            continue
        assert status not in FINISHED, events
        assert (event.type is S.ACCEPTED) <= (status is None), events
        total += event.quantity or 0
        assert event.filled_quantity == total, events
        assert (event.quantity is None) == (event.execution_id is None) == (event.price is None)
        status = event.type
    return True


@given(st.integers(0, 2**32))
def test_every_life_is_possible(seed):
    life = Life(seed)
    for _ in range(120):
        life.step()
    orders = {order.id: order for order in life.bench.exchange.orders.all()}
    ids = Counter(event.execution_id for events in life.events.values() for event in events if event.quantity)
    assert all(count <= 2 for count in ids.values())  # told once, and once more where it was busted
    for identity, events in life.events.items():
        assert is_possible(events)
        order = orders[identity]
        statuses = [event.type for event in events if isinstance(event.type, OrderStatus)]
        assert order.status is statuses[-1]
        assert order.is_finished == (order.status in FINISHED)
        traded = [each for each in order.executions if not each.corrects]
        assert sum(each.quantity for each in traded) == order.filled_quantity <= order.quantity
        if order.max_price is not None:
            assert sum(each.quantity * each.price for each in traded) <= order.max_price
        if order.price is not None:
            better = 1 if order.side is Side.BUY else -1
            assert all(better * each.price <= better * order.price for each in traded)
    # All that is open can be taken out: it stood where the exchange believes it to stand.
    life.bench.exchange.cancel([order.id for order in orders.values()], life.bench.at)
    assert life.bench.exchange.orders.open_count == 0
