"""Corporate actions on any position: nothing appears, nothing is lost, and each is booked once."""

from collections import defaultdict

from hypothesis import example, given
from hypothesis import strategies as st

from broker.batch import Adjusted, Batch, Item, Known
from broker.config import Config
from broker.core.account import Account, Holding
from broker.core.corporate import ActionKind, AdjustPosition, CorporateAction, PositionAdjusted, adjust
from broker.core.money import Money
from broker.core.postings import CASH, House, Posting, house_owner, move_postings
from broker.core.types import PRICE_MAX, QUANTITY_MAX, CustomerId, Symbol
from tests.builders import AAPL, account, conditions

NEW = Symbol("APPL")
quantities = st.integers(1, 100) | st.integers(1, QUANTITY_MAX)
prices = (st.integers(1, 10**6) | st.integers(1, PRICE_MAX)).map(Money)
amounts = (st.integers(0, 10**6) | st.integers(0, 10**16)).map(Money)
terms = st.integers(1, 20) | st.integers(1, 1_000)


@st.composite
def holders(draw: st.DrawFn) -> Account:
    """Somebody with AAPL, perhaps with the new symbol too."""
    one = account()
    one.cash.balance = draw(amounts)
    one.positions[AAPL] = Holding(draw(quantities), cost=draw(amounts), gain=Money(draw(st.integers(-(10**9), 10**9))))
    if draw(st.booleans()):
        one.positions[NEW] = Holding(draw(quantities), cost=draw(amounts))
    return one


splits = st.builds(
    lambda numerator, denominator, price: CorporateAction("e", ActionKind.SPLIT, AAPL, numerator, denominator, price),
    terms,
    terms,
    prices,
)
changes = st.just(CorporateAction("e", ActionKind.SYMBOL_CHANGE, AAPL, new_symbol=NEW))
dividends = prices.map(lambda price: CorporateAction("e", ActionKind.CASH_DIVIDEND, AAPL, per_share=price))
actions = splits | changes | dividends


def figures(one: Account) -> dict[str, tuple[int, int, int]]:
    """Balance, cost and gain of everything."""
    kept = {str(symbol): (each.balance, each.cost, each.gain) for symbol, each in one.positions.items()}
    return {**kept, CASH: (one.cash.balance, 0, 0)}


def carry_out(one: Account, action: CorporateAction) -> PositionAdjusted | None:
    outcome = adjust(one, AdjustPosition(one.customer_id, action))
    assert outcome is None or isinstance(outcome, PositionAdjusted)
    return outcome


@given(holders(), splits)
def test_a_split_keeps_every_part_of_a_share_and_every_unit_of_cost(one: Account, action: CorporateAction) -> None:
    balance, cost, gain = figures(one)[AAPL]
    cash = one.cash.balance
    carry_out(one, action)
    after, cost_after, gain_after = figures(one)[AAPL]
    paid = one.cash.balance - cash
    fraction = balance * action.numerator - after * action.denominator
    assert 0 <= fraction < action.denominator
    assert 0 <= paid * action.denominator <= fraction * action.price < (paid + 1) * action.denominator
    assert cost_after - gain_after == cost - gain - paid  # what leaves the position is the cash and nothing else
    assert 0 <= cost_after <= cost
    assert after or cost_after == 0
    assert fraction or (cost_after, gain_after, paid) == (cost, gain, 0)


@given(holders(), changes)
def test_a_symbol_change_carries_everything_over(one: Account, action: CorporateAction) -> None:
    before = figures(one)
    carry_out(one, action)
    after = figures(one)
    old, new = before[AAPL], before.get(NEW, (0, 0, 0))
    assert after == {AAPL: (0, 0, 0), NEW: tuple(map(sum, zip(old, new, strict=True))), CASH: before[CASH]}


@given(holders(), dividends)
def test_a_dividend_pays_its_amount_for_each_share_and_nothing_else(one: Account, action: CorporateAction) -> None:
    before = figures(one)
    carry_out(one, action)
    paid = before[AAPL][0] * action.per_share
    assert figures(one) == {**before, CASH: (before[CASH][0] + paid, 0, 0)}


@given(holders(), actions)
@example(account(shares={"AAPL": 3}), CorporateAction("e", ActionKind.SPLIT, AAPL, 1, 2, Money(7)))
def test_what_the_customer_gets_the_corporate_row_gives(one: Account, action: CorporateAction) -> None:
    before = figures(one)
    adjusted = carry_out(one, action)
    moves = adjusted.moves if adjusted else ()
    house = house_owner(1, House.CORPORATE)
    lines = move_postings(one.customer_id, house, moves)
    sums: dict[str, int] = defaultdict(int)
    posted: dict[str, tuple[int, int, int]] = dict.fromkeys([AAPL, NEW, CASH], (0, 0, 0))
    for line in lines:
        sums[line.asset] += line.amount
        assert line != Posting(line.owner_id, line.asset, 0)  # the schema has no posting that moves nothing
        if line.owner_id == one.customer_id:
            posted[line.asset] = tuple(map(sum, zip(posted[line.asset], line[2:], strict=True)))
        else:
            assert (line.owner_id, line.cost, line.gain) == (house, 0, 0)
    assert set(sums.values()) <= {0}
    assert len({(line.owner_id, line.asset) for line in lines}) == len(lines)  # the primary key of a posting
    for asset, change in posted.items():
        expected = tuple(map(sum, zip(before.get(asset, (0, 0, 0)), change, strict=True)))
        assert figures(one).get(asset, (0, 0, 0)) == expected


@given(holders(), actions, st.integers(2, 4))
def test_an_event_is_booked_once_for_each_customer(one: Account, action: CorporateAction, times: int) -> None:
    """In one batch, and in a later one, which finds the reference in the database."""
    command = AdjustPosition(CustomerId(one.customer_id), action)
    known = Known()
    first = decide(one, command, known, times)
    after = figures(one)
    booked = {event.reference for event in first if isinstance(event, PositionAdjusted)}
    assert known.adjusted == booked
    assert len(first) == len(booked) <= 1
    assert decide(one, command, Known(adjusted=booked or {command.reference}), times) == []
    assert figures(one) == after


def decide(one: Account, command: AdjustPosition, known: Known, times: int) -> list[object]:
    items = [Item(one.customer_id, command, Waiting(), 0.0) for _ in range(times)]  # type: ignore[arg-type]
    decided = Batch({one.customer_id: one}, known, conditions(), Config()).decide(items, advance=False)
    assert len([answer for _, answer in decided.answers if isinstance(answer, Adjusted)]) == times
    return list(decided.events)


class Waiting:
    """Somebody who waits for an answer."""

    def done(self) -> bool:
        """Not yet."""
        return False
