"""Fees, for any table and any way of filling an order."""

from collections import Counter
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from broker.core.fees import (
    DEFAULT_FEES,
    FEES_TEXT_MAX,
    FeeRule,
    Filled,
    fill_fees,
    format_fees,
    max_fees,
    order_fees,
    parse_fees,
)
from broker.core.money import Money
from broker.core.types import PRICE_MAX, QUANTITY_MAX, Side

CENT = 100
FIRST = date(2026, 1, 1)

days = st.dates(FIRST, FIRST + timedelta(6))
cents = st.integers(0, 100_000).map(lambda n: Money(n * CENT))
rows = st.builds(
    FeeRule,
    name=st.sampled_from(["SEC", "TAF", "CAT", "COMMISSION"]),
    since=days,
    side=st.none() | st.sampled_from(Side),
    per_value_e9=st.just(0) | st.integers(0, 10**8),
    per_share_e9=st.just(0) | st.integers(0, 10**9),
    per_order=st.just(Money(0)) | st.integers(0, 10**6).map(Money),
    cap=st.none() | cents,
)


def is_table(rules: list[FeeRule]) -> bool:
    keys = [(rule.name, rule.since, side) for rule in rules for side in ([rule.side] if rule.side else Side)]
    return len(keys) == len(set(keys))


tables = st.lists(rows, max_size=6).filter(is_table).map(tuple) | st.just(DEFAULT_FEES)
sides = st.sampled_from(Side)
fills = st.lists(
    st.tuples(
        st.integers(1, 1_000) | st.integers(1, QUANTITY_MAX // 20), st.integers(1, 300) | st.integers(1, PRICE_MAX)
    ),
    min_size=1,
    max_size=20,
)


def steps(cut: list[tuple[int, int]]) -> list[tuple[Filled, Filled]]:
    """The order's figures before and after each fill."""
    totals: list[Filled] = [(0, Money(0))]
    for quantity, price in cut:
        before, worth = totals[-1]
        totals.append((before + quantity, Money(worth + quantity * price)))
    return list(pairwise(totals))


def paid(rules: tuple[FeeRule, ...], side: Side, cut: list[tuple[int, int]], day: date) -> Counter[str]:
    total: Counter[str] = Counter()
    for before, after in steps(cut):
        total.update(dict(fill_fees(rules, side, before, after, day)))
    return total


@given(tables, fills, days)
def test_what_a_purchase_pays_does_not_depend_on_how_it_is_cut(
    rules: tuple[FeeRule, ...], cut: list[tuple[int, int]], day: date
) -> None:
    whole = steps(cut)[-1][1]
    assert paid(rules, Side.BUY, cut, day) == Counter(dict(order_fees(rules, Side.BUY, *whole, day)))


@given(tables, fills, days)
@example(DEFAULT_FEES, [(1, 1), (1, 1_000_000)], FIRST)
def test_nor_what_a_sale_pays_unless_a_fill_brings_in_less_than_its_fees(
    rules: tuple[FeeRule, ...], cut: list[tuple[int, int]], day: date
) -> None:
    whole = steps(cut)[-1][1]
    owed = Counter(dict(order_fees(rules, Side.SELL, *whole, day)))
    total = paid(rules, Side.SELL, cut, day)
    assert total <= owed
    limited = any(
        sum(dict(fill_fees(rules, Side.SELL, before, after, day)).values()) == after[1] - before[1]
        for before, after in steps(cut)
    )
    assert total == owed or limited


@given(tables, sides, fills, days)
def test_a_fill_pays_at_least_nothing_and_a_sale_at_most_what_it_brings_in(
    rules: tuple[FeeRule, ...], side: Side, cut: list[tuple[int, int]], day: date
) -> None:
    for before, after in steps(cut):
        fees = fill_fees(rules, side, before, after, day)
        assert all(fee.amount > 0 for fee in fees)
        assert len({fee.name for fee in fees}) == len(fees)
        if side is Side.SELL:
            assert sum(fee.amount for fee in fees) <= after[1] - before[1]


@given(tables, sides, fills, days, st.data())
def test_the_reserve_covers_any_way_of_filling_at_any_lower_value(
    rules: tuple[FeeRule, ...], side: Side, cut: list[tuple[int, int]], day: date, data: st.DataObject
) -> None:
    quantity, value = steps(cut)[-1][1]
    reserve = max_fees(rules, side, quantity, value, day)
    lower = [(part, data.draw(st.integers(1, price))) for part, price in cut]
    done = data.draw(st.integers(0, len(lower)))  # it may end before it is full
    assert sum(paid(rules, side, lower[:done], day).values()) <= reserve


@given(tables, sides, fills, st.lists(days, min_size=20, max_size=20).map(sorted))
def test_the_reserve_of_an_order_that_rests_covers_fills_at_the_rates_of_their_days(
    rules: tuple[FeeRule, ...], side: Side, cut: list[tuple[int, int]], on: list[date]
) -> None:
    quantity, value = steps(cut)[-1][1]
    taken = [
        fee.amount
        for (before, after), day in zip(steps(cut), on, strict=False)
        for fee in fill_fees(rules, side, before, after, day)
    ]
    assert all(amount > 0 for amount in taken)
    assert sum(taken) <= max_fees(rules, side, quantity, value, on[0], until=on[-1])


@given(rows, st.integers(1, QUANTITY_MAX), st.integers(1, PRICE_MAX))
def test_a_fee_is_its_rates_rounded_up_to_the_cent_and_capped(rule: FeeRule, quantity: int, price: int) -> None:
    value = Money(quantity * price)
    side = rule.side or Side.BUY
    exact = (
        Fraction(rule.per_value_e9, 10**9) * value
        + Fraction(rule.per_share_e9, 10**9) * quantity * 10_000
        + rule.per_order
    )
    amount = dict(order_fees((rule,), side, quantity, value, rule.since)).get(rule.name, Money(0))
    assert amount % CENT == 0
    if rule.cap is not None and exact > rule.cap:
        assert amount == rule.cap
    else:
        assert exact <= amount < exact + CENT
    assert amount < 2**63


# ------------------------------------------------------------------ the table as text


@given(tables)
def test_what_is_written_reads_back_as_the_same(rules: tuple[FeeRule, ...]) -> None:
    text = format_fees(rules)
    assert parse_fees(text) == rules
    assert format_fees(parse_fees(text)) == text


WORDS = ("SEC", "TAF", "2026-04-04", "2026-13-01", "sell", "both", ";", "=", " ", "\u0661", "\0", "\ud800", "\x1c")
FIGURES = ("value=0.0000206", "value=1e5", "share=", "cap=9.79", "cap=0.001", "order=0.00")
nearly = st.lists(st.sampled_from(WORDS + FIGURES), max_size=16)


@given(
    st.text() | nearly.map(" ".join) | nearly.map("".join) | st.text("SECTAF0123456789-=. ;sellbothvalue", max_size=60)
)
@example("SEC 2026-04-04 sell value=" + "9" * 4_000)
@example("SEC 2026-04-04 sell " + "value=0 " * 400)
@example("9" * 1_000_000)
def test_any_text_is_a_table_or_a_value_error(text: str) -> None:
    try:
        rules = parse_fees(text)
    except ValueError:
        return
    assert len(text) <= FEES_TEXT_MAX
    assert parse_fees(format_fees(rules)) == rules


@given(tables, st.integers(0, 5))
def test_two_rows_of_which_neither_is_newer_are_refused(rules: tuple[FeeRule, ...], at: int) -> None:
    assume(rules)
    twice = (*rules, rules[at % len(rules)])
    with pytest.raises(ValueError, match="two rows"):
        parse_fees(format_fees(twice))
