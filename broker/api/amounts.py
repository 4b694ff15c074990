"""Money in a request's body: text, or a number that the JSON reader kept exact."""

from decimal import Decimal
from typing import Annotated, Any

from msgspec import Meta

from broker.core.money import Money, format_money, parse_money
from broker.http import ApiError

_TEXT = {"type": "string", "pattern": r"^[0-9]{1,14}(\.[0-9]{1,4})?$"}
_NUMBER = {"type": "number", "minimum": 0}
_WHAT = "dollars with at most 4 decimals, as text or as a number"
Dollars = Annotated[Any, Meta(extra_json_schema={"description": _WHAT, "anyOf": [_TEXT, _NUMBER]})]
"""Text, or a number that the JSON reader kept exact: `read_money` reads it."""

DollarsOrNull = Annotated[
    Any, Meta(extra_json_schema={"description": _WHAT, "anyOf": [_TEXT, _NUMBER, {"type": "null"}]})
]

_DIGITS_MAX = 40
"""No amount is this long, and the number has not been longer: the JSON reader refuses it."""


def read_money(name: str, value: Any, what: str, like: str) -> Money:
    """The value exactly. Raises ApiError 400; `what` it is and `like` which are words for its sentence."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ApiError(400, "invalid_request", f'{name} must be {what} in dollars, like "{like}".')
    try:
        return parse_money(value if isinstance(value, str) else str(value)[:_DIGITS_MAX])
    except ValueError as error:
        raise ApiError(400, "invalid_request", f"{name} is not {what}: {error}.") from error


def read_dollars(name: str, value: Any, least: int, most: Money, like: str) -> Money:
    """An amount within these bounds. Raises ApiError 400."""
    amount = read_money(name, value, "an amount", like)
    if not least <= amount <= most:
        sentence = f"{name} must be {'at least' if least == 0 else 'above'} 0 and at most {format_money(most)}."
        raise ApiError(400, "invalid_request", sentence)
    return amount
