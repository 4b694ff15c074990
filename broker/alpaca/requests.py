"""What Alpaca's clients send, read exactly: numbers as text or JSON numbers, booleans in any case, nulls left out.

Unknown fields are ignored, since each client sends some of its own; what is known must make sense, or it is a 422.
"""

import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from aiohttp import web

from broker.alpaca.errors import AlpacaError, bad_parameter, unprocessable
from broker.config import Config
from broker.core.hours import NEW_YORK
from broker.core.money import UNITS_PER_DOLLAR, Money, format_money, is_on_tick
from broker.core.types import PRICE_MAX, QUANTITY_MAX, SYMBOL_PATTERN
from broker.http import parse_json, read_body

T = TypeVar("T", bound=msgspec.Struct)

Number = Annotated[
    Any,
    msgspec.Meta(
        description="a number, or text that is one",
        extra_json_schema={"type": ["string", "number", "null"], "pattern": "^[0-9]{1,7}([.][0-9]{1,4})?$"},
    ),
]
"""`number` reads it."""

EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
"""Beyond them nothing ever happened, and nothing could be reckoned: there is no year 0, and none after 9999."""

_NUMBER = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_SYMBOL = re.compile(SYMBOL_PATTERN, re.ASCII)
_FRACTION = re.compile(r"(\.[0-9]{6})[0-9]+")
_DIGITS = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_BOOLEANS = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}


# ------------------------------------------------------------------ bodies


async def body_of(request: web.Request, type_: type[T], config: Config) -> T:
    """The body as this type. Raises AlpacaError 400 where it is no JSON object, 422 where a field is of no use.

    It need not say that it is JSON: Alpaca's SDK for Go does not.
    """
    value = parse_json(await read_body(request, config.body_max, config.body_wait_s, may_be_untyped=True))
    if not isinstance(value, dict):
        raise AlpacaError(400, None, "request body format is invalid: it must be a JSON object")
    present = {name: each for name, each in value.items() if each is not None}
    try:
        return msgspec.convert(present, type_)
    except msgspec.ValidationError as error:
        raise bad_parameter(_in_words(str(error))) from error


def _in_words(text: str) -> str:
    missing = re.fullmatch(r"Object missing required field `(\w+)`", text)
    if missing:
        return f"{missing[1]} is required"
    return text if len(text) <= 200 else f"{text[:200]}…"


# ------------------------------------------------------------------ numbers


def number(name: str, value: Any) -> Decimal | None:
    """The number, exactly as it was written; None where there is none. Raises AlpacaError 422."""
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise bad_parameter(f"{name} must be a number")
    text = str(value).strip()
    if _NUMBER.fullmatch(text) is None:
        raise bad_parameter(f"{name} must be a number")
    return Decimal(text)


def whole_shares(name: str, value: Any, symbol: str) -> int | None:
    """A quantity in whole shares. Raises AlpacaError 422: for a fraction in the words of an asset without fractions."""
    quantity = number(name, value)
    if quantity is None:
        return None
    if quantity <= 0:
        raise bad_parameter(f"{name} must be > 0")
    if quantity > QUANTITY_MAX:
        raise unprocessable(f"{name} must be <= {QUANTITY_MAX}")
    if quantity != int(quantity):
        raise unprocessable(f'asset "{symbol}" is not fractionable')
    return int(quantity)


def price(name: str, value: Any) -> Money | None:
    """A price per share on the grid of prices. Raises AlpacaError 422."""
    amount = number(name, value)
    if amount is None:
        return None
    if amount <= 0:
        raise unprocessable(f"{name} must be > 0")
    if amount * UNITS_PER_DOLLAR > PRICE_MAX:
        raise unprocessable(f"{name} must be <= {format_money(PRICE_MAX)}")
    units = amount * UNITS_PER_DOLLAR
    if units != int(units) or not is_on_tick(Money(int(units))):
        sentence = "sub-penny increment does not fulfill minimum pricing criteria"
        raise unprocessable(f"invalid {name} {_plain(amount)}. {sentence}")
    return Money(int(units))


def _plain(amount: Decimal) -> str:
    """As one writes it: without an exponent, and without zeros at its end."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def basis_points(name: str, value: Any) -> int | None:
    """A per cent of at most two decimals, as 1/10,000. Raises AlpacaError 422."""
    percent = number(name, value)
    if percent is None:
        return None
    if not 0 < percent < 100:
        raise unprocessable(f"{name} must be > 0 and < 100")
    if percent * 100 != int(percent * 100):
        raise unprocessable(f"{name} must have at most 2 decimals")
    return int(percent * 100)


# ------------------------------------------------------------------ queries


def query_of(request: web.Request) -> dict[str, str]:
    """The parameters that have a value."""
    return {name: value for name, value in request.query.items() if value != ""}


def boolean(name: str, value: object, *, default: bool = False) -> bool:
    """A boolean in any case, in a body or a query. Raises AlpacaError 422."""
    if value is None or value == "":
        return default
    found = _BOOLEANS.get(str(value).lower())
    if found is None:
        raise bad_parameter(f"{name} must be true or false")
    return found


def count(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A whole number from 1; more than `most` is `most`. Raises AlpacaError 422."""
    text = query.get(name)
    if text is None:
        return min(default, most)
    if _DIGITS.fullmatch(text) is None:
        raise bad_parameter(f"{name} must be a whole number from 1 to {most}")
    return min(int(text), most)


def word(query: Mapping[str, str], name: str, words: set[str], default: str) -> str:
    """One of these words, in any case. Raises AlpacaError 422."""
    text = query.get(name, default).lower()
    if text not in words:
        raise bad_parameter(f"{name} must be one of {', '.join(sorted(words))}")
    return text


def moment(query: Mapping[str, str], name: str) -> datetime | None:
    """A time, in UTC where it has no offset; a date is its midnight in New York. Raises AlpacaError 422.

    One before EARLIEST or after LATEST becomes that.
    """
    text = query.get(name)
    if text is None:
        return None
    text = _FRACTION.sub(r"\1", text.replace(" ", "+") if "T" in text else text)  # a plus sign that was not encoded
    try:
        if _DAY.fullmatch(text):
            return _within(datetime.combine(date.fromisoformat(text), time(), NEW_YORK).astimezone(UTC))
        found = datetime.fromisoformat(text) if text.isascii() and len(text) <= 40 else None
        if found is not None:
            return _within(found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC))
    except (ValueError, OverflowError):  # the year 1 east of Greenwich is the year 0 in UTC
        pass
    raise bad_parameter(f"{name} must be a time like 2026-11-27T14:30:00Z")


def _within(at: datetime) -> datetime:
    return max(EARLIEST, min(at, LATEST))


def day(query: Mapping[str, str], name: str) -> date | None:
    """A date between EARLIEST and LATEST; of a time, the day that it begins with. Raises AlpacaError 422."""
    text = query.get(name)
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text[:10]) and len(text) <= 40:
            return max(EARLIEST.date(), min(date.fromisoformat(text[:10]), LATEST.date()))
    except ValueError:
        pass
    raise bad_parameter(f"{name} must be a date like 2026-11-27")


def symbols(query: Mapping[str, str], name: str, most: int) -> list[str] | None:
    """A list of tickers with commas; None where it is left out. Raises AlpacaError 422."""
    text = query.get(name)
    if text is None:
        return None
    found = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(found) > most:
        raise bad_parameter(f"{name} takes at most {most} symbols")
    return [each for each in found if _SYMBOL.search(each)]  # what can be no symbol has no orders


def is_symbol(text: str) -> bool:
    """Whether it can be a ticker at all."""
    return _SYMBOL.search(text) is not None


def as_uuid(text: str) -> UUID | None:
    """The UUID, or None where it is none."""
    try:
        return UUID(text) if len(text) in {32, 36} else None
    except ValueError:
        return None


def printable(text: str, most: int) -> bool:
    """Whether it is 1 to `most` characters that one can print: others, no column would take."""
    return 1 <= len(text) <= most and text.isprintable()


def reply(body: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def no_content() -> web.Response:
    """204: what is done leaves nothing to say."""
    return web.Response(status=204)
