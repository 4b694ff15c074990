"""Our refusals in Alpaca's words and codes. Careful clients read the words of the common ones, too."""

from collections.abc import Callable, Mapping
from typing import Any

from broker.alpaca.errors import AlpacaError
from broker.core.messages import Refusal, Refused

Shares = tuple[int, int]
"""Of a symbol: how many there are, and how many open orders hold."""


def _in_our_words(refused: Refused) -> AlpacaError:
    return AlpacaError(422, None, refused.reason, refused.figures)


def _forbidden(refused: Refused) -> AlpacaError:
    return AlpacaError(403, None, refused.reason, refused.figures)


def _buying_power(refused: Refused) -> AlpacaError:
    figures: Mapping[str, Any] = refused.figures
    extra = {"buying_power": str(figures.get("available", "0"))}
    if "needed" in figures:
        extra["cost_basis"] = str(figures["needed"])
    return AlpacaError(403, None, "insufficient buying power", extra)


def _suspended(_: Refused) -> AlpacaError:
    return AlpacaError(403, None, "new orders are rejected by user request")


def _unknown_symbol(refused: Refused) -> AlpacaError:
    return AlpacaError(422, None, f'asset "{refused.figures["symbol"]}" not found')


def _wash_trade(refused: Refused) -> AlpacaError:
    extra = {"existing_order_id": str(refused.figures.get("resting_order_id", "")), "reject_reason": refused.detail}
    return AlpacaError(422, None, "potential wash trade detected. use complex orders", extra)


def _too_many(refused: Refused) -> AlpacaError:
    return AlpacaError(429, None, refused.reason)


ANSWERS: Mapping[Refusal, Callable[[Refused], AlpacaError]] = {
    Refusal.TRADING_STOPPED: _forbidden,
    Refusal.ACCOUNT_SUSPENDED: _forbidden,
    Refusal.SUSPENDED_BY_YOU: _suspended,
    Refusal.UNKNOWN_SYMBOL: _unknown_symbol,
    Refusal.SYMBOL_HALTED: _in_our_words,
    Refusal.SYMBOL_RESTRICTED: _in_our_words,
    Refusal.EXCHANGE_UNAVAILABLE: _in_our_words,
    Refusal.PAST_MARKET_HOURS: _in_our_words,
    Refusal.STALE_QUOTE: _in_our_words,
    Refusal.MARGIN_CALL: _forbidden,
    Refusal.INSUFFICIENT_SHARES: _forbidden,  # `answer` says it in Alpaca's words, where the symbol is known
    Refusal.INSUFFICIENT_FUNDS: _buying_power,
    Refusal.INSUFFICIENT_BUYING_POWER: _buying_power,
    Refusal.POSITION_LIMIT: _in_our_words,
    Refusal.ORDER_TOO_LARGE: _in_our_words,
    Refusal.ORDER_VALUE_TOO_LARGE: _in_our_words,
    Refusal.PRICE_TOO_FAR: _in_our_words,
    Refusal.TOO_MANY_ORDERS: _too_many,
    Refusal.DUPLICATE_ORDER: _in_our_words,
    Refusal.WASH_TRADE: _wash_trade,
    Refusal.PDT_LIMIT_REACHED: _forbidden,
    Refusal.CANNOT_BE_REPLACED: _in_our_words,
    Refusal.OPEN_ORDERS: _in_our_words,
}


def answer(refused: Refused, symbol: str | None = None, shares: Shares = (0, 0)) -> AlpacaError:
    """The error that a client gets. `shares` are those of the symbol that it wanted to sell."""
    if refused.refusal is Refusal.INSUFFICIENT_SHARES and symbol is not None:
        return _too_few_shares(refused, symbol, shares)
    return ANSWERS[refused.refusal](refused)


def _too_few_shares(refused: Refused, symbol: str, shares: Shares) -> AlpacaError:
    existing, held = shares
    available = str(refused.figures.get("available", existing - held))
    requested = refused.figures.get("needed", "")
    return AlpacaError(
        403,
        None,
        f"insufficient qty available for order (requested: {requested}, available: {available})",
        {
            "available": available,
            "existing_qty": str(existing),
            "held_for_orders": str(held),
            "symbol": symbol,
        },
    )
