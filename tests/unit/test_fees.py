"""The table of fees, and what an order and its fills pay by it."""

from datetime import date

import pytest

from broker.core.fees import (
    DEFAULT_FEES,
    FEES_TEXT_MAX,
    Fee,
    FeeRule,
    fill_fees,
    format_fees,
    max_fees,
    order_fees,
    parse_fees,
)
from broker.core.money import Money, parse_money
from broker.core.types import Side

SUMMER = date(2026, 7, 1)
AUTUMN = date(2026, 11, 23)
NOTHING = (0, Money(0))


def dollars(text: str) -> Money:
    return parse_money(text)


def fees(side: Side, quantity: int, value: str, day: date = SUMMER) -> dict[str, Money]:
    return dict(order_fees(DEFAULT_FEES, side, quantity, dollars(value), day))


# ------------------------------------------------------------------ the rates that hold


@pytest.mark.parametrize(
    ("day", "expected"),
    [
        (date(2024, 5, 21), {"TAF": "1.66"}),  # the table begins with the SEC's rate of 2024-05-22
        (date(2024, 5, 22), {"SEC": "27.80", "TAF": "1.66"}),
        (date(2025, 5, 13), {"SEC": "27.80", "TAF": "1.66"}),
        (date(2025, 5, 14), {"TAF": "1.66"}),
        (date(2025, 12, 31), {"TAF": "1.66"}),
        (date(2026, 1, 1), {"TAF": "1.95"}),
        (date(2026, 4, 3), {"TAF": "1.95"}),
        (date(2026, 4, 4), {"SEC": "20.60", "TAF": "1.95"}),
        (date(2026, 9, 30), {"SEC": "20.60", "TAF": "1.95"}),
        (date(2026, 10, 1), {"SEC": "20.60"}),
        (date(2026, 12, 31), {"SEC": "20.60"}),
        (date(2027, 1, 1), {"SEC": "20.60", "TAF": "1.95"}),
    ],
)
def test_a_sale_of_a_million_dollars_pays_the_rates_of_its_day(day: date, expected: dict[str, str]) -> None:
    assert fees(Side.SELL, 10_000, "1000000", day) == {name: dollars(text) for name, text in expected.items()}


def test_a_purchase_pays_nothing() -> None:
    assert fees(Side.BUY, 10_000, "1000000") == {}
    assert max_fees(DEFAULT_FEES, Side.BUY, 10_000, dollars("1000000"), AUTUMN) == 0


def test_each_fee_is_rounded_up_to_the_cent() -> None:
    # $0.00309 and $0.000195: a cent each
    assert fees(Side.SELL, 1, "150") == {"SEC": dollars("0.01"), "TAF": dollars("0.01")}
    # exactly $2.06: stays; one unit of $0.0001 more: a cent more
    assert fees(Side.SELL, 100, "100000")["SEC"] == dollars("2.06")
    assert fees(Side.SELL, 100, "100000.0001")["SEC"] == dollars("2.07")


def test_a_cap_limits_the_order() -> None:
    assert fees(Side.SELL, 50_000, "5000")["TAF"] == dollars("9.75")
    assert fees(Side.SELL, 50_205, "5000")["TAF"] == dollars("9.79")
    assert fees(Side.SELL, 10_000_000, "5000")["TAF"] == dollars("9.79")


def test_an_order_without_a_fill_owes_nothing() -> None:
    rules = parse_fees("COMMISSION 2000-01-01 both order=4.95")
    assert order_fees(rules, Side.BUY, 0, Money(0), SUMMER) == ()


# ------------------------------------------------------------------ fills


def test_the_first_fill_pays_the_commission_and_the_others_do_not() -> None:
    rules = parse_fees("COMMISSION 2000-01-01 both order=4.95")
    first, second = (10, dollars("100")), (20, dollars("200"))
    assert fill_fees(rules, Side.BUY, NOTHING, first, SUMMER) == (Fee("COMMISSION", dollars("4.95")),)
    assert fill_fees(rules, Side.BUY, first, second, SUMMER) == ()


def test_a_fill_pays_what_its_order_owes_more_than_before() -> None:
    before, after = (1, dollars("150")), (100, dollars("15000"))
    assert fill_fees(DEFAULT_FEES, Side.SELL, NOTHING, before, SUMMER) == (
        Fee("SEC", dollars("0.01")),
        Fee("TAF", dollars("0.01")),
    )
    # the order owes $0.31 (0.309) and $0.02 (0.0195)
    assert fill_fees(DEFAULT_FEES, Side.SELL, before, after, SUMMER) == (
        Fee("SEC", dollars("0.30")),
        Fee("TAF", dollars("0.01")),
    )


def test_a_sale_never_pays_more_than_it_brings_in() -> None:
    penny = fill_fees(DEFAULT_FEES, Side.SELL, NOTHING, (1, Money(1)), SUMMER)
    assert penny == (Fee("SEC", Money(1)),)  # two cents are owed, $0.0001 came in: the TAF is waived
    two_cents = fill_fees(DEFAULT_FEES, Side.SELL, NOTHING, (1, dollars("0.015")), SUMMER)
    assert two_cents == (Fee("SEC", dollars("0.01")), Fee("TAF", dollars("0.005")))


def test_a_purchase_is_not_limited_by_its_value() -> None:
    rules = parse_fees("COMMISSION 2000-01-01 both order=4.95")
    assert fill_fees(rules, Side.BUY, NOTHING, (1, Money(1)), SUMMER) == (Fee("COMMISSION", dollars("4.95")),)


def test_an_order_that_may_rest_reserves_the_rates_to_come() -> None:
    rules = parse_fees("TAX 2026-01-01 buy value=0.001; TAX 2026-12-01 buy value=0.002; TAX 2027-06-01 buy value=0.1")
    value = dollars("1000")
    assert max_fees(rules, Side.BUY, 10, value, AUTUMN) == dollars("1.00")
    assert max_fees(rules, Side.BUY, 10, value, AUTUMN, until=date(2027, 2, 1)) == dollars("3.00")


# ------------------------------------------------------------------ which row counts


def test_the_newest_row_for_the_side_counts_wherever_it_stands() -> None:
    rules = parse_fees(
        "X 2026-06-01 sell order=3; X 2026-01-01 both order=1; X 2026-03-01 buy order=2; Y 2026-01-01 both order=9"
    )
    on_sales = [dict(order_fees(rules, Side.SELL, 1, Money(1), date(2026, month, 1))) for month in (1, 3, 6)]
    on_buys = [dict(order_fees(rules, Side.BUY, 1, Money(1), date(2026, month, 1))) for month in (1, 3, 6)]
    assert [each["X"] for each in on_sales] == [dollars("1"), dollars("1"), dollars("3")]
    assert [each["X"] for each in on_buys] == [dollars("1"), dollars("2"), dollars("2")]
    assert order_fees(rules, Side.SELL, 1, Money(1), date(2025, 12, 31)) == ()


# ------------------------------------------------------------------ the table as text


def test_a_table_is_read_exactly() -> None:
    text = (
        "SEC 2026-04-04 sell value=0.0000206; TAF 2026-01-01 sell share=0.000195 cap=9.79; "
        "COMMISSION 2000-01-01 both order=0.00 share=0"
    )
    assert parse_fees(text) == (
        FeeRule("SEC", date(2026, 4, 4), Side.SELL, per_value_e9=20_600),
        FeeRule("TAF", date(2026, 1, 1), Side.SELL, per_share_e9=195_000, cap=dollars("9.79")),
        FeeRule("COMMISSION", date(2000, 1, 1)),
    )


def test_the_default_table_is_written_as_it_is_read() -> None:
    assert format_fees(DEFAULT_FEES) == (
        "SEC 2024-05-22 sell value=0.0000278; SEC 2025-05-14 sell; SEC 2026-04-04 sell value=0.0000206; "
        "TAF 2024-01-01 sell share=0.000166 cap=8.30; TAF 2026-01-01 sell share=0.000195 cap=9.79; "
        "TAF 2026-10-01 sell; TAF 2027-01-01 sell share=0.000195 cap=9.79; COMMISSION 2000-01-01 both"
    )
    assert parse_fees(format_fees(DEFAULT_FEES)) == DEFAULT_FEES


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty_text_is_a_table_without_fees(text: str) -> None:
    assert parse_fees(text) == ()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("SEC", "a fee is a name, a day, a side and its figures"),
        ("SEC 2026-04-04 sell;", "a fee is a name, a day, a side and its figures"),
        ("sec 2026-04-04 sell", "the name of a fee"),
        ("S" * 17 + " 2026-04-04 sell", "the name of a fee"),
        ("SÉC 2026-04-04 sell", "the name of a fee"),
        ("SEC 20260404 sell", "a fee begins on a day"),
        ("SEC 2026-W14-6 sell", "a fee begins on a day"),
        ("SEC ٢٠٢٦-04-04 sell", "a fee begins on a day"),
        ("SEC 2026-02-30 sell", "the calendar has no day 2026-02-30"),
        ("SEC 2026-04-04 SELL", "buy, sell or both"),
        ("SEC 2026-04-04 sell value", "a rate is digits"),
        ("SEC 2026-04-04 sell rate=1", "the figures of a fee"),
        ("SEC 2026-04-04 sell share=0 share=0", "the figures of a fee"),
        ("SEC 2026-04-04 sell value=-0.1", "a rate is digits"),
        ("SEC 2026-04-04 sell value=1e-5", "a rate is digits"),
        ("SEC 2026-04-04 sell value=0.0000000001", "a rate is digits"),
        ("SEC 2026-04-04 sell value=0.100000001", "value= is a part"),
        ("SEC 2026-04-04 sell share=1.000000001", "share= is dollars"),
        ("SEC 2026-04-04 sell order=-1", "order= is dollars"),
        ("SEC 2026-04-04 sell order=10000.0001", "order= is dollars"),
        ("SEC 2026-04-04 sell order=x", "an amount is digits"),
        ("SEC 2026-04-04 sell cap=0.005", "whole cents"),
        ("SEC 2026-04-04 sell cap=-1", "whole cents"),
        ("SEC 2026-04-04 sell; SEC 2026-04-04 sell", "two rows"),
        ("SEC 2026-04-04 buy; SEC 2026-04-04 both", "two rows"),
        ("x" * (FEES_TEXT_MAX + 1), "at most 4096 characters"),
    ],
)
def test_what_is_no_table_is_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        parse_fees(text)
    assert len(str(refused.value)) < 200


def test_both_sides_of_a_day_may_have_a_row_each() -> None:
    assert len(parse_fees("X 2026-04-04 buy; X 2026-04-04 sell; Y 2026-04-04 both")) == 3
