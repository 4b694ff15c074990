"""What Alpaca's clients send is read exactly, and answered in Alpaca's words where it cannot be."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from broker.alpaca.errors import AlpacaError
from broker.alpaca.points import fitting, last_close, points
from broker.alpaca.requests import basis_points, boolean, count, day, moment, number, price, symbols, whole_shares, word
from broker.core.history import POINTS_MAX, Timeframe


def refusal(read: Callable[[], object]) -> tuple[int, int, str]:
    with pytest.raises(AlpacaError) as error:
        read()
    return error.value.status, error.value.code, error.value.message


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("187.35", "187.35"),
        (Decimal("187.35"), "187.35"),
        (3, "3"),
        (" 1 ", "1"),
        ("1e2", "100"),
        ("+1.50", "1.50"),
        (None, None),
        ("", None),
    ],
)
def test_a_number_is_read_by_its_text(value: Any, amount: str | None) -> None:
    assert number("x", value) == (None if amount is None else Decimal(amount))


@pytest.mark.parametrize("value", [True, [], {}, "ten", "0x10", "1_000", "NaN", "Infinity", "1e999", "٣", "1,5"])
def test_what_is_no_number_is_a_422(value: Any) -> None:
    assert refusal(lambda: number("qty", value)) == (422, 40010001, "qty must be a number")


@pytest.mark.parametrize("value", ["10", 10, Decimal("10.0"), "1e1", "10.000"])
def test_a_quantity_is_whole_however_it_is_written(value: Any) -> None:
    assert whole_shares("qty", value, "AAPL") == 10


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("0.5", 42210000, 'asset "AAPL" is not fractionable'),
        (0, 40010001, "qty must be > 0"),
        (Decimal(-1), 40010001, "qty must be > 0"),
        ("1e50", 42210000, "qty must be <= 10000000"),
    ],
)
def test_a_quantity_that_is_none(value: Any, code: int, message: str) -> None:
    assert refusal(lambda: whole_shares("qty", value, "AAPL")) == (422, code, message)


@pytest.mark.parametrize(("value", "units"), [("290.12", 2901200), ("290.120", 2901200), ("0.1234", 1234), (1, 10000)])
def test_a_price_is_on_the_grid(value: Any, units: int) -> None:
    assert price("limit_price", value) == units


@pytest.mark.parametrize("value", ["290.123", "1.001", "0.12345"])
def test_a_price_between_two_steps_is_refused_in_alpacas_words(value: str) -> None:
    words = f"invalid limit_price {value}. sub-penny increment does not fulfill minimum pricing criteria"
    assert refusal(lambda: price("limit_price", value)) == (422, 42210000, words)


def test_per_cents_have_two_decimals() -> None:
    assert [basis_points("t", each) for each in ("1.25", Decimal("0.01"), 99, None)] == [125, 1, 9900, None]
    for wrong in ("1.255", "0", "100", "-1"):
        assert refusal(lambda text=wrong: basis_points("t", text))[1] == 42210000  # type: ignore[misc]


def test_booleans_come_in_any_case() -> None:
    assert [boolean("x", each) for each in ("True", "true", "TRUE", "1", True)] == [True] * 5
    assert [boolean("x", each) for each in ("False", "false", "0", False, None, "")] == [False] * 6
    assert refusal(lambda: boolean("x", "maybe"))[:2] == (422, 40010001)


@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2026-01-05T12:00:00+00:00", 12),
        ("2026-01-05T12:00:00 00:00", 12),  # a plus sign that the query turned into a space
        ("2026-01-05T12:00:00-05:00", 17),
        ("2026-01-05T12:00:00Z", 12),
        ("2026-01-05T12:00:00.123456789Z", 12),
        ("2026-01-05 12:00:00", 12),
        ("2026-01-05", 5),
    ],
)
def test_times_have_offsets_or_are_utc_and_dates_are_new_yorks(text: str, hour: int) -> None:
    found = moment({"after": text}, "after")
    assert found is not None
    assert (found.utcoffset(), found.day, found.hour) == (timedelta(), 5, hour)


def test_what_is_no_time_is_a_422() -> None:
    for wrong in ("soon", "2026-13-01", "0001-01-01T00:00:00+10:00", "9" * 50):
        assert refusal(lambda text=wrong: moment({"after": text}, "after"))[:2] == (422, 40010001)  # type: ignore[misc]
    assert day({"d": "2026-01-05T00:00:00Z"}, "d") == date(2026, 1, 5)
    assert refusal(lambda: day({"d": "2026-02-30"}, "d"))[1] == 40010001


def test_limits_words_and_lists() -> None:
    assert [count({"limit": each}, "limit", 50, 500) for each in ("1", "500", "9999")] == [1, 500, 500]
    assert count({}, "limit", 50, 500) == 50
    assert refusal(lambda: count({"limit": "0"}, "limit", 50, 500))[1] == 40010001
    assert word({"status": "OPEN"}, "status", {"open"}, "open") == "open"
    assert symbols({"symbols": "AAPL, BRK.B,,AAPL,no"}, "symbols", 10) == ["AAPL", "BRK.B"]
    assert symbols({}, "symbols", 10) is None
    assert refusal(lambda: symbols({"symbols": "A,B,C"}, "symbols", 2))[1] == 40010001


NOON = datetime(2026, 11, 30, 17, tzinfo=UTC)  # a Monday, noon in New York


def test_a_history_has_no_more_points_than_the_core_reckons_with() -> None:
    assert fitting(Timeframe.MINUTE, timedelta(1)) is Timeframe.MINUTE
    assert fitting(Timeframe.MINUTE, timedelta(5)) is Timeframe.FIVE_MINUTES
    assert fitting(Timeframe.MINUTE, timedelta(365 * 50)) is Timeframe.DAY
    days = points(Timeframe.DAY, NOON - timedelta(365 * 50), NOON)
    assert POINTS_MAX / 2 < len(days) <= POINTS_MAX + 1
    assert days == sorted(set(days))
    assert points(Timeframe.HOUR, NOON - timedelta(hours=2, minutes=1), NOON) == [
        NOON - timedelta(hours=each) for each in (2, 1, 0)
    ]


def test_the_last_close_is_that_of_the_trading_day_before() -> None:
    assert last_close(NOON, always_open=False) == datetime(2026, 11, 27, 18, tzinfo=UTC)  # the half day
    assert last_close(NOON, always_open=True) == datetime(2026, 11, 30, 5, tzinfo=UTC)
