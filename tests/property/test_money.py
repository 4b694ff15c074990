"""Money: what is written reads back as the same, what is no amount is refused, and an average lies between prices."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.core.money import MONEY_MAX, Money, average, format_money, in_dollars, parse_money
from broker.core.types import PRICE_MAX, QUANTITY_MAX

amounts = st.integers(-MONEY_MAX, MONEY_MAX).map(Money)
fills = st.lists(
    st.tuples(st.integers(1, QUANTITY_MAX), st.integers(1, PRICE_MAX)), min_size=1, max_size=20
)  # fmt: skip


@given(amounts)
@example(Money(0))
@example(Money(1))
@example(Money(-1))
@example(MONEY_MAX)
def test_what_is_written_reads_back_as_the_same(amount: Money) -> None:
    text = format_money(amount)
    assert parse_money(text) == amount
    assert Decimal(text) * 10_000 == amount
    assert 2 <= len(text.partition(".")[2]) <= 4


@given(st.integers(0, 10**14).map(str), st.text("0123456789", min_size=1, max_size=4))
def test_what_is_read_is_exact(dollars: str, fraction: str) -> None:
    text = f"{dollars[:13]}.{fraction}"
    assert parse_money(text) == Decimal(text) * 10_000
    assert parse_money("-" + text) == -parse_money(text)


@given(st.one_of(st.text(), st.text("0123456789.-+eE_ ,naif\n\0١１", max_size=30), st.from_regex(r"-?\d+(\.\d*)?")))
@example("9" * 1_000_000)
@example("1E+999999")
@example("NaN")
@example("1.5\n")
@example("100000000000.0001")
def test_any_text_is_an_amount_or_a_value_error(text: str) -> None:
    try:
        amount = parse_money(text)
    except ValueError:
        return
    assert abs(amount) <= MONEY_MAX
    assert text.isascii()
    assert amount == Decimal(text) * 10_000


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "-", "1.", ".5", "+1", "--1", "1-", "1.0.0", "1.00001", "1e5", "0x1", "1_000", "1,000", "$1"),
        *(" 1", "1 ", "1\n", "\0", "\u0661", "\uff11.00", "nan", "inf", "-Infinity"),
        *("10000000000000.0001", "999999999999999"),
    ],
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an amount is"):
        parse_money(text)


@given(fills)
def test_an_average_lies_between_the_prices_and_is_rounded_half_up(parts: list[tuple[int, int]]) -> None:
    quantity = sum(quantity for quantity, _ in parts)
    value = Money(sum(quantity * price for quantity, price in parts))
    found = average(value, quantity)
    assert min(price for _, price in parts) <= found <= max(price for _, price in parts)
    assert -Fraction(1, 2) < found - Fraction(value, quantity) <= Fraction(1, 2)


@given(amounts)
def test_a_sentence_shows_the_same_amount_with_a_sign_and_commas(amount: Money) -> None:
    assert in_dollars(amount).replace("$", "").replace(",", "") == format_money(amount)
