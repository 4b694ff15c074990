"""A history reckoned back from today's holdings is the one that a plain walk forward through the events finds."""

from dataclasses import dataclass
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from broker.core.activities import Made, Transfer, activities
from broker.core.history import Held, Moved, Sample, first_id, history
from broker.core.money import Money
from broker.core.postings import CASH
from broker.core.types import Side, Symbol
from tests.builders import NOW

A, B = Symbol("A"), Symbol("B")


@dataclass(frozen=True)
class Step:
    """What happens between two points: a deposit (or withdrawal), and shares bought or sold at a price."""

    deposit: int
    symbol: Symbol
    shares: int
    price: int
    sample_a: int
    sample_b: int


amounts = st.integers(-(10**9), 10**9)
prices = st.integers(1, 10**7)
steps = st.lists(
    st.builds(Step, amounts, st.sampled_from([A, B]), st.integers(-100, 100), prices, prices, prices), max_size=8
)


@given(st.integers(0, 10**9), steps)
def test_backward_is_forward(start: int, walk: list[Step]) -> None:
    """Shares of both symbols are held throughout, and each point has a sample."""
    times = [NOW + timedelta(hours=number) for number in range(len(walk) + 1)]
    cash, shares, net, paid_in = start, {A: 1_000, B: 1_000}, 0, 0
    equity, profits, moved = [cash + 2_000], [0], []
    samples = {(symbol, 0): Sample(NOW, Money(1)) for symbol in (A, B)}
    for span, step in enumerate(walk, 1):
        paid = step.shares * step.price
        cash += step.deposit - paid
        shares[step.symbol] += step.shares
        net, paid_in = net + step.deposit, paid_in + max(0, step.deposit)
        price = {A: step.sample_a, B: step.sample_b}
        samples |= {(symbol, span): Sample(times[span], Money(price[symbol])) for symbol in (A, B)}
        equity.append(cash + sum(shares[symbol] * price[symbol] for symbol in (A, B)))
        profits.append(equity[-1] - equity[0] - net)
        moved.append(Moved(span, CASH, step.deposit - paid, 0, step.deposit, max(0, step.deposit)))
        moved.append(Moved(span, step.symbol, step.shares, paid))
    shown = history(times, [Held(CASH, cash), Held(A, shares[A]), Held(B, shares[B])], moved, samples, {})
    assert (shown.equity, shown.profit_loss) == (equity, profits)
    if equity[0] + paid_in > 0:
        exact = profits[-1] * 1_000_000 / (equity[0] + paid_in)
        assert shown.profit_loss_pct[-1] is not None
        assert abs(shown.profit_loss_pct[-1] - exact) <= 1 + abs(exact) / 10**9


@given(st.integers(0, 10**9), st.lists(st.tuples(st.integers(1, 5), amounts), max_size=10))
def test_deposits_alone_are_never_profit(start: int, deposits: list[tuple[int, int]]) -> None:
    times = [NOW + timedelta(hours=number) for number in range(6)]
    moved = [Moved(span, CASH, amount, 0, amount, max(0, amount)) for span, amount in deposits]
    held = [Held(CASH, start + sum(amount for _, amount in deposits))]
    shown = history(times, held, moved, {}, {})
    assert shown.equity[0] == start
    assert set(shown.profit_loss) == {0}


@given(steps)
def test_without_any_price_a_position_counts_at_its_cost(walk: list[Step]) -> None:
    """What is bought and never sold is then worth what it cost: no profit, no loss."""
    times = [NOW + timedelta(hours=number) for number in range(len(walk) + 1)]
    moved, cash, shares, cost = [], 0, 0, 0
    for span, step in enumerate(walk, 1):
        paid = abs(step.shares) * step.price
        moved += [Moved(span, CASH, -paid), Moved(span, A, abs(step.shares), paid)]
        cash, shares, cost = cash - paid, shares + abs(step.shares), cost + paid
    shown = history(times, [Held(CASH, cash), Held(A, shares, cost)], moved, {}, {})
    assert set(shown.profit_loss) == {0}


@given(
    amounts,
    st.sampled_from(["fill", "bust"]),
    st.sampled_from(Side),
    st.integers(1, 100),
    prices,
    st.integers(0, 10**6),
)
def test_activities_of_a_transfer_sum_to_its_cash(
    cash: int, kind: str, side: Side, quantity: int, price: int, fee: int
) -> None:
    made = Made(first_id(NOW), side, quantity, Money(price), Money(fee))
    found = activities(Transfer(first_id(NOW), kind, "r", NOW, Money(cash), [(A, quantity)], made))
    assert sum(each.cash for each in found) == cash
    assert [each.number for each in found] == list(range(1, len(found) + 1))
