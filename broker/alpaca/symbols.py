"""What can be traded, by symbol or by asset id, and at what price."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from time import monotonic
from typing import Protocol
from uuid import UUID

from broker.alpaca import ids
from broker.alpaca.errors import AlpacaError
from broker.alpaca.models import Asset
from broker.alpaca.requests import as_uuid, is_symbol
from broker.core.money import Money
from broker.core.types import Symbol

EXCHANGE = "NASDAQ"
"""Alpaca's clients know a closed list of exchanges, on which ours are not."""


class Listed(Protocol):
    """A symbol that can be traded."""

    @property
    def symbol(self) -> Symbol: ...
    @property
    def name(self) -> str | None: ...


class Board(Protocol):
    """What is listed."""

    @property
    def is_heard(self) -> bool: ...
    def listed(self) -> Sequence[Listed]: ...


class Halts(Protocol):
    """What operators have halted, and why."""

    def halted(self, symbol: Symbol) -> str | None: ...


_KEPT_S = 1.0
"""Seconds for which what is listed is kept for look-ups: to gather it takes a while, and a request may name 1,000."""

_asset_id = lru_cache(maxsize=20_000)(ids.asset_id)


class Symbols:
    """The listed symbols as Alpaca's assets."""

    def __init__(
        self, board: Board, halts: Halts, last: Callable[[Symbol], Money | None], maintenance_percent: int
    ) -> None:
        self._board = board
        self._halts = halts
        self.last = last
        self._maintenance = maintenance_percent
        self._by_symbol: Mapping[Symbol, Listed] = {}
        self._by_id: Mapping[UUID, Symbol] = {}
        self._kept_until = 0.0

    def named(self, text: str) -> Symbol | None:
        """The symbol that this is, or whose asset id it is; None where it can be neither. It need not be listed."""
        asset_id = as_uuid(text)
        if asset_id is not None:
            self._gather()
            return self._by_id.get(asset_id)
        return Symbol(text) if is_symbol(text) else None

    def lists(self, symbol: Symbol | None) -> bool:
        """Whether somebody lists it. Raises AlpacaError 503."""
        return symbol in self._listed()

    def asset(self, symbol: Symbol | None) -> Asset | None:
        """The asset, or None where nobody lists it. Raises AlpacaError 503."""
        listed = None if symbol is None else self._listed().get(symbol)
        return None if listed is None else self._asset(listed)

    def assets(self) -> list[Asset]:
        """All of them, by symbol. Raises AlpacaError 503."""
        return [self._asset(each) for each in self._listed().values()]

    def of(self, symbols: Sequence[str]) -> list[Asset]:
        """Those of these symbols, in their order; of one that is listed no more, what is known without it."""
        listed = self._gather()
        return [
            self._asset(listed[Symbol(symbol)]) if symbol in listed else _delisted(Symbol(symbol)) for symbol in symbols
        ]

    def _listed(self) -> Mapping[Symbol, Listed]:
        """Raises AlpacaError 503 as long as no exchange was heard."""
        if not self._board.is_heard:
            raise AlpacaError(503, None, "the exchange was not heard since the broker started")
        return self._gather()

    def _gather(self) -> Mapping[Symbol, Listed]:
        if not self._by_symbol or monotonic() >= self._kept_until:
            self._by_symbol = {each.symbol: each for each in self._board.listed()}
            self._by_id = {_asset_id(symbol): symbol for symbol in self._by_symbol}
            self._kept_until = monotonic() + _KEPT_S
        return self._by_symbol

    def _asset(self, listed: Listed) -> Asset:
        return Asset(
            _asset_id(listed.symbol),
            "us_equity",
            EXCHANGE,
            listed.symbol,
            listed.name or listed.symbol,
            tradable=self._halts.halted(listed.symbol) is None,
            maintenance_margin_requirement=self._maintenance,
        )


def _delisted(symbol: Symbol) -> Asset:
    return Asset(_asset_id(symbol), "us_equity", EXCHANGE, symbol, symbol, status="inactive", tradable=False)
