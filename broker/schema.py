"""Puts schema.sql into an empty database, and refuses one that another version of the broker made."""

from pathlib import Path

import asyncpg

VERSION = 1
_INSTALL_LOCK = 7_301_955_118
"""Advisory lock: of two brokers that start on one empty database, one installs and the other waits."""


class SchemaError(Exception):
    """The database cannot be used by this version; the message says why and what to do."""


def schema_text() -> str:
    """The text of schema.sql: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).with_name("schema.sql")
    return (inside if inside.exists() else Path(__file__).parents[1] / "schema.sql").read_text(encoding="utf-8")


async def install(dsn: str) -> None:
    """Make the schema where there is none. Raises SchemaError, and asyncpg's errors where there is no connection."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _INSTALL_LOCK)
            if await connection.fetchval("SELECT to_regclass('broker.schema_version')") is None:
                await connection.execute(schema_text())
            found = await connection.fetchval("SELECT max(version) FROM broker.schema_version")
    except asyncpg.InsufficientPrivilegeError as error:
        sentence = (
            f"The database role may not install the schema ({error}). It must own the database and have CREATEROLE; "
            "where another role made the role broker_runtime, that one must grant it to this one WITH ADMIN OPTION."
        )
        raise SchemaError(sentence) from error
    finally:
        await connection.close()
    if found != VERSION:
        sentence = (
            f"The database has schema version {found}, this broker needs {VERSION}. Start the broker that made it."
        )
        raise SchemaError(sentence)
