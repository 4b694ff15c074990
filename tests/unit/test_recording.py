"""A recorded feed: what is written is read, and what is not in form is one sentence."""

import gzip
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.core.money import parse_money
from broker.recording import LINE_MAX, MESSAGE_MAX, Line, Recorder, Selection, read_recording

AT = datetime(2026, 11, 27, 14, 30, tzinfo=UTC)
SAMPLE = Path(__file__).parents[2] / "examples" / "feed.jsonl.gz"
HEADER: dict[str, Any] = {
    "format": "stockbroker feed",
    "version": 1,
    "recorded_at": "2026-11-27T14:30:00Z",
    "source": "http://127.0.0.1:8090",
}


def quote(symbol: str, **overrides: Any) -> dict[str, Any]:
    stamp = "2026-11-27T14:30:00.000000+00:00"
    return {"symbol": symbol, "bid": "1.00", "ask": "1.02", "last": "1.01", "at": stamp, **overrides}


def trade(symbol: str) -> dict[str, Any]:
    return {"symbol": symbol, "price": "1.01", "quantity": 5, "at": "2026-11-27T14:30:00.000000+00:00"}


def snapshot(sequence: int, *symbols: str, **more: Any) -> dict[str, Any]:
    return {"type": "snapshot", "sequence": sequence, "quotes": [quote(symbol) for symbol in symbols], **more}


def update(sequence: int, *symbols: str, **more: Any) -> dict[str, Any]:
    return snapshot(sequence, *symbols, **{**more, "type": "quotes"})


def line(after_ms: Any, message: Any) -> dict[str, Any]:
    return {"after_ms": after_ms, "message": message}


def packed(path: Path, *lines: Any) -> Path:
    """A recording by hand."""
    texts = [each if isinstance(each, bytes) else orjson.dumps(each) for each in lines]
    path.write_bytes(gzip.compress(b"".join(text + b"\n" for text in texts)))
    return path


# ------------------------------------------------------------------ written and read


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    lines = [Line(0, orjson.dumps(snapshot(17, "AAPL"))), Line(0, orjson.dumps(update(18, "AAPL")))]
    lines.append(Line(1_250, orjson.dumps(update(19, trades=[trade("AAPL")]))))
    with Recorder(path, AT, HEADER["source"]) as recorder:
        for each in lines:
            recorder.write(each)
    assert recorder.messages == 3
    assert list(read_recording(path)) == lines
    texts = gzip.decompress(path.read_bytes()).splitlines()
    assert orjson.loads(texts[0]) == HEADER
    assert texts[3] == b'{"after_ms":1250,"message":%s}' % lines[2].message


def test_a_file_that_is_there_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        Recorder(path, AT, "")
    assert path.read_bytes() == b"precious"
    with Recorder(path, AT, "", replaces=True) as recorder:
        recorder.write(Line(0, orjson.dumps(snapshot(1, "AAPL"))))
    assert len(list(read_recording(path))) == 1


def test_the_largest_message_makes_a_line_that_is_read(tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    message = orjson.dumps(snapshot(1, "AAPL", more=""))
    message = message.replace(b'"more":""', b'"more":"%s"' % (b"x" * (MESSAGE_MAX - len(message))))
    with Recorder(path, AT, "") as recorder:
        recorder.write(Line(86_400_000, message))
    assert list(read_recording(path)) == [Line(86_400_000, message)]


def test_lines_are_read_one_at_a_time(tmp_path):
    path = packed(tmp_path / "feed.jsonl.gz", HEADER, line(0, snapshot(1, "AAPL")), b"no JSON")
    lines = read_recording(path)
    assert next(lines).after_ms == 0
    with pytest.raises(ValueError, match="line 3: JSON is malformed"):
        next(lines)


# ------------------------------------------------------------------ what is not in form

FIRST = line(0, snapshot(1, "AAPL"))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ((), "line 1: Input data was truncated"),
        ((b"",), "line 1: Input data was truncated"),
        ((b"[]",), "line 1: Expected `object`, got `array`"),
        (({**HEADER, "format": "other"}, FIRST), r"line 1: Invalid enum value 'other' - at `\$.format`"),
        (({**HEADER, "version": 2}, FIRST), r"line 1: Invalid enum value 2 - at `\$.version`"),
        (({**HEADER, "recorded_at": "today"}, FIRST), "line 1: Invalid RFC3339 encoded datetime"),
        ((FIRST,), "line 1: Object missing required field `format`"),
        ((HEADER,), "it holds no message"),
        ((HEADER, b""), "line 2: Input data was truncated"),
        ((HEADER, line(-1, snapshot(1))), r"line 2: Expected `int` >= 0 - at `\$.after_ms`"),
        ((HEADER, line(86_400_001, snapshot(1))), "line 2: Expected `int` <= 86400000"),
        ((HEADER, line("0", snapshot(1))), "line 2: Expected `int`, got `str`"),
        ((HEADER, line(0.5, snapshot(1))), "line 2: Expected `int`, got `float`"),
        ((HEADER, {"message": snapshot(1)}), "line 2: Object missing required field `after_ms`"),
        ((HEADER, FIRST, line(5, update(2)), line(4, update(3))), "line 4: after_ms falls from 5 to 4"),
        ((HEADER, {"after_ms": 0}), "line 2: Object missing required field `message`"),
        ((HEADER, line(0, "text")), "line 2: Expected `object`, got `str`"),
        ((HEADER, line(0, {"type": "bars", "sequence": 1, "quotes": []})), "line 2: Invalid enum value 'bars'"),
        ((HEADER, line(0, {"type": "snapshot", "sequence": 1})), "line 2: Object missing required field `quotes`"),
        ((HEADER, line(0, update(1))), "line 2: the first message, and no other, is a snapshot"),
        ((HEADER, FIRST, line(1, snapshot(2))), "line 3: the first message, and no other, is a snapshot"),
        ((HEADER, FIRST, line(1, update(3))), "line 3: message 2 is missing"),
        ((HEADER, FIRST, b"[" * 100_000), "line 3: "),
        ((HEADER, FIRST, b'{"after_ms":0,"message":\xff}'), "line 3: "),
        ((HEADER, b" " * LINE_MAX), f"line 2 is longer than {LINE_MAX} bytes"),
        ((b" " * LINE_MAX * 8,), f"line 1 is longer than {LINE_MAX} bytes"),
    ],
)
def test_what_is_not_in_form_is_a_sentence(tmp_path, lines, sentence):
    path = packed(tmp_path / "feed.jsonl.gz", *lines)
    with pytest.raises(ValueError, match=f"feed.jsonl.gz is no recording of a feed: {sentence}"):
        list(read_recording(path))


def test_a_file_that_is_cut_off_anywhere_or_damaged_is_a_sentence(tmp_path):
    path = packed(tmp_path / "feed.jsonl.gz", HEADER, FIRST, *(line(n, update(n + 1, "AAPL")) for n in range(1, 9)))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="its end is missing" if length > 1 else "no recording of a feed"):
            list(read_recording(path))
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match="no recording of a feed"):
            list(read_recording(path))


def test_another_kind_of_file_is_a_sentence_and_none_is_the_systems_error(tmp_path):
    path = tmp_path / "feed.jsonl.gz"
    path.write_bytes(orjson.dumps(HEADER) + b"\n")
    with pytest.raises(ValueError, match="it is no gzip file, or damaged"):
        list(read_recording(path))
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            list(read_recording(missing))


# ------------------------------------------------------------------ what of a feed is recorded


def taken(selection: Selection, *messages: dict[str, Any]) -> Iterator[Any]:
    for message in messages:
        text = selection.take(orjson.dumps(message))
        yield None if text is None else orjson.loads(text)


def test_everything_is_recorded_as_it_came():
    selection = Selection()
    for text in (
        b'{ "type":"snapshot","sequence":9,"quotes":[{"symbol":"A","bid":"1.0"}],"mood":1.50}',
        b'{"sequence": 10, "type": "quotes", "quotes": []}',
    ):
        assert selection.take(text) == text
    assert selection.symbols == {"A"}


def test_a_message_becomes_one_line():
    text = orjson.dumps(snapshot(1, "AAPL"), option=orjson.OPT_INDENT_2)
    assert Selection().take(text) == orjson.dumps(snapshot(1, "AAPL"))


def test_with_symbols_the_others_are_left_out_and_the_count_has_no_gap():
    selection = Selection({"AAPL", "MSFT"})
    came = [
        snapshot(17, "AAPL", "KO", "MSFT"),
        update(18, "KO", trades=[trade("KO")]),
        update(19, "MSFT", "KO"),
        update(20),
        update(21, "KO", trades=[trade("AAPL"), trade("KO"), trade("AAPL")], mood="good"),
    ]
    assert list(taken(selection, *came)) == [
        snapshot(17, "AAPL", "MSFT"),
        None,
        update(18, "MSFT"),
        None,
        update(19, trades=[trade("AAPL"), trade("AAPL")], mood="good"),
    ]
    assert selection.symbols == {"AAPL", "MSFT"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (orjson.dumps(update(2)), "does not begin with a snapshot"),
        (orjson.dumps(snapshot(1, "KO")), "does not list AAPL, MSFT"),
        (b"", "no message of a feed"),
        (b"{}", "no message of a feed"),
        (b"[" * 100_000, "no message of a feed"),
        (b'{"type":"snapshot","sequence":1,"quotes":[{}]}', "no message of a feed"),
    ],
)
def test_a_feed_that_begins_otherwise_is_a_sentence(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        Selection({"AAPL", "MSFT"}).take(text)


@pytest.mark.parametrize("then", [update(19), update(17), snapshot(18, "AAPL")])
def test_a_message_that_was_missed_is_a_sentence(then):
    selection = Selection()
    selection.take(orjson.dumps(snapshot(17, "AAPL")))
    with pytest.raises(ValueError, match="message 18 was missed"):
        selection.take(orjson.dumps(then))


# ------------------------------------------------------------------ the sample


def test_the_sample_is_in_form():
    assert SAMPLE.stat().st_size < 150_000
    lines = list(read_recording(SAMPLE))
    messages = [orjson.loads(each.message) for each in lines]
    assert [message["type"] for message in messages] == ["snapshot"] + ["quotes"] * (len(messages) - 1)
    assert all(before["sequence"] + 1 == after["sequence"] for before, after in pairwise(messages))
    assert all(before.after_ms <= after.after_ms for before, after in pairwise(lines))
    assert lines[0].after_ms == 0
    assert 55_000 < lines[-1].after_ms <= 60_000
    quotes = [quote for message in messages for quote in message["quotes"]]
    trades = [trade for message in messages[1:] for trade in message["trades"]]
    assert len({quote["symbol"] for quote in messages[0]["quotes"]}) == 12
    assert len(trades) > 300
    for each in quotes:
        assert 0 < parse_money(each["bid"]) < parse_money(each["ask"])
        assert min(parse_money(each["last"]), each["bid_size"], each["ask_size"]) > 0
    assert all(min(parse_money(each["price"]), each["quantity"]) > 0 for each in trades)
    assert all(datetime.fromisoformat(each["at"]).tzinfo for each in [*quotes, *trades])


def test_in_the_sample_the_last_price_is_that_of_the_last_trade():
    for each in read_recording(SAMPLE):
        message = orjson.loads(each.message)
        last = {trade["symbol"]: trade["price"] for trade in message.get("trades", ())}
        told = {quote["symbol"]: quote["last"] for quote in message["quotes"] if quote["symbol"] in last}
        assert told == last
