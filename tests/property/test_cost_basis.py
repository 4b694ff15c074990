"""Cost basis: whatever is bought, sold and split, no unit of cost appears or is lost."""

from hypothesis import example, given
from hypothesis import strategies as st

from broker.core.cost_basis import average_price, buy, cash_in_lieu, sell, split
from broker.core.money import Money, parse_money
from broker.core.types import PRICE_MAX, QUANTITY_MAX

quantities = st.integers(1, 1_000) | st.integers(1, QUANTITY_MAX)
amounts = (st.integers(0, 10**6) | st.integers(0, 10**17)).map(Money)
costs = amounts
ratios = st.tuples(st.integers(1, 50), st.integers(1, 50))
steps = st.one_of(
    st.tuples(st.just("buy"), quantities, amounts),
    st.tuples(st.just("sell"), st.integers(1, 100), amounts),  # a part of what is there, in percent
    st.tuples(st.just("split"), ratios, st.integers(1, PRICE_MAX).map(Money)),
)


@given(st.lists(steps, max_size=30))
@example([("buy", 3, Money(10)), ("sell", 34, Money(4)), ("split", (1, 2), Money(7)), ("sell", 100, Money(0))])
def test_cost_less_gains_is_what_was_paid_less_what_came_in(sequence: list[tuple]) -> None:
    cost, quantity, gains, paid, received = Money(0), 0, 0, 0, 0
    for kind, size, amount in sequence:
        if kind == "buy":
            cost = buy(cost, amount)
            quantity += size
            paid += amount
        elif kind == "sell" and quantity:
            sold = max(1, quantity * size // 100)
            out, gain = sell(cost, quantity, sold, amount)
            assert 0 <= out <= cost
            cost, quantity, gains, received = Money(cost - out), quantity - sold, gains + gain, received + amount
        elif kind == "split" and quantity:
            numerator, denominator = size
            after, fraction = split(quantity, numerator, denominator)
            if fraction:
                cash = cash_in_lieu(fraction, denominator, amount)
                out, gain = sell(cost, quantity * numerator, fraction, cash)
                cost, gains, received = Money(cost - out), gains + gain, received + cash
            quantity = after
        assert cost >= 0
        assert cost - gains == paid - received
        assert quantity or cost == 0


@given(costs, quantities, st.data())
def test_the_cost_that_leaves_is_its_share_rounded_down(cost: Money, quantity: int, data: st.DataObject) -> None:
    sold = data.draw(st.integers(1, quantity))
    out, gain = sell(cost, quantity, sold, Money(0))
    assert out * quantity <= cost * sold < (out + 1) * quantity
    assert gain == -out
    assert sell(cost, quantity, quantity, cost) == (cost, 0)


@given(costs, quantities)
def test_the_average_price_is_within_half_a_unit(cost: Money, quantity: int) -> None:
    assert abs(2 * (average_price(cost, quantity) * quantity - cost)) <= quantity
    assert average_price(Money(0), 0) == 0


@given(st.integers(0, QUANTITY_MAX), ratios)
def test_a_split_keeps_every_part_of_a_share(quantity: int, ratio: tuple[int, int]) -> None:
    numerator, denominator = ratio
    after, fraction = split(quantity, numerator, denominator)
    assert after * denominator + fraction == quantity * numerator
    assert 0 <= fraction < denominator


@given(st.integers(1, 1_000), st.integers(0, PRICE_MAX).map(Money), st.data())
def test_cash_in_lieu_is_less_than_a_share_and_rounded_down(
    denominator: int, price: Money, data: st.DataObject
) -> None:
    fraction = data.draw(st.integers(0, denominator - 1))
    cash = cash_in_lieu(fraction, denominator, price)
    assert cash * denominator <= fraction * price < (cash + 1) * denominator
    assert cash <= price


def test_three_shares_one_for_two() -> None:
    cost = parse_money("30.00")
    assert split(3, 1, 2) == (1, 1)
    cash = cash_in_lieu(1, 2, parse_money("22.01"))
    assert cash == parse_money("11.005")
    assert sell(cost, 3, 1, cash) == (parse_money("10.00"), parse_money("1.005"))
