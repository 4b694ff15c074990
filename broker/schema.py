"""Puts schema.sql into an empty database, brings an older one up to it, and refuses one of a newer broker.

schema.sql is the one description of the schema. A migration (broker/sql/migrate) happens in one transaction, as a whole
or not at all, and what comes out of it is what a fresh installation has. One that only adds works in place, beside
brokers of the version before, and says so (`works_with`): such a broker may also start again on what is newer than it.
The older ones install the next version anew and move the rows over, which takes the database for themselves. A version
that is not the newest any more stays there as schema_<version>.sql.
"""

import asyncio
from pathlib import Path

import asyncpg
import structlog

log = structlog.get_logger()

VERSION = 5
_IN_PLACE = {5}
"""Versions that only add to the one before: brokers of that one go on working beside them."""
_ATTEMPTS = 10
"""... their commits take milliseconds, so a lock that is not had in a second is had a little later."""
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
        found = await _install(connection)
        refused = found > VERSION and not await _works_with_us(connection, found)
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
    if refused:
        sentence = (
            f"The database has schema version {found}, this broker needs {VERSION}. Start the broker that made it."
        )
        raise SchemaError(sentence)


async def _install(connection: asyncpg.Connection) -> int:
    """The version that the database has in the end."""
    for attempt in range(_ATTEMPTS):
        try:
            async with connection.transaction():
                return await _bring_up(connection)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if attempt == _ATTEMPTS - 1 or await _version(connection) + 1 not in _IN_PLACE:
                raise
            await asyncio.sleep(0.1 * (attempt + 1))
    raise AssertionError("the last attempt raises")


async def _version(connection: asyncpg.Connection) -> int:
    return int(await connection.fetchval("SELECT max(version) FROM broker.schema_version"))


async def _works_with_us(connection: asyncpg.Connection, found: int) -> bool:
    """Whether a newer schema has only what brokers of our version can work beside."""
    query = "SELECT works_with <= $2 FROM broker.schema_version WHERE version = $1"
    return bool(await connection.fetchval(query, found, VERSION))


async def _bring_up(connection: asyncpg.Connection) -> int:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _INSTALL_LOCK)
    if await connection.fetchval("SELECT to_regclass('broker.schema_version')") is None:
        await connection.execute(schema_text())
    found = await _version(connection)
    while found < VERSION:
        await _migrate(connection, found)
        found += 1
    return found


async def _migrate(connection: asyncpg.Connection, found: int) -> None:
    """Bring the schema from one version to the next."""
    log.info("schema.migrating", before=found, after=found + 1)
    folder, following = Path(__file__).with_name("sql") / "migrate", found + 1
    if following in _IN_PLACE:
        await connection.execute("SET LOCAL lock_timeout = '1s'")  # nobody shall wait for longer behind us
        await connection.execute((folder / f"{following}.sql").read_text("utf-8"))
        return
    schema = schema_text() if following == VERSION else (folder / f"schema_{following}.sql").read_text("utf-8")
    steps = (folder / f"{following}.sql").read_text("utf-8")
    await connection.execute("SET LOCAL lock_timeout = '2s'")
    await connection.execute("LOCK TABLE broker.account, broker.trade IN ACCESS EXCLUSIVE MODE")
    await connection.execute("ALTER SCHEMA broker RENAME TO broker_before")
    await connection.execute(schema)
    await connection.execute(steps)
    await connection.execute("DROP SCHEMA broker_before CASCADE")


async def let_runtime_role_in(dsn: str) -> None:
    """Sessions may begin in the role broker_runtime itself. Raises asyncpg's errors where there is no connection."""
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        if not await connection.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'broker_runtime'"):
            await connection.execute("ALTER ROLE broker_runtime LOGIN")
    finally:
        await connection.close()


async def check_runtime_login(dsn: str) -> None:
    """Whoever logs in like this works as broker_runtime and can become nobody with more rights.

    Raises SchemaError, and asyncpg's errors where there is no connection.
    """
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        may = await connection.fetchrow(
            """SELECT bool_or(rolsuper OR rolname = pg_get_userbyid(nspowner)) AS more,
                      bool_or(rolname = 'broker_runtime') AS work
               FROM pg_roles, pg_namespace
               WHERE nspname = 'broker' AND pg_has_role(session_user, pg_roles.oid, 'MEMBER')"""
        )
    finally:
        await connection.close()
    if may is None or may["more"]:
        raise SchemaError("The role of --runtime-database may become the owner of the schema. Take another one.")
    if not may["work"]:
        raise SchemaError("The role of --runtime-database has no rights yet. As the owner: GRANT broker_runtime TO it.")
