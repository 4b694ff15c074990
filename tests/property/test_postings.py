"""Double entry and holds, for any figures."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.core.fees import max_fees, parse_fees
from broker.core.holds import buy_cost, with_collar
from broker.core.money import Money
from broker.core.postings import (
    CASH,
    Entry,
    EntryKind,
    House,
    Move,
    Posting,
    entry_postings,
    fill_entry,
    house_owner,
    move_postings,
    suspense_entry,
)
from broker.core.types import PRICE_MAX, QUANTITY_MAX, CustomerId, Fill, OrderType, Side, Trade
from tests.builders import AAPL, NOW, trade_id

CUSTOMER = CustomerId(1001)
FEES = parse_fees("COMMISSION 2026-01-01 both order=1.00 value=0.001 share=0.005")
quantities = st.integers(1, QUANTITY_MAX)
prices = st.integers(1, PRICE_MAX).map(Money)
amounts = st.integers(0, 10**17).map(Money)
fees = st.just(Money(0)) | st.integers(0, 10**8).map(Money)
fills = st.builds(Fill, quantities, prices, fee=fees)
sides = st.sampled_from(Side)


def by_row(lines: list[Posting]) -> dict[tuple[int, str], int]:
    """The lines, which sum to zero for each asset, each for a row of its own and inside BIGINT."""
    sums: Counter[str] = Counter()
    for line in lines:
        sums[line.asset] += line.amount
        assert line.amount or line.cost or line.gain
        assert all(abs(figure) < 2**63 for figure in line[2:])
    assert not any(sums.values()), lines
    rows = {(line.owner_id, line.asset): line.amount for line in lines}
    assert len(rows) == len(lines)
    return rows


@given(sides, fills, st.integers(-(10**17), 10**17), st.integers(-(10**17), 10**17))
def test_a_fill_posts_zero_in_sum_and_its_value_and_fee_to_the_customer(
    side: Side, fill: Fill, cost: int, gain: int
) -> None:
    lines = entry_postings(CUSTOMER, 0, AAPL, fill_entry(side, fill, cost, gain))
    sign = 1 if side is Side.BUY else -1
    rows = by_row(lines)
    assert rows.get((CUSTOMER, CASH), 0) == -sign * fill.value - fill.fee
    assert rows[CUSTOMER, AAPL] == sign * fill.last_qty
    assert rows.get((house_owner(0, House.FEES), CASH), 0) == fill.fee
    assert rows[house_owner(0, House.CLEARING), CASH] == sign * fill.value
    assert [line[3:] for line in lines if line.cost or line.gain] in ([(cost, gain)], [])


@given(sides, quantities, prices)
def test_what_is_in_suspense_does_not_touch_the_customer(side: Side, quantity: int, price: Money) -> None:
    entry = suspense_entry(side, Fill(quantity, price, suspense=True))
    rows = by_row(entry_postings(CUSTOMER, 3, AAPL, entry))
    assert {owner for owner, _ in rows} == {house_owner(3, House.SUSPENSE), house_owner(3, House.CLEARING)}


@given(sides, st.sampled_from([EntryKind.BUST, EntryKind.FILL]), fills, st.booleans(), st.data())
def test_what_is_taken_back_is_paid_by_the_customer_and_by_what_it_owes(
    side: Side, kind: EntryKind, fill: Fill, suspense: bool, data: st.DataObject
) -> None:
    fill.suspense = suspense
    shares = -fill.last_qty if side is Side.BUY else fill.last_qty
    entry = Entry(kind, fill, shares, -shares * fill.last_px + fill.fee, -fill.fee)
    entry.owed_cash = data.draw(st.integers(0, max(0, -entry.cash)))
    entry.owed_shares = data.draw(st.integers(0, max(0, -entry.shares)))
    rows = by_row(entry_postings(CUSTOMER, 0, AAPL, entry))
    owner = house_owner(0, House.SUSPENSE) if suspense else CUSTOMER
    receivable = house_owner(0, House.RECEIVABLE)
    for asset, amount, owed in ((CASH, entry.cash, entry.owed_cash), (AAPL, entry.shares, entry.owed_shares)):
        assert rows.get((owner, asset), 0) == amount + owed
        assert rows.get((receivable, asset), 0) == -owed


@given(st.integers(-(10**17), 10**17).map(Money))
def test_a_movement_of_cash_posts_zero_in_sum(amount: Money) -> None:
    rows = by_row(move_postings(CUSTOMER, house_owner(0, House.EXTERNAL), [Move(CASH, amount)] if amount else []))
    assert rows.get((CUSTOMER, CASH), 0) == amount


@given(quantities, st.none() | prices, st.none() | prices, st.none() | prices, st.integers(0, 10_000))
def test_a_hold_covers_the_price_the_collar_and_the_fees(
    quantity: int, ask: Money | None, limit: Money | None, stop: Money | None, collar: int
) -> None:
    kinds = {(False, False): OrderType.MARKET, (True, False): OrderType.LIMIT, (False, True): OrderType.STOP}
    kind = kinds.get((limit is not None, stop is not None), OrderType.STOP_LIMIT)
    trade = Trade(
        trade_id(1), CUSTOMER, 1, AAPL, Side.BUY, quantity, NOW, "sim", kind, limit_price=limit, stop_price=stop
    )
    cost = buy_cost(trade, ask, collar, FEES, NOW.date())
    if cost is None:
        assert (kind, ask) == (OrderType.MARKET, None)
        return
    value = quantity * cost.price
    most = value if limit is not None else with_collar(value, collar)
    assert cost.price == (limit if limit is not None else max(stop or 0, ask or 0))
    assert (cost.least, cost.most) == (value + cost.fees, most + cost.fees)
    assert cost.fees == max_fees(FEES, Side.BUY, quantity, Money(most), NOW.date())
    assert value * collar <= (most - value) * 10_000 < value * collar + 10_000 or limit is not None


@given(amounts, st.integers(0, 10_000))
def test_a_collar_is_rounded_up(value: Money, collar: int) -> None:
    assert 0 <= with_collar(value, collar) * 10_000 - value * (10_000 + collar) < 10_000


@given(st.integers(0, 100), st.integers(0, 100), st.sampled_from(House), st.sampled_from(House))
def test_house_rows_are_below_zero_and_their_own(shard: int, other: int, house: House, another: House) -> None:
    assert house_owner(shard, house) < 0
    assert (house_owner(shard, house) == house_owner(other, another)) == ((shard, house) == (other, another))
