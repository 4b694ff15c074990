"""Alpaca's assets are looked up in what is kept for a moment: the board is not gathered anew for each name."""

from dataclasses import dataclass
from uuid import UUID

import pytest

from broker.alpaca import symbols
from broker.alpaca.errors import AlpacaError
from broker.alpaca.ids import asset_id
from broker.alpaca.symbols import Symbols
from broker.core.types import Symbol

NAMES = [Symbol(f"A{number:03d}") for number in range(500)]


@dataclass
class Listed:
    symbol: Symbol
    name: str | None = None


class Board:
    """What is listed, and how often somebody asked."""

    def __init__(self, *names: Symbol) -> None:
        self.names = names
        self.asked = 0

    @property
    def is_heard(self) -> bool:
        return bool(self.names)

    def listed(self) -> list[Listed]:
        self.asked += 1
        return [Listed(name) for name in self.names]

    def halted(self, symbol: Symbol) -> str | None:
        return "news" if symbol == NAMES[1] else None


def known(board: Board) -> Symbols:
    return Symbols(board, board, lambda symbol: None, 30)


def test_a_thousand_names_are_looked_up_in_one_gathering() -> None:
    board = Board(*NAMES)
    found = known(board)
    assert [found.named(str(asset_id(name))) for name in NAMES] == NAMES
    assert all(found.lists(name) for name in NAMES)
    assert [each.symbol for each in found.of(NAMES[::-1])] == NAMES[::-1]
    assert [found.asset(name) for name in NAMES] == found.assets()
    assert board.asked == 1


def test_what_is_not_listed_is_none() -> None:
    found = known(Board(*NAMES))
    assert (found.named(str(UUID(int=7))), found.named("a b"), found.named("NOSUCH")) == (None, None, "NOSUCH")
    assert (found.lists(Symbol("NOSUCH")), found.lists(None), found.asset(None)) == (False, False, None)
    [gone] = found.of(["NOSUCH"])
    assert (gone.symbol, gone.status, gone.tradable) == ("NOSUCH", "inactive", False)
    assert [each.tradable for each in found.assets()[:2]] == [True, False]


def test_a_change_of_the_list_is_seen_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    board, at = Board(), 100.0
    monkeypatch.setattr(symbols, "monotonic", lambda: at)
    found = known(board)
    with pytest.raises(AlpacaError, match="not heard"):
        found.assets()
    assert found.named(str(asset_id(NAMES[0]))) is None
    board.names = (NAMES[0],)
    assert found.named(str(asset_id(NAMES[0]))) == NAMES[0]
    board.names = (NAMES[1],)
    at += 5
    assert [each.symbol for each in found.assets()] == [NAMES[1]]
