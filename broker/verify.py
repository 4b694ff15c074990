"""`broker verify`: does the database keep every rule of the design? One snapshot, one query for each rule.

Each file in broker/sql/verify is a query for the rows that break its rule; the file's name is the rule. It works
beside a running broker (nothing is locked) and on a stopped one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

import asyncpg


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule came to; `row` is the first one that breaks it."""

    rule: str
    row: dict[str, Any] | None


def rules() -> Iterator[tuple[str, str]]:
    """Every rule as a sentence, with its query."""
    folder = resources.files("broker").joinpath("sql", "verify")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        yield file.name.removesuffix(".sql").partition("_")[2].replace("_", " "), file.read_text(encoding="utf-8")


async def verify(dsn: str) -> list[Finding]:
    """Check every rule on one snapshot. Raises asyncpg's errors where there is no connection."""
    connection = await asyncpg.connect(dsn, timeout=10, server_settings={"search_path": "broker", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return [await _check(connection, rule, query) for rule, query in rules()]
    finally:
        await connection.close()


async def _check(connection: asyncpg.Connection, rule: str, query: str) -> Finding:
    row = await connection.fetchrow(query)
    return Finding(rule, dict(row) if row else None)
