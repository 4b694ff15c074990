"""What a trade costs beside its price: a dated table as data, the fees of an order, and of each of its fills.

A fee belongs to the ORDER: what it has filled so far, rounded up to the cent and capped. A fill pays what the order
owes after it less what it owed before, so a customer pays the same in one fill or in a hundred.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from broker.core.money import UNITS_PER_DOLLAR, Money, format_money, parse_money
from broker.core.types import Side

FEES_TEXT_MAX = 4_096
"""Characters of a table: about 80 rows, some ten years of every fee that there is."""

_CENT = UNITS_PER_DOLLAR // 100
_E9 = 10**9
_AMOUNT_MAX = Money(10_000 * UNITS_PER_DOLLAR)
_PER_VALUE_E9_MAX = _E9 // 10
_PER_SHARE_E9_MAX = _E9

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,15}", re.ASCII)
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_RATE = re.compile(r"([0-9]{1,4})(?:\.([0-9]{1,9}))?", re.ASCII)
_SIDES = {"buy": Side.BUY, "sell": Side.SELL, "both": None}
_PARTS = frozenset({"value", "share", "order", "cap"})
_EXAMPLE = '"TAF 2026-01-01 sell share=0.000195 cap=9.79"'

Filled = tuple[int, Money]
"""What an order has filled so far: whole shares, and their value."""


@dataclass(frozen=True, slots=True)
class FeeRule:
    """One row: what the fee `name` takes from trade date `since` on, until the next row of its name and side.

    Raises ValueError for a figure below zero or beyond any real fee, and for a cap that is not in whole cents.
    """

    name: str
    since: date
    side: Side | None = None  # None: both
    per_value_e9: int = 0  # billionths of the value: $20.60 per million is 20,600
    per_share_e9: int = 0  # billionths of a dollar for each share: $0.000195 is 195,000
    per_order: Money = Money(0)  # once, at the first fill
    cap: Money | None = None  # for one order, whatever it fills

    def __post_init__(self) -> None:
        """Refuse what would make a fee negative or absurd."""
        if _NAME.fullmatch(self.name) is None:
            raise ValueError(f"the name of a fee is up to 16 capital letters, digits and _, not {self.name[:40]!r}")
        if not 0 <= self.per_value_e9 <= _PER_VALUE_E9_MAX:
            raise ValueError(f"{self.name}: value= is a part of the trade's value, 0 to 0.1")
        if not 0 <= self.per_share_e9 <= _PER_SHARE_E9_MAX:
            raise ValueError(f"{self.name}: share= is dollars for each share, 0 to 1")
        if not 0 <= self.per_order <= _AMOUNT_MAX:
            raise ValueError(f"{self.name}: order= is dollars for each order, 0 to 10000")
        if self.cap is not None and not (0 <= self.cap <= _AMOUNT_MAX and self.cap % _CENT == 0):
            raise ValueError(f"{self.name}: cap= is dollars and whole cents for each order, 0 to 10000")


class Fee(NamedTuple):
    """What one fee takes from a customer; above zero."""

    name: str
    amount: Money


# ------------------------------------------------------------------ what a trade pays


def order_fees(rules: Sequence[FeeRule], side: Side, quantity: int, value: Money, day: date) -> tuple[Fee, ...]:
    """What an order owes that has filled `quantity` shares worth `value` so far, by the rates of trade date `day`.

    Each fee is rounded up to the cent and capped; those of zero are left out. An order that has filled nothing owes
    nothing.
    """
    fees = (Fee(rule.name, _amount(rule, quantity, value)) for rule in _in_force(rules, side, day))
    return tuple(fee for fee in fees if fee.amount)


def fill_fees(rules: Sequence[FeeRule], side: Side, before: Filled, after: Filled, day: date) -> tuple[Fee, ...]:
    """What a fill pays: what its order owes after it less what it owed before, each at least zero.

    A SELL pays at most what the fill brings in, so that no fee takes a balance below zero: the rest is waived, the
    later names in the table first.
    """
    assert before[0] <= after[0]
    assert before[1] <= after[1], f"a fill only adds: {before} -> {after}"
    fees = [
        Fee(rule.name, Money(_amount(rule, *after) - _amount(rule, *before))) for rule in _in_force(rules, side, day)
    ]
    if side is Side.SELL:
        fees = list(_limited(fees, Money(after[1] - before[1])))
    return tuple(fee for fee in fees if fee.amount)


def max_fees(
    rules: Sequence[FeeRule], side: Side, quantity: int, value: Money, day: date, until: date | None = None
) -> Money:
    """The most that an order can pay in fees if it fills up to `quantity` shares worth up to `value`: a BUY's reserve.

    An order that rests for days names its last one as `until`: each rate of that time is then reserved as though all
    filled under it, since a fill pays the rate of its own day.
    """
    possible = _in_force(rules, side, day) + _in_force_later(rules, side, day, until or day)
    return Money(sum(_amount(rule, quantity, value) for rule in possible))


def _in_force(rules: Sequence[FeeRule], side: Side, day: date) -> list[FeeRule]:
    """The newest row of each name that has begun by `day`, among those for this side."""
    newest: dict[str, FeeRule] = {}
    for rule in rules:
        if rule.since <= day and rule.side in (None, side):
            known = newest.get(rule.name)
            if known is None or known.since < rule.since:
                newest[rule.name] = rule
    return list(newest.values())


def _in_force_later(rules: Sequence[FeeRule], side: Side, day: date, until: date) -> list[FeeRule]:
    """The rows that begin after `day` and by `until`, among those for this side."""
    return [rule for rule in rules if day < rule.since <= until and rule.side in (None, side)]


def _amount(rule: FeeRule, quantity: int, value: Money) -> Money:
    """One fee of an order, rounded up to the cent and capped; rises with quantity and value, and never falls."""
    if quantity == 0:
        return Money(0)
    billionths = value * rule.per_value_e9 + quantity * rule.per_share_e9 * UNITS_PER_DOLLAR + rule.per_order * _E9
    amount = Money(-(-billionths // (_E9 * _CENT)) * _CENT)
    return amount if rule.cap is None else min(amount, rule.cap)


def _limited(fees: Iterable[Fee], most: Money) -> Iterable[Fee]:
    """The same fees, of which the first come first, with `most` as their sum's limit."""
    left = most
    for name, amount in fees:
        paid = min(amount, left)
        left = Money(left - paid)
        yield Fee(name, paid)


# ------------------------------------------------------------------ the table as text


def parse_fees(text: str) -> tuple[FeeRule, ...]:
    """Read a table like "SEC 2026-04-04 sell value=0.0000206; TAF 2026-01-01 sell share=0.000195 cap=9.79".

    Rows stand between semicolons: a name, its first trade date, buy, sell or both, then any of value= (a part of the
    value), share= and order= (dollars), cap= (dollars for each order). Empty text is a table without fees. Raises
    ValueError with a sentence for anything else, and for two rows of which neither is the newer.
    """
    if len(text) > FEES_TEXT_MAX:
        raise ValueError(f"a table of fees has at most {FEES_TEXT_MAX} characters")
    if not text.strip():
        return ()
    rules = tuple(_parse_row(row) for row in text.split(";"))
    _refuse_rivals(rules)
    return rules


def format_fees(rules: Iterable[FeeRule]) -> str:
    """Write a table as `parse_fees` reads it, without the parts that are zero."""
    return "; ".join(_format_row(rule) for rule in rules)


def _parse_row(row: str) -> FeeRule:
    words = row.split()
    if len(words) < 3:
        raise ValueError(f"a fee is a name, a day, a side and its figures, like {_EXAMPLE}, not {row[:80]!r}")
    name, since, side, *parts = words
    if side not in _SIDES:
        raise ValueError(f"a fee is for buy, sell or both, not {side[:40]!r}")
    figures = _parse_parts(parts)
    return FeeRule(
        name=name,
        since=_parse_day(since),
        side=_SIDES[side],
        per_value_e9=_parse_rate(figures.get("value", "0")),
        per_share_e9=_parse_rate(figures.get("share", "0")),
        per_order=parse_money(figures.get("order", "0")),
        cap=parse_money(figures["cap"]) if "cap" in figures else None,
    )


def _parse_parts(parts: Iterable[str]) -> dict[str, str]:
    figures: dict[str, str] = {}
    for part in parts:
        key, _, figure = part.partition("=")
        if key not in _PARTS or key in figures:
            raise ValueError(f"the figures of a fee are value=, share=, order= and cap=, each once, not {part[:40]!r}")
        figures[key] = figure
    return figures


def _parse_day(text: str) -> date:
    """A calendar day; the pattern refuses the other forms of ISO 8601 that the library would take."""
    if _DAY.fullmatch(text) is None:
        raise ValueError(f"a fee begins on a day like 2026-04-04, not {text[:40]!r}")
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"the calendar has no day {text}") from None


def _parse_rate(text: str) -> int:
    """A decimal in billionths, exactly."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"a rate is digits with at most 9 decimals, like 0.0000206, not {text[:40]!r}")
    whole, fraction = match.groups()
    return int(whole) * _E9 + int((fraction or "").ljust(9, "0"))


def _refuse_rivals(rules: Sequence[FeeRule]) -> None:
    """No two rows of a name may begin on one day for the same side: it must be plain which of them counts."""
    seen: set[tuple[str, date, Side]] = set()
    for rule in rules:
        mine = {(rule.name, rule.since, side) for side in ([rule.side] if rule.side else Side)}
        if mine & seen:
            raise ValueError(f"the fee {rule.name} has two rows that begin on {rule.since} for one side")
        seen |= mine


def _format_row(rule: FeeRule) -> str:
    words = [rule.name, rule.since.isoformat(), rule.side.lower() if rule.side else "both"]
    if rule.per_value_e9:
        words.append(f"value={_format_rate(rule.per_value_e9)}")
    if rule.per_share_e9:
        words.append(f"share={_format_rate(rule.per_share_e9)}")
    if rule.per_order:
        words.append(f"order={format_money(rule.per_order)}")
    if rule.cap is not None:
        words.append(f"cap={format_money(rule.cap)}")
    return " ".join(words)


def _format_rate(billionths: int) -> str:
    whole, fraction = divmod(billionths, _E9)
    return f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")


# ------------------------------------------------------------------ what holds unless a setting says otherwise

# SEC: the fee of Section 31 of the Exchange Act. Checked against what the Security Traders Association wrote of the
# step from $27.80 to $0.00, and against papers of others that quote the SEC's advisories 2025-2 and 2026-2 (Release
# 34-104909); $20.60 stays until 60 days after the appropriation for fiscal 2027, so its end is not known. The SEC goes
# by its "charge date", as a rule the settlement; this table goes by the trade date.
# TAF: FINRA's Trading Activity Fee. $0.000166 checked against a broker's page; $0.000195 and the holiday of the last
# quarter of 2026 (SR-FINRA-2026-021, Release 34-106409) against papers of others that quote the filings. NOT checked
# beyond two of those: that $0.000195 comes back in 2027 and holds (SR-FINRA-2026-020 put off $0.000232 with $11.61).
# COMMISSION is the broker's own.
DEFAULT_FEES = parse_fees(
    "SEC 2024-05-22 sell value=0.0000278;"
    "SEC 2025-05-14 sell value=0;"
    "SEC 2026-04-04 sell value=0.0000206;"
    "TAF 2024-01-01 sell share=0.000166 cap=8.30;"
    "TAF 2026-01-01 sell share=0.000195 cap=9.79;"
    "TAF 2026-10-01 sell share=0;"
    "TAF 2027-01-01 sell share=0.000195 cap=9.79;"
    "COMMISSION 2000-01-01 both order=0.00"
)
"""The fees of a US broker that charges no commission, by trade date."""
