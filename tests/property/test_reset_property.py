"""Resets of any account to any state: it is in that state then, nothing appears from nowhere, and it is booked once."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from broker.batch import Batch, Item, Known, Reset
from broker.config import Config
from broker.core.account import Account, Holding
from broker.core.money import Money
from broker.core.postings import CASH, House, Posting, house_owner, move_postings
from broker.core.reset import AccountReset, ResetAccount, Shares, reset
from broker.core.types import QUANTITY_MAX, AccountType, Symbol
from tests.builders import account, conditions

symbols = st.sampled_from(["AAPL", "MSFT", "TSLA", "USD"]).map(Symbol)
quantities = st.integers(1, 100) | st.integers(1, QUANTITY_MAX)
amounts = (st.integers(0, 10**6) | st.integers(0, 10**16)).map(Money)
gains = st.integers(-(10**9), 10**9).map(Money)
figures = dict[str, tuple[int, int, int]]


@st.composite
def holdings(draw: st.DrawFn) -> Holding:
    """Shares, or none any more: then only a gain is left."""
    quantity = draw(st.just(0) | quantities)
    return Holding(quantity, cost=draw(amounts) if quantity else Money(0), gain=draw(gains))


@st.composite
def accounts(draw: st.DrawFn) -> Account:
    """Somebody with cash, perhaps with debt, and positions."""
    one = account()
    if draw(st.booleans()):
        one.account_type = AccountType.MARGIN
        one.cash.floor = -(10**12)
    one.cash.balance = draw(st.integers(one.cash.floor, 0) | amounts)
    one.positions = draw(st.dictionaries(symbols, holdings(), max_size=4))
    return one


commands = st.builds(
    ResetAccount,
    customer_id=st.just(account().customer_id),
    reference=st.just("r:1001"),
    cash=amounts,
    positions=st.dictionaries(symbols, st.builds(Shares, quantities, amounts), max_size=4),
)


def all_of(one: Account) -> figures:
    """Balance, cost and gain of everything that is or was there."""
    kept = {str(symbol): (each.balance, each.cost, each.gain) for symbol, each in one.positions.items()}
    return {**kept, CASH: (one.cash.balance, 0, 0)}


def wanted_of(command: ResetAccount) -> figures:
    shares = {str(symbol): (each.quantity, int(each.cost), 0) for symbol, each in command.positions.items()}
    return {**shares, CASH: (command.cash, 0, 0)}


@given(accounts(), commands)
def test_the_account_is_in_the_wanted_state_and_nothing_is_held(one: Account, command: ResetAccount) -> None:
    before = all_of(one)
    outcome = reset(one, command)
    assert isinstance(outcome, AccountReset)
    gone = dict.fromkeys(before, (0, 0, 0))
    assert all_of(one) == {**gone, **wanted_of(command)}
    assert [each.held for each in (one.cash, *one.positions.values())] == [0] * (1 + len(one.positions))
    assert one.cash.available >= one.cash.floor


@given(accounts(), commands)
def test_what_the_customer_gets_comes_from_outside_and_the_postings_lead_there(
    one: Account, command: ResetAccount
) -> None:
    before = all_of(one)
    outcome = reset(one, command)
    assert isinstance(outcome, AccountReset)
    house = house_owner(1, House.EXTERNAL)
    lines = move_postings(one.customer_id, house, outcome.moves)
    sums: dict[str, int] = defaultdict(int)
    posted: dict[str, list[int]] = {asset: list(found) for asset, found in before.items()}
    for line in lines:
        sums[line.asset] += line.amount
        assert line != Posting(line.owner_id, line.asset, 0), "the schema has no posting that moves nothing"
        if line.owner_id == one.customer_id:
            so_far = posted.setdefault(line.asset, [0, 0, 0])
            posted[line.asset] = [each + change for each, change in zip(so_far, line[2:], strict=True)]
        else:
            assert (line.owner_id, line.cost, line.gain) == (house, 0, 0)
    assert set(sums.values()) <= {0}
    assert len({(line.owner_id, line.asset) for line in lines}) == len(lines), "the primary key of a posting"
    assert {asset: tuple(found) for asset, found in posted.items()} == all_of(one)


@given(accounts(), commands, st.integers(2, 4))
def test_a_reset_is_booked_once_for_each_reference(one: Account, command: ResetAccount, times: int) -> None:
    """In one batch, and in a later one, which finds the reference in the database."""
    known = Known()
    events, answers = decide(one, command, known, times)
    assert [type(each) for each in events] == [AccountReset]
    assert answers == [Reset(one.customer_id), *[Reset(one.customer_id, replayed=True)] * (times - 1)]
    assert known.reset == {command.reference}
    one.cash.balance += 1
    changed = all_of(one)
    assert decide(one, command, Known(reset={command.reference}), times) == (
        [],
        [Reset(one.customer_id, replayed=True)] * times,
    )
    assert all_of(one) == changed


def decide(one: Account, command: ResetAccount, known: Known, times: int) -> tuple[list[object], list[object]]:
    one.account_type = AccountType.CASH  # of margin accounts a level is noted, too
    items = [Item(one.customer_id, command, Waiting(), 0.0) for _ in range(times)]  # type: ignore[arg-type]
    decided = Batch({one.customer_id: one}, known, conditions(), Config()).decide(items, advance=False)
    return list(decided.events), [answer for _, answer in decided.answers]


class Waiting:
    """Somebody who waits for an answer."""

    def done(self) -> bool:
        """Not yet."""
        return False
