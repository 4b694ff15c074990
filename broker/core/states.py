"""The life of a trade, as a table: the only place that says which status may follow which.

`schema.sql` holds the same pairs in its table `status_change` (a test compares the two), and the diagram in
docs/architecture.md is printed from here by `python -m broker.core.states`.
"""

from collections.abc import Iterable

from broker.core.types import Status, Trade

_S = Status

TRANSITIONS: dict[Status, frozenset[Status]] = {
    _S.PLACED: frozenset({_S.HELD, _S.IN_PROGRESS, _S.REJECTED, _S.CANCELLED, _S.REPLACED}),
    _S.HELD: frozenset({_S.IN_PROGRESS, _S.REJECTED, _S.CANCELLED, _S.EXPIRED, _S.REPLACED}),
    _S.IN_PROGRESS: frozenset({_S.PARTIALLY_FILLED, _S.FILLED, _S.REJECTED, _S.CANCELLED, _S.EXPIRED, _S.REPLACED}),
    _S.PARTIALLY_FILLED: frozenset({_S.PARTIALLY_FILLED, _S.FILLED, _S.CANCELLED, _S.EXPIRED, _S.REPLACED}),
    _S.FILLED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.EXPIRED: frozenset(),
    _S.REPLACED: frozenset(),
}

TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)
WORKING = frozenset({_S.IN_PROGRESS, _S.PARTIALLY_FILLED})
"""At the exchange, with a hold and a deadline."""


def change(trade: Trade, status: Status, reason: str) -> None:
    """Move a trade to its next status. A change that the table does not have is a bug of ours."""
    assert status in TRANSITIONS[trade.status], f"{trade.trade_id}: {trade.status} -> {status}"
    trade.status = status
    trade.reason = reason
    trade.events += 1


def note(trade: Trade, reason: str) -> None:
    """Put down something about a trade that leaves its status as it is; of a finished one, nothing else changes."""
    trade.reason = reason if trade.status not in TERMINAL else trade.reason
    trade.events += 1


def diagram(transitions: dict[Status, frozenset[Status]] = TRANSITIONS) -> str:
    """The table as a Mermaid state diagram."""

    def name(status: Status) -> str:
        return status.replace(" ", "_")

    def arrows() -> Iterable[str]:
        yield f"    [*] --> {name(_S.PLACED)}"
        for status, following in transitions.items():
            for after in sorted(following):
                yield f"    {name(status)} --> {name(after)}"
            if not following:
                yield f"    {name(status)} --> [*]"

    return "\n".join(["stateDiagram-v2", *arrows()])


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - printing it is what the module does as a program
