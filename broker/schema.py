"""Puts schema.sql into an empty database, brings an older one up to it, and refuses one of a newer broker.

schema.sql is the one description of the schema. A migration installs the next version anew beside the old one and
moves the rows over (broker/sql/migrate), all in one transaction: it happens as a whole or not at all, and what comes
out of it is what a fresh installation has. A version that is not the newest any more stays there as
schema_<version>.sql.
"""

from pathlib import Path

import asyncpg
import structlog

log = structlog.get_logger()

VERSION = 4
_INSTALL_LOCK = 7_301_955_118
"""Advisory lock: of two brokers that start on one empty database, one installs and the other waits."""


class SchemaError(Exception):
    """The database cannot be used by this version; the message says why and what to do."""


def schema_text() -> str:
    """The text of schema.sql: beside the package in a checkout, inside it in a wheel."""
    inside = Path(__file__).with_name("schema.sql")
    return (inside if inside.exists() else Path(__file__).parents[1] / "schema.sql").read_text(encoding="utf-8")


async def install(dsn: str) -> None:
    """Make the schema where there is none, or bring it up to date.

    Raises SchemaError, and asyncpg's errors where there is no connection.
    """
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _INSTALL_LOCK)
            if await connection.fetchval("SELECT to_regclass('broker.schema_version')") is None:
                await connection.execute(schema_text())
            found = await connection.fetchval("SELECT max(version) FROM broker.schema_version")
            while found < VERSION:
                await _migrate(connection, found)
                found += 1
    except asyncpg.InsufficientPrivilegeError as error:
        sentence = (
            f"The database role may not install the schema ({error}). It must own the database and have CREATEROLE; "
            "where another role made the role broker_runtime, that one must grant it to this one WITH ADMIN OPTION."
        )
        raise SchemaError(sentence) from error
    except asyncpg.LockNotAvailableError as error:
        sentence = "The database is of an older version, and another broker works on it. Stop that one first."
        raise SchemaError(sentence) from error
    finally:
        await connection.close()
    if found > VERSION:
        sentence = (
            f"The database has schema version {found}, this broker needs {VERSION}. Start the broker that made it."
        )
        raise SchemaError(sentence)


async def _migrate(connection: asyncpg.Connection, found: int) -> None:
    """Bring the schema from one version to the next."""
    log.info("schema.migrating", before=found, after=found + 1)
    folder, following = Path(__file__).with_name("sql") / "migrate", found + 1
    schema = schema_text() if following == VERSION else (folder / f"schema_{following}.sql").read_text("utf-8")
    steps = (folder / f"{following}.sql").read_text("utf-8")
    await connection.execute("SET LOCAL lock_timeout = '2s'")
    await connection.execute("LOCK TABLE broker.account, broker.trade IN ACCESS EXCLUSIVE MODE")
    await connection.execute("ALTER SCHEMA broker RENAME TO broker_before")
    await connection.execute(schema)
    await connection.execute(steps)
    await connection.execute("DROP SCHEMA broker_before CASCADE")
