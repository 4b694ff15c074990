"""Double entry and holds, for any figures."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.core.money import Money
from broker.core.postings import CASH, House, cash_postings, fill_postings, house_owner
from broker.core.trading import buy_hold
from broker.core.types import PRICE_MAX, QUANTITY_MAX, CustomerId, Side, Symbol

quantities = st.integers(1, QUANTITY_MAX)
prices = st.integers(1, PRICE_MAX).map(Money)
cash = st.integers(0, 10**17).map(Money)
collars = st.integers(0, 10_000)


@given(st.sampled_from(Side), quantities, prices)
def test_a_fill_posts_zero_in_sum_and_its_value_to_the_customer(side: Side, quantity: int, price: Money) -> None:
    lines = fill_postings(CustomerId(1001), -1, side, Symbol("AAPL"), quantity, price)
    sums: Counter[str] = Counter()
    for line in lines:
        sums[line.asset] += line.amount
    assert set(sums.values()) == {0}
    mine = {line.asset: line.amount for line in lines if line.owner_id == 1001}
    sign = 1 if side is Side.BUY else -1
    assert mine == {CASH: -sign * quantity * price, "AAPL": sign * quantity}
    assert all(abs(line.amount) < 2**63 for line in lines)


@given(st.integers(-(10**17), 10**17).map(Money))
def test_a_movement_of_cash_posts_zero_in_sum(amount: Money) -> None:
    assert sum(line.amount for line in cash_postings(CustomerId(1001), -2, amount)) == 0


@given(quantities, st.none() | prices, collars, cash)
def test_a_hold_covers_the_ask_and_never_more_than_there_is(
    quantity: int, ask: Money | None, collar: int, available: Money
) -> None:
    hold = buy_hold(quantity, ask, collar, available)
    if hold is None:
        assert available == 0 if ask is None else quantity * ask > available
        return
    assert 0 < hold <= available
    if ask is not None:
        cost = quantity * ask
        assert hold >= cost
        assert hold == available or (hold - cost) * 10_000 < cost * collar + 10_000


@given(st.integers(0, 100), st.integers(0, 100), st.sampled_from(House), st.sampled_from(House))
def test_house_rows_are_below_zero_and_their_own(shard: int, other: int, house: House, another: House) -> None:
    assert house_owner(shard, house) < 0
    assert (house_owner(shard, house) == house_owner(other, another)) == ((shard, house) == (other, another))
