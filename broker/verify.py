"""`broker verify`: does the database keep every rule of the design? One snapshot, one query for each rule.

Each file in broker/sql/verify is a query for the rows that break its rule; the file's name is the rule. It works
beside a running broker (nothing is locked) and on a stopped one.
"""

from collections.abc import Iterator, Mapping
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


Heads = Mapping[str, tuple[int, str]]
"""The last number and hash of each chain of the audit log, as they were once."""

_KEPT = "heads that were kept are in the audit log"
_RECORD = "SELECT hash FROM audit WHERE chain = $1 AND number = $2"


async def verify(dsn: str, heads: Heads | None = None) -> list[Finding]:
    """Check every rule on one snapshot; with heads that were kept elsewhere, also that the audit log still has them.

    Raises asyncpg's errors where there is no connection.
    """
    connection = await asyncpg.connect(dsn, timeout=10, server_settings={"search_path": "broker", "jit": "off"})
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            findings = [await _check(connection, rule, query) for rule, query in rules()]
            return findings if heads is None else [*findings, await _check_heads(connection, heads)]
    finally:
        await connection.close()


async def _check(connection: asyncpg.Connection, rule: str, query: str) -> Finding:
    row = await connection.fetchrow(query)
    return Finding(rule, dict(row) if row else None)


async def _check_heads(connection: asyncpg.Connection, heads: Heads) -> Finding:
    """A whole chain may have been made anew, with its heads: then it lacks those that were told before."""
    for chain, (number, hash_) in heads.items():
        found = await connection.fetchval(_RECORD, int(chain), number)
        if number > 0 and (found is None or found.hex() != hash_):
            return Finding(
                _KEPT, {"chain": int(chain), "number": number, "kept": hash_, "found": found and found.hex()}
            )
    return Finding(_KEPT, None)
