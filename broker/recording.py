"""A feed in a file: every message of an exchange's market data with its time, to be looked at or played again.

Gzipped lines of JSON; docs/exchange-contract.md has the format. No socket and no clock: messages and times come in.
"""

import gzip
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, BinaryIO, Literal, Self, TypeVar, cast

import msgspec

LINE_MAX = 4 * 1024 * 1024
MESSAGE_MAX = LINE_MAX - 64  # what else stands in a line has room
SECONDS_MAX = 24 * 60 * 60


@dataclass(frozen=True, slots=True)
class Line:
    """A message as it came, in JSON, and the milliseconds since the first one."""

    after_ms: int
    message: bytes


class _Header(msgspec.Struct):
    format: Literal["stockbroker feed"]
    version: Literal[1]
    recorded_at: datetime
    source: str


class _Line(msgspec.Struct):
    after_ms: Annotated[int, msgspec.Meta(ge=0, le=SECONDS_MAX * 1000)]
    message: msgspec.Raw


class _Entry(msgspec.Struct):
    symbol: str


class _Message(msgspec.Struct):
    """What every message has, of whatever exchange."""

    type: Literal["snapshot", "quotes"]
    sequence: int
    quotes: list[_Entry]
    trades: list[_Entry] = []


T = TypeVar("T")


# ------------------------------------------------------------------ reading


def read_recording(path: Path) -> Iterator[Line]:
    """The messages of a recording, one after another: a snapshot, then what changed, without a gap.

    Raises ValueError, with a sentence, where the file is not in form, and OSError where it cannot be read.
    """
    with _opened(path) as file:
        yield from _read(file)


def recorded_at(path: Path) -> datetime:
    """When the recording began. Raises as `read_recording` does."""
    with _opened(path) as file:
        began = _header(_lines(file)).recorded_at
    return began if began.tzinfo else began.replace(tzinfo=UTC)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file; what is not in form in it is said of it by name."""
    with gzip.open(path, "rb") as file:
        try:
            yield cast(BinaryIO, file)
        except ValueError as error:
            raise ValueError(f"{path} is no recording of a feed: {error}") from error


def _header(lines: Iterator[bytes]) -> _Header:
    return _decoded(next(lines, b""), _Header, 1)


def _read(file: BinaryIO) -> Iterator[Line]:
    lines = _lines(file)
    _header(lines)
    after_ms, sequence = 0, None
    for number, text in enumerate(lines, 2):
        line = _decoded(text, _Line, number)
        message = _decoded(bytes(line.message), _Message, number)
        if line.after_ms < after_ms:
            raise ValueError(f"line {number}: after_ms falls from {after_ms} to {line.after_ms}")
        if (message.type == "snapshot") is not (sequence is None):
            raise ValueError(f"line {number}: the first message, and no other, is a snapshot")
        if sequence is not None and message.sequence != sequence + 1:
            raise ValueError(f"line {number}: message {sequence + 1} is missing")
        after_ms, sequence = line.after_ms, message.sequence
        yield Line(after_ms, bytes(line.message))
    if sequence is None:
        raise ValueError("it holds no message")


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(LINE_MAX + 1)
        except EOFError as error:
            raise ValueError("its end is missing") from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError("it is no gzip file, or damaged") from error
        if not line:
            return
        if len(line) > LINE_MAX:
            raise ValueError(f"line {number} is longer than {LINE_MAX} bytes")
        yield line


def _decoded(text: bytes, kind: type[T], number: int) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"line {number}: {str(error)[:200]}") from error


# ------------------------------------------------------------------ writing


class Recorder:
    """Writes a recording; `with` ends it as it has to end. Raises OSError where the file cannot be written."""

    def __init__(self, path: Path, recorded_at: datetime, source: str, *, replaces: bool = False) -> None:
        self.messages = 0
        self._file = gzip.open(path, "wb" if replaces else "xb")  # noqa: SIM115 - this object closes it
        self._put(_Header("stockbroker feed", 1, recorded_at, source))

    def write(self, line: Line) -> None:
        """One message."""
        self._put(_Line(line.after_ms, msgspec.Raw(line.message)))
        self.messages += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()

    def _put(self, content: msgspec.Struct) -> None:
        self._file.write(msgspec.json.encode(content) + b"\n")


class Selection:
    """What of a feed is recorded: all of it as it came, or a few symbols with a count of their own."""

    def __init__(self, symbols: Collection[str] = ()) -> None:
        self.symbols = frozenset(symbols)
        """Those that are recorded; where none were named, all that the snapshot lists."""
        self._is_all = not symbols
        self._sequence: int | None = None  # of the newest message that came
        self._written = 0  # ... and that was left

    def take(self, text: bytes) -> bytes | None:
        """The next message, as it is to be written; None where nothing of it is left.

        Raises ValueError where it is not one of a feed, or not the next one.
        """
        try:
            message = msgspec.json.decode(text, type=_Message)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"it sends what is no message of a feed ({str(error)[:200]})") from error
        if self._sequence is None:
            self._begin(message)
        elif message.type == "snapshot" or message.sequence != self._sequence + 1:
            raise ValueError(f"message {self._sequence + 1} was missed")
        self._sequence = message.sequence
        if not self._is_all:
            return self._narrowed(msgspec.json.decode(text))
        return msgspec.json.format(text, indent=-1) if b"\n" in text else text

    def _begin(self, message: _Message) -> None:
        if message.type != "snapshot":
            raise ValueError("it does not begin with a snapshot")
        listed = frozenset(quote.symbol for quote in message.quotes)
        if not self.symbols <= listed:
            raise ValueError(f"it does not list {', '.join(sorted(self.symbols - listed))}")
        self.symbols = self.symbols or listed
        self._written = message.sequence - 1

    def _narrowed(self, content: dict[str, Any]) -> bytes | None:
        for key in ("quotes", "trades"):
            if key in content:
                content[key] = [entry for entry in content[key] if entry["symbol"] in self.symbols]
        if not content["quotes"] and not content.get("trades"):
            return None
        self._written += 1
        content["sequence"] = self._written
        return msgspec.json.encode(content)
