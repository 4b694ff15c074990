"""What a position has cost, by average cost, in integers: every unit that was paid is either in it or has left it.

A position is its quantity and its cost, no price per share: that is derived, for display only.
"""

from broker.core.money import Money, average


def buy(cost: Money, paid: Money) -> Money:
    """The cost of a position after a purchase; `paid` has its fees in it (IRS Publication 550)."""
    assert cost >= 0
    assert paid >= 0, f"paid {paid}"
    return Money(cost + paid)


def sell(cost: Money, quantity_before: int, sold: int, proceeds: Money) -> tuple[Money, Money]:
    """The cost that leaves with the shares sold, and the gain: proceeds, less their fees, less that cost.

    The cost that leaves is rounded down to $0.0001; what rounding leaves behind goes with the last share.
    """
    assert cost >= 0
    assert 0 < sold <= quantity_before, f"sold {sold} of {quantity_before}"
    cost_out = Money(cost * sold // quantity_before)
    return cost_out, Money(proceeds - cost_out)


def average_price(cost: Money, quantity: int) -> Money:
    """The cost per share, rounded half up to $0.0001, for display; 0 without shares."""
    return average(cost, quantity) if quantity else Money(0)


def split(quantity: int, numerator: int, denominator: int) -> tuple[int, int]:
    """Whole shares after a split of numerator for denominator, and the numerator of the fraction that is left over.

    3 shares, 1 for 2: (1, 1), that is 1 share and 1/2. The position keeps its cost; the fraction then leaves it like a
    sale counted in parts of a share: `sell(cost, quantity * numerator, fraction_numerator, cash)`.
    """
    assert quantity >= 0
    assert numerator > 0
    assert denominator > 0, f"split {numerator} for {denominator}"
    return divmod(quantity * numerator, denominator)


def cash_in_lieu(fraction_numerator: int, denominator: int, price: Money) -> Money:
    """What is paid for the fraction of a share at the price after the split, rounded down to $0.0001.

    The rule has the name "cash in lieu of fractional shares"; down, so that the broker pays out no more than it gets.
    """
    assert 0 <= fraction_numerator < denominator
    assert price >= 0
    return Money(fraction_numerator * price // denominator)
