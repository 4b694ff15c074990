"""What customers asked for, to be compared with what came of it: in the books, and at the exchange."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from broker.core.messages import Leg, PlaceTrade, ReplaceTrade
from broker.core.types import OrderType, Side, TradeId


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, or an exit that came with one."""

    command: PlaceTrade | ReplaceTrade
    leg: Leg | None = None


def differences(asked: Mapping[TradeId, Asked], trade_id: TradeId, found: Any) -> Iterator[str]:
    """What is otherwise in `found`, a trade of the books or an order of the exchange, which may have fewer fields."""
    wanted, is_exact = _wanted(asked, asked[trade_id])
    quantity = wanted.pop("quantity")
    if found.quantity != quantity if is_exact else not 0 < found.quantity <= quantity:
        yield f"{trade_id} was asked for with quantity {quantity}, and has {found.quantity}"
    for name, value in wanted.items():
        if getattr(found, name, value) != value:
            yield f"{trade_id} was asked for with {name} {value}, and has {getattr(found, name)}"


def _wanted(asked: Mapping[TradeId, Asked], request: Asked) -> tuple[dict[str, Any], bool]:
    """The fields, and whether the quantity is that one: of an exit, or of what is left, it may be less."""
    command, leg = request.command, request.leg
    if isinstance(command, ReplaceTrade):
        wanted, _ = _wanted(asked, asked[command.replaces])
        if command.limit_price is not None:
            wanted["limit_price"] = command.limit_price
        wanted |= {"client_order_id": command.client_order_id, "idempotency_key": None, "replaces": command.replaces}
        return wanted | ({"quantity": command.quantity} if command.quantity else {}), command.quantity is not None
    names = ("customer_id", "symbol", "side", "quantity", "time_in_force", "order_class")
    wanted = {name: getattr(command, name) for name in names}
    if leg is not None:
        wanted["side"] = Side.SELL if command.side is Side.BUY else Side.BUY
        type_ = OrderType.LIMIT if leg.stop_price is None else OrderType.STOP
        return wanted | {"order_type": type_, "limit_price": leg.limit_price, "stop_price": leg.stop_price}, False
    names = ("order_type", "limit_price", "client_order_id", "idempotency_key", "trail_bps", "trail_amount")
    return wanted | {name: getattr(command, name) for name in names}, True
