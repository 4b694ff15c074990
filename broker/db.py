"""PostgreSQL, as the ledger and the readers see it: named queries, and three kinds of failure instead of fifty.

Nothing else imports asyncpg except the ledger's neighbours that only read. A failure of the connection means that the
outcome is unknown; a refusal means that the database would not have it, and never will.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from importlib import resources
from typing import TypeVar

import asyncpg
import structlog

from broker.config import Config

log = structlog.get_logger()

T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """The database is away or too slow: whether the statement took effect is not known."""


class StaleAccounts(Exception):
    """Somebody else changed an account after it was read: read it again and decide again."""


class RefusedByDatabase(Exception):
    """A rule of the schema refused the statement; nothing of it took effect. `constraint` names the rule."""

    def __init__(self, message: str, constraint: str | None) -> None:
        super().__init__(message)
        self.constraint = constraint


@cache
def query(name: str) -> str:
    """The text of broker/sql/<name>.sql."""
    return resources.files("broker").joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


_STALE = "BR001"
# Somebody else was faster with the same thing; whoever reads again finds it.
_STALE_KEYS = {"cash_reference", "trade_idempotency", "trade_customer_id_seq_key"}
UNKNOWN_OUTCOME = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.OperatorInterventionError,  # shutdown, crash, cancelled, starting up
    asyncpg.InsufficientResourcesError,  # disk full, too many connections
    asyncpg.TransactionRollbackError,  # deadlock, serialization
    asyncpg.ObjectInUseError,
    asyncpg.ObjectNotInPrerequisiteStateError,  # lock not available
    asyncpg.ReadOnlySQLTransactionError,  # after a fail-over, or while its disk is full
    asyncpg.PostgresSystemError,  # I/O error
    ConnectionError,
    OSError,
    TimeoutError,
)


async def _guarded(work: Callable[[], Awaitable[T]]) -> T:
    try:
        return await work()
    except UNKNOWN_OUTCOME as error:
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            # A figure that no column can hold: it never left us, and is no lost connection.
            raise RefusedByDatabase(str(error), None) from error
        raise DatabaseUnavailable(f"{type(error).__name__}: {error}") from error
    except asyncpg.PostgresError as error:
        constraint = getattr(error, "constraint_name", None)
        if error.sqlstate == _STALE or constraint in _STALE_KEYS:
            raise StaleAccounts(str(error)) from error
        raise RefusedByDatabase(str(error), constraint) from error


async def _keep_as_it_is(_: object) -> None:
    """Nothing that we do changes a session, so it needs no reset, which would be one more round trip a query."""


async def _connected(work: Callable[[], Awaitable[T]]) -> T:
    """A server that does not let us in has refused no statement: it may let us in later."""
    try:
        return await _guarded(work)
    except RefusedByDatabase as error:
        raise DatabaseUnavailable(str(error)) from error


class Database:
    """The way to one PostgreSQL: a bounded pool for readers, and sessions for the shards."""

    def __init__(self, dsn: str, config: Config, runtime_dsn: str | None = None) -> None:
        """`runtime_dsn`: by which sessions begin that have no rights to take back; else they begin by `dsn`."""
        self.dsn = dsn
        self._runtime_dsn = runtime_dsn or dsn
        self._config = config
        self._pool: asyncpg.Pool | None = None
        self._abandoned: set[asyncio.Future[Sequence[asyncpg.Record]]] = set()
        self._waiting = 0  # for a connection of the pool

    def settings(self) -> dict[str, str]:
        """What every session of the running broker is set to."""
        ms = str(int(self._config.database_timeout_s * 1000))
        return {
            "application_name": "stockbroker",
            "role": "broker_runtime",
            "search_path": "broker",
            "timezone": "UTC",
            "synchronous_commit": "on",  # an answer of 201 promises that the trade is on disk
            "statement_timeout": ms,
            "lock_timeout": "2000",
            "idle_in_transaction_session_timeout": ms,
            "plan_cache_mode": "force_generic_plan",  # one plan each, the one that the EXPLAIN tests look at
            "enable_seqscan": "off",  # a plan made while a table was small must not scan it once it is large
            "jit": "off",
        }

    async def connect(self) -> asyncpg.Connection:
        """A new connection with the runtime role's rights. Raises DatabaseUnavailable."""
        return await _connected(
            lambda: asyncpg.connect(
                self._runtime_dsn,
                server_settings=self.settings(),
                timeout=self._config.database_timeout_s,
                command_timeout=self._config.database_timeout_s,
            )
        )

    async def open(self) -> None:
        """Open the pool of the readers."""
        self._pool = await _guarded(self._create_pool)

    async def _create_pool(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._runtime_dsn,
            min_size=1,
            max_size=self._config.pool_max,
            server_settings=self.settings(),
            timeout=self._config.place_wait_s,
            command_timeout=self._config.place_wait_s,
            reset=_keep_as_it_is,
        )

    async def close(self) -> None:
        """Close the pool, without waiting for ever."""
        if self._pool is not None:
            try:
                await asyncio.wait_for(self._pool.close(), 1)
            except TimeoutError:
                self._pool.terminate()

    async def fetch(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of a named query, from the pool. Raises DatabaseUnavailable within the place_wait_s of Config."""
        assert self._pool is not None, "the database is not open"
        task = asyncio.ensure_future(_guarded(lambda: self._pooled(query(name), arguments)))
        done, _ = await asyncio.wait({task}, timeout=self._config.place_wait_s)
        if done:
            return task.result()
        # A server that is frozen does not answer the request to cancel either: let that go on without us.
        task.cancel()
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        raise DatabaseUnavailable(f"no answer within {self._config.place_wait_s:g} s")

    async def _pooled(self, text: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
        assert self._pool is not None
        self._waiting += 1
        try:
            connection = await self._pool.acquire()
        finally:
            self._waiting -= 1
        try:
            return list(await connection.fetch(text, *arguments))
        finally:
            await self._pool.release(connection)

    def pool_use(self) -> tuple[int, int, int]:
        """How many connections are idle, how many in use, and how many queries wait for one."""
        if self._pool is None:
            return 0, 0, 0
        idle = self._pool.get_idle_size()
        return idle, self._pool.get_size() - idle, self._waiting

    def _forget(self, task: asyncio.Future[Sequence[asyncpg.Record]]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.debug("database.late_failure", error=repr(task.exception()))

    def session(self) -> "Session":
        """A connection of one's own."""
        return Session(self)


class Session:
    """One connection, made anew when it is lost: a shard's.

    Where a standby has to have every commit (synchronous_standby_names), a commit whose wait for it was cut short shows
    here like any other and yet may be lost. So what is not sure counts as an unknown outcome, and a new connection
    begins with a commit of its own: once the standby has that one, it has all that came before.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connection: asyncpg.Connection | None = None
        self._is_sure = True

    async def fetch(self, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """The rows of a named query. After DatabaseUnavailable the connection is a new one."""
        connection = self._connection
        if connection is None or connection.is_closed():
            connection = await self._database.connect()
            connection.add_log_listener(self._heed)
            await self._fetch(connection, "catch_up")
            self._connection = connection
        return await self._fetch(connection, name, *arguments)

    async def _fetch(self, connection: asyncpg.Connection, name: str, *arguments: object) -> Sequence[asyncpg.Record]:
        self._is_sure = True
        try:
            rows = await _guarded(lambda: _rows(connection, name, arguments))
            if not self._is_sure:
                raise DatabaseUnavailable("the standby may not have it")
        except DatabaseUnavailable:
            connection.terminate()
            self._connection = None
            raise
        return rows

    def _heed(self, _: object, message: asyncpg.PostgresLogMessage) -> None:
        """The server says that a commit is done, and with it, as a mere warning, that its standby may not have it."""
        if "wait for synchronous replication" in (message.message or ""):
            self._is_sure = False

    async def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def _rows(connection: asyncpg.Connection, name: str, arguments: Sequence[object]) -> Sequence[asyncpg.Record]:
    return list(await connection.fetch(query(name), *arguments))
