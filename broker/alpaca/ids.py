"""Alpaca's ids are UUIDs: those that our rows do not have are made of what they have, the same each time."""

from functools import lru_cache
from uuid import UUID, uuid5

from broker.core.types import CustomerId

_NAMESPACE = UUID("6f1d5c0e-53a4-4a0e-9b1e-0a5b6f0c2d71")


@lru_cache(maxsize=50_000)
def asset_id(symbol: str) -> UUID:
    """The id of an asset."""
    return uuid5(_NAMESPACE, f"asset:{symbol}")


def account_id(customer_id: CustomerId | int) -> UUID:
    """The id of a customer's account."""
    return uuid5(_NAMESPACE, f"account:{customer_id}")


def execution_id(venue: str, execution: str) -> UUID:
    """The id of an execution, which an exchange calls whatever it likes."""
    return uuid5(_NAMESPACE, f"execution:{venue}:{execution}")
