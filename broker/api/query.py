"""Query parameters of the reading routes, read strictly: what is not understood is a 400, not a guess."""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta

from broker.core.types import SYMBOL_PATTERN, Symbol
from broker.http import ApiError

NEWEST_SEQ = 2**62
"""A cursor before the first page."""

Ticker = Annotated[str, Meta(pattern=SYMBOL_PATTERN)]
Moment = Annotated[
    str, Meta(description="a time; in UTC where it has no zone", extra_json_schema={"format": "date-time"})
]
Count = Annotated[int, Meta(ge=1, description="how many at most")]
SeqCursor = Annotated[str, Meta(pattern="^[1-9][0-9]{0,17}$", description="the cursor that the page before ended with")]

_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)


def words_of(words: Iterable[str]) -> str:
    """The pattern of one or more of these words, with commas."""
    one = "|".join(re.escape(word) for word in words)
    return f"^({one})(,({one}))*$"


def bad_query(sentence: str) -> ApiError:
    """The refusal of a query; the sentence comes without its full stop."""
    return ApiError(400, "invalid_query", f"{sentence}.")


def only_known(query: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse a parameter that there is not, and one that stands in it twice."""
    unknown = sorted(query.keys() - set(names))
    if unknown:
        there_are = f"it takes {', '.join(sorted(names))}" if names else "it takes none"
        raise bad_query(f"{unknown[0][:40]!r} is no parameter of this path; {there_are}")
    if len(query) > len(set(query)):
        twice = max(names, key=[name for name, _ in query.items()].count)
        raise bad_query(f"{twice} stands in it twice")


def read_symbol(text: str | None) -> Symbol | None:
    """A ticker, or None where it is left out."""
    if text is None:
        return None
    if re.search(SYMBOL_PATTERN, text, re.ASCII) is None:
        raise bad_query("symbol takes a ticker of 1 to 12 characters A-Z, 0-9 and '.'")
    return Symbol(text)


def read_time(name: str, text: str | None) -> datetime | None:
    """A moment in UTC, or None where it is left out; one without an offset is meant in UTC."""
    if text is None:
        return None
    text = text.replace(" ", "+")  # an offset's plus sign that was not encoded
    try:
        time = datetime.fromisoformat(text) if text.isascii() and len(text) <= 40 else None
        if time is not None:
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # the year 1 east of Greenwich is the year 0 in UTC
        pass
    raise bad_query(f"{name} takes a time like 2026-11-27T14:30:00Z")


def read_number(name: str, text: str | None, default: int, most: int, *, least: int = 1) -> int:
    """A whole number from `least` to `most`."""
    if text is None:
        return default
    if _DIGITS.fullmatch(text) is None or not least <= int(text) <= most:
        raise bad_query(f"{name} takes a whole number from {least} to {most}")
    return int(text)
