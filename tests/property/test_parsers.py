"""Every parser that reads what others send: any bytes at all are read, or are refused with its one error."""

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from standardwebhooks import Webhook as StandardWebhook

from broker.api.trades import PlaceTradeRequest
from broker.core import signing
from broker.core.messages import Report, ReportType
from broker.core.types import PRICE_MAX, QUANTITY_MAX, TradeId
from broker.exchange import Webhook
from broker.http import ApiError, convert, parse_json
from broker.metrics import Metrics
from tests.fuzz.parsers import PARSERS, parse

ORDER_ID = "01a2010e-7a5a-773b-9df4-6dac983c1d63"
KEY = bytes(32)
NOW = 1_795_000_000

# ------------------------------------------------------------------ what somebody could send

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**50), 10**50),
    st.floats(),  # NaN and Infinity too, as Python writes them
    st.text(),
    st.text(st.characters()),  # lone surrogates too
    st.sampled_from(["AAPL", "BUY", "SELL", "FILLED", "EXPIRED", "190.20", "1e5", "-1", "\0", "\ud800", ORDER_ID]),
)


def nested(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    return st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6))


def written(value: object) -> bytes:
    return json.dumps(value).encode()


def twisted(body: bytes, at: int, byte: int) -> bytes:
    """The body with one byte changed: nearly right is what a parser gets wrong."""
    at %= len(body) + 1
    return body[:at] + bytes([byte]) + body[at + 1 :]


def bodies(fields: Sequence[str], good: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[bytes]:
    """Any bytes; any JSON; objects with the right fields and any values; good ones; good ones with a byte changed."""
    right = st.fixed_dictionaries(good)
    nearly = st.builds(lambda value, changes: value | changes, right, st.dictionaries(st.sampled_from(fields), scalars))
    return st.one_of(
        st.binary(),
        nested(st.sampled_from(fields) | st.text()).map(written),
        right.map(written),
        nearly.map(written),
        st.lists(nearly, max_size=3).map(written),
        st.builds(twisted, nearly.map(written), st.integers(0), st.integers(0, 255)),
    )


# ------------------------------------------------------------------ PlaceTrade

orders = bodies(
    ["stockTicker", "type", "quantity", "customerId", "x"],
    {
        "stockTicker": st.from_regex(r"[A-Z][A-Z0-9.]{0,11}", fullmatch=True),
        "type": st.sampled_from(["BUY", "SELL"]),
        "quantity": st.integers(1, QUANTITY_MAX),
    },
)


@given(orders)
@example(b'{"stockTicker": "AAPL", "type": "BUY", "quantity": 1E+999999}')
@example(b'{"stockTicker": "\\ud800", "type": "BUY", "quantity": 1}')
@example(b'{"stockTicker": "AAPL", "type": "\\ud800", "quantity": 1}')
@example(b'{"\\ud800": 1}')
@example(b"[" * 100_000)
def test_any_body_is_an_order_or_a_400(body: bytes) -> None:
    try:
        wanted = convert(parse_json(body), PlaceTradeRequest)
    except ApiError as error:
        refusal = error
    else:
        assert wanted.stockTicker.isascii()
        assert wanted.stockTicker.strip("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.") == ""
        assert 1 <= len(wanted.stockTicker) <= 12
        assert wanted.type in {"BUY", "SELL"}
        assert 1 <= wanted.quantity <= QUANTITY_MAX
        assert type(wanted.quantity) is int
        return
    assert (refusal.status, refusal.code) in {(400, "invalid_json"), (400, "invalid_request")}
    assert 10 < len(str(refusal).encode()) < 1000


@given(
    st.from_regex(r"[A-Z][A-Z0-9.]{0,11}", fullmatch=True),
    st.sampled_from(["BUY", "SELL"]),
    st.integers(1, QUANTITY_MAX),
)
def test_every_good_order_is_read_as_it_is(ticker: str, type_: str, quantity: int) -> None:
    body = written({"stockTicker": ticker, "type": type_, "quantity": quantity})
    wanted = convert(parse_json(body), PlaceTradeRequest)
    assert (wanted.stockTicker, wanted.type, wanted.quantity) == (ticker, type_, quantity)


# ------------------------------------------------------------------ the exchange's callbacks

events = bodies(
    ["type", "order_id", "execution_id", "quantity", "price", "filled_quantity", "reason", "at", "x"],
    {
        "type": st.sampled_from(ReportType),
        "order_id": st.uuids().map(str),
        "execution_id": st.text(min_size=1, max_size=200),
        "quantity": st.integers(1, QUANTITY_MAX),
        "price": st.decimals("0.0001", 1_000_000, places=4).map(str),
        "filled_quantity": st.integers(),
        "reason": st.none() | st.text("aé\0\n", max_size=20) | st.text(min_size=190, max_size=300),
    },
)


class Taken:
    """A webhook, and what it let in."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.asked: list[TradeId] = []
        self._webhook = Webhook("sim", [KEY], 300, 256, self._take, self._ask, lambda: NOW, Metrics())

    async def _take(self, reports: Sequence[Report]) -> None:
        self.reports += reports

    async def _ask(self, trade_ids: Sequence[TradeId]) -> None:
        self.asked += trade_ids

    def status(self, headers: dict[str, str], body: bytes) -> int:
        request: Any = SimpleNamespace(headers=headers)
        return asyncio.run(self._webhook.handle(request, body)).status


def signed(body: bytes, at: int = NOW) -> dict[str, str]:
    signature = signing.sign(KEY, "msg_1", at, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


@given(events)
@example(b"[" * 1_000_000)
@example(b"[]")
def test_any_signed_body_is_let_in_as_a_whole_or_not_at_all(body: bytes) -> None:
    taken = Taken()
    status = taken.status(signed(body), body)
    assert status in {204, 400}
    assert status == 204 or not taken.reports
    for report in taken.reports:
        names_an_execution = report.execution_id is not None
        assert names_an_execution == (report.fill is not None or report.type is ReportType.BUSTED)
        assert (report.corrects is not None) == (report.type is ReportType.CORRECTED)
        if report.fill:
            assert 1 <= report.fill.last_qty <= QUANTITY_MAX
            assert 1 <= report.fill.last_px <= PRICE_MAX
        for text in (report.execution_id or "", report.reason or ""):
            assert len(text) <= 200
            assert "\0" not in text  # PostgreSQL has no such character
            text.encode()


@given(events, st.integers(0, 10**11 - 1))
def test_a_late_or_early_body_is_asked_about_and_not_believed(body: bytes, at: int) -> None:
    assume(abs(at - NOW) > 300)
    taken = Taken()
    assert taken.status(signed(body, at), body) in {204, 400}
    assert taken.reports == []


header_texts = st.one_of(
    st.text(max_size=300),
    st.text(st.characters(), max_size=50),
    st.integers().map(str),
    st.sampled_from(["v1,", "v1,AAAA", "v1,é v1,\udcff", str(NOW), "msg_1", "9" * 5000]),
)


@given(
    st.dictionaries(st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature"]), header_texts),
    st.binary(),
)
def test_any_headers_are_a_signature_of_ours_or_the_one_error(headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(signing.BadSignature):
        signing.verify([KEY, bytes(range(32))], headers, body)
    taken = Taken()
    assert taken.status(headers, body) == 401
    assert (taken.reports, taken.asked) == ([], [])


@given(st.binary(min_size=24, max_size=64), st.text("abcdef0123456789_-", min_size=1), st.text())
def test_signatures_agree_with_the_standards_own_package(key: bytes, message_id: str, text: str) -> None:
    body = text.encode()
    theirs = StandardWebhook(signing.encode_secret(key))
    assert signing.decode_secret(signing.encode_secret(key)) == key
    now = datetime.now(UTC)
    seconds = int(now.timestamp())
    headers = {"webhook-id": message_id, "webhook-timestamp": str(seconds)}
    assert signing.verify([key], headers | {"webhook-signature": theirs.sign(message_id, now, text)}, body) == seconds
    theirs.verify(body, headers | {"webhook-signature": signing.sign(key, message_id, seconds, body)}, json_parse=False)


@given(st.text())
def test_any_text_is_a_secret_or_a_value_error(text: str) -> None:
    for each in (text, signing.SECRET_PREFIX + text):
        try:
            key = signing.decode_secret(each)
        except ValueError:
            continue
        assert signing.decode_secret(signing.encode_secret(key)) == key


# ------------------------------------------------------------------ all the others

SEEDS = [
    *(
        "",
        " ",
        "0",
        "-1",
        "1.50",
        "1e5",
        "NaN",
        "[]",
        "{}",
        "null",
        '"x"',
        "AAPL",
        "AAPL=west",
        "whsec_AAAA",
        "\0",
        "\n",
    ),
    *('{"action":"subscribe","symbols":["AAPL"]}', '{"action":"auth","key":"k","secret":"s"}', '{"action":"listen"}'),
    *('{"action":"authenticate","token":"t"}', '{"symbol":"AAPL","side":"buy","order_type":"market","quantity":1}'),
    *('{"symbol":"AAPL","qty":"1","side":"buy","type":"market","time_in_force":"day"}', "from=2026-11-27&limit=5"),
    *("symbols=AAPL&start=2026-11-27T14:30:00Z&page_token=QUFQTHw=", "https://hooks.example/x", "http://[::1]:1/"),
    '{"type":"snapshot","sequence":1,"quotes":[{"symbol":"AAPL"}]}',
    '{"format":"stockbroker feed","version":1,"recorded_at":"2026-11-27T14:30:00Z","source":"x"}\n{"after_ms":0}',
    "sec: sell, from=2026-01-01, rate=0.0000206",
    "GME=10000/10000",
]

texts = st.one_of(
    st.binary(),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    nested(st.text()).map(written),
    st.builds(twisted, st.sampled_from(SEEDS).map(str.encode), st.integers(0), st.integers(0, 255)),
)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=50)
@given(texts)
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"9" * 100_000)
@example(b"\x93" * 100_000)
@example(b"\x81\xa1a" * 50_000)
@example(b"1E+999999")
@example(b"1e11100010000000248777112244")  # which Decimal takes for no number
@example(b'{"amount":1E+999999,"qty":1E+999999,"quantity":1E+999999,"price":1E+999999}')
@example(b'{"symbol":"\\ud800","action":"\\ud800"}')
@example(b"\xff\xfe\n\xff\n\xff\n\xff")
@example("\uff11\uff10".encode())
def test_any_bytes_are_taken_or_refused_with_the_parsers_own_error(name: str, data: bytes) -> None:
    parse(name, data)


def test_whatever_is_right_is_taken_by_some_parser() -> None:
    """So that the seeds lead further than the first guard."""
    taken = {name for name in PARSERS for seed in SEEDS if parse(name, seed.encode())}
    assert len(taken) > len(PARSERS) / 2, sorted(PARSERS.keys() - taken)
