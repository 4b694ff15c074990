"""The PostgreSQL that the broker brings along: one server in the data folder, durable, ours alone.

The server is a direct child of the broker. It ends with the broker however the broker ends, and it is
started again when it ends for a reason of its own. The caller holds the lock of the data folder, so a
server found alive on it is what a killed broker left behind.

    folder/postgres/       the cluster, and its socket when the path is short enough
    folder/postgres.log    what the server says; folder/postgres.log.1 is what it said before
    folder/programs-*/     a copy of the programs, only where they could not be run in place
"""

import asyncio
import contextlib
import hashlib
import math
import os
import re
import signal
import stat
import subprocess
import tempfile
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Protocol, Self

import asyncpg

from broker.pg_binaries import (
    POLL_S,
    Account,
    EmbeddedPostgresError,
    Programs,
    Steps,
    choose_account,
    end,
    explain,
    find_programs,
    is_server,
    make_cluster,
    plain_words,
    prepare_account,
    runnable,
    spawn,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "EventLog", "running_dsn"]

_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes() -> int:
    """What this machine has, or this container may use."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # of version 2 and of version 1
        with contextlib.suppress(OSError, ValueError):  # there is none, or it says "max"
            found = min(found, int((_CGROUPS / name).read_text()))
    return found


def shared_buffers(memory: int) -> str:
    """An eighth of the memory, from 128 MB to 2 GB, as PostgreSQL writes it. 2 GB hold what 10,000 customers use."""
    megabytes = min(max(memory // 2**20 // 8, 128), 2048)
    return f"{megabytes // 1024}GB" if megabytes % 1024 == 0 else f"{megabytes}MB"


# Given on the command line, where they are stronger than any file in the cluster.
SETTINGS = {
    "fsync": "on",  # what was committed survives a power cut:
    "full_page_writes": "on",  # also when the cut tears a page in two,
    "synchronous_commit": "on",  # and before the customer is told
    "listen_addresses": "",  # the socket is the only door, and a folder of mode 0700 is its lock
    "max_connections": "100",  # our pools together stay far below
    "shared_buffers": shared_buffers(memory_bytes()),  # what is in use of the books; only what is used is taken
    "wal_level": "replica",  # a base backup or a standby can be added without a restart
    "max_wal_size": "2GB",  # checkpoints come by the clock, not in the middle of a busy minute
    "checkpoint_timeout": "15min",  # fewer full pages in the log, for a recovery that is a bit longer
    "idle_in_transaction_session_timeout": "30s",  # no forgotten transaction holds locks for ever
    "timezone": "UTC",  # a timestamp reads the same on every machine
    "log_timezone": "UTC",
    "lc_messages": "C",  # we read the server's messages
    "jit": "off",  # our statements are short: compiling them costs more than running them
}
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
PORT = 5432  # a part of the socket's name only
SOCKET_PATH_MAX = 103  # bytes; Linux would take 107, macOS 103
LOG_BYTES_MAX = 10_000_000

WATCH_S = 0.1
CONNECT_LIMIT_S = 5.0
HELD_LIMIT_S = 30.0
RESTART_PAUSE_MAX_S = 5.0

# Fast shutdown, then without a checkpoint (the next start recovers), then by force.
CHILD_STEPS: Steps = ((signal.SIGINT, 3.0), (signal.SIGQUIT, 0.7), (signal.SIGKILL, 0.3))
ORPHAN_STEPS: Steps = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))

NOT_READY = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver's word for a server that says goodbye between two questions
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresConnectionError,
    asyncpg.TooManyConnectionsError,
)


class EventLog(Protocol):
    """Where events are told; a structlog logger is one."""

    def info(self, event: str, /, **fields: object) -> object:
        """Tell what happened."""

    def warning(self, event: str, /, **fields: object) -> object:
        """Tell what an operator should know."""


class _StillHeldError(EmbeddedPostgresError):
    """Processes of the last server have not all ended yet."""


class EmbeddedPostgres:
    """One running server. Make it with `start`, keep `supervise` running, end it with `stop`."""

    def __init__(self, folder: Path, log: EventLog, programs: Programs, account: Account) -> None:
        """Know everything that a launch needs; `start` is the way to get one."""
        self._folder = folder
        self._cluster = _cluster(folder)
        self._log = log
        self._programs = programs
        self._account = account
        self._socket_folder = _socket_folder(self._cluster, account)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        self._stopping = asyncio.Event()
        self.dsn = _dsn(str(self._socket_folder), PORT)
        self.runtime_dsn = _dsn(str(self._socket_folder), PORT, "broker_runtime")

    @classmethod
    async def start(cls, folder: Path, log: EventLog, *, recovery_limit_s: float = 300.0) -> Self:
        """Start the server of this data folder, making the cluster first if there is none.

        Recovery after a crash may take minutes; `recovery_limit_s` says how long we wait for it.
        """
        assert threading.current_thread() is threading.main_thread(), "the server would end with this thread"
        began = time.monotonic()
        with plain_words(folder):
            folder = _made(folder)
            await _end_orphan(folder, log)
            programs = find_programs(_cluster_major(folder))
            account = choose_account(programs, folder, _cluster(folder))
            prepare_account(account, folder, _cluster(folder))
            programs = runnable(programs, account, folder)
            if _cluster_major(folder) is None:
                await make_cluster(_cluster(folder), programs, account)
                log.info("postgres.created", folder=str(folder), major=programs.major)
            server = cls(folder, log, programs, account)
        try:
            await server._bring_up(recovery_limit_s)
        except BaseException:
            await server.stop()
            raise
        log.info("postgres.started", folder=str(folder), seconds=round(time.monotonic() - began, 3))
        return server

    async def stop(self) -> None:
        """End the server, cleanly if it does so within seconds; what was committed is safe either way."""
        self._stopping.set()
        await self._end_child()

    async def supervise(self) -> None:
        """Start the server again whenever it ends by itself; return when `stop` was called."""
        while not self._stopping.is_set():
            if self._alive():
                await self._pause(WATCH_S)
                continue
            self._log.warning("postgres.ended", reason=str(self._explanation()))
            await self._restart()

    async def _restart(self) -> None:
        # For as long as it takes: a full disk, say, is emptied by somebody some time.
        pause_s = WATCH_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._bring_up(math.inf)
            except EmbeddedPostgresError as error:
                if not self._stopping.is_set():
                    self._log.warning("postgres.restart_failed", error=str(error))
                    await self._pause(pause_s)
                pause_s = min(2 * pause_s, RESTART_PAUSE_MAX_S)
            else:
                self._log.info("postgres.restarted", seconds=round(time.monotonic() - began, 3))
                return

    async def _bring_up(self, limit_s: float) -> None:
        """Launch until the server answers; launch again while processes of the last one linger."""
        patience = time.monotonic() + HELD_LIMIT_S
        while True:
            try:
                with plain_words(self._folder):
                    await _end_orphan(self._folder, self._log)
                    _socket_folder(self._cluster, self._account)  # a cleaner of temporary files may have taken it
                    _remove_stale(self._socket_folder / f".s.PGSQL.{PORT}.lock", self._cluster)
                    self._launch()
                await self._until_ready(limit_s)
            except _StillHeldError:
                if time.monotonic() > patience:
                    raise
            except EmbeddedPostgresError:
                await self._end_child()
                raise
            else:
                return
            await self._pause(WATCH_S)

    def _launch(self) -> None:
        if self._stopping.is_set():
            raise EmbeddedPostgresError("The embedded PostgreSQL was told to stop while it was starting.")
        command = [str(self._programs.bin / "postgres"), "-D", str(self._cluster)]
        command += ["-k", str(self._socket_folder), "-p", str(PORT)]
        for name, value in SETTINGS.items():
            command += ["-c", f"{name}={value}"]
        path = _log_path(self._folder)
        if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_name(f"{path.name}.1"))
        output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            self._log_offset = os.fstat(output).st_size
            self._process = spawn(command, self._account, output)
        finally:
            os.close(output)

    async def _until_ready(self, limit_s: float) -> None:
        began = time.monotonic()
        told = False
        while time.monotonic() - began <= limit_s:
            if not self._alive():
                raise self._explanation()
            try:
                return await _check_durable(self.dsn)
            except NOT_READY as reason:  # no socket yet, say, or one that is just being closed
                if isinstance(reason, asyncpg.CannotConnectNowError) and time.monotonic() - began > 1 and not told:
                    self._log.info("postgres.recovering", folder=str(self._folder))
                    told = True
            except asyncpg.PostgresError as error:
                raise EmbeddedPostgresError(f"PostgreSQL started, but refuses us: {error}") from error
            # The server writes a line about everyone who comes too early, and a recovery may take minutes.
            await asyncio.sleep(POLL_S if time.monotonic() - began < 1 else WATCH_S)
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._folder} was not ready within {limit_s:g} seconds. If its log "
            f"{_log_path(self._folder)} tells of a recovery, start again with a longer limit."
        )

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    async def _end_child(self) -> None:
        if self._process is not None:
            await end(self._process.pid, self._alive, CHILD_STEPS)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _said(self) -> str:
        """What the server said since its last launch, or the end of it."""
        with contextlib.suppress(OSError), _log_path(self._folder).open("rb") as log:
            log.seek(max(self._log_offset, log.seek(0, os.SEEK_END) - 10_000))
            return log.read().decode(errors="replace")
        return ""

    def _explanation(self) -> EmbeddedPostgresError:
        said = self._said()
        if "pre-existing shared memory block" in said or 'lock file "postmaster.pid" already exists' in said:
            message = "Processes of an earlier PostgreSQL still use {}: find them with `ps -ef`, and end them."
            return _StillHeldError(message.format(self._cluster))
        message = f"PostgreSQL ended; {_log_path(self._folder)} tells more. It said:"
        if "could not bind Unix" in said or f".s.PGSQL.{PORT}.lock" in said:
            message = f"Another server uses the socket in {self._socket_folder}: end it. PostgreSQL said:"
        return explain(self._folder, message, said)


def running_dsn(folder: Path) -> str | None:
    """How to reach the server that runs on this data folder, or None if none does."""
    cluster = _cluster(folder.resolve())
    lock = _read_lock(cluster / "postmaster.pid")
    if lock is None or not is_server(lock[0], cluster):
        return None
    _, port, socket_folder = lock
    return _dsn(socket_folder, port) if port and socket_folder else None


def _cluster(folder: Path) -> Path:
    return folder / "postgres"


def _log_path(folder: Path) -> Path:
    return folder / "postgres.log"


def _dsn(socket_folder: str, port: object, user: str = "postgres") -> str:
    return f"postgresql://{user}@/postgres?host={urllib.parse.quote(socket_folder)}&port={port}"


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder.resolve()


def _cluster_major(folder: Path) -> int | None:
    try:
        return int((_cluster(folder) / "PG_VERSION").read_text().partition(".")[0])
    except FileNotFoundError:
        return None


def _socket_folder(cluster: Path, account: Account) -> Path:
    """The cluster itself, or a private folder elsewhere if its path does not suit a socket."""
    if _suits_socket(cluster):
        return cluster
    name = f"broker-{hashlib.sha256(os.fsencode(cluster)).hexdigest()[:16]}"
    places = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 - made 0700 and checked to be ours
    if "XDG_RUNTIME_DIR" in os.environ and not account.drop:
        places.insert(0, os.environ["XDG_RUNTIME_DIR"])
    for place in places:
        folder = Path(place, name)
        if folder.parent.is_dir() and _suits_socket(folder):
            return _private_folder(folder, account)
    raise EmbeddedPostgresError(
        f"No folder for PostgreSQL's socket: the path {cluster} is too long for one, and so is every "
        "temporary folder. Set TMPDIR to a short path."
    )


def _suits_socket(folder: Path) -> bool:
    # In a connection string and in the server's own list a comma would separate two folders.
    path = os.fsencode(folder / f".s.PGSQL.{PORT}")
    return len(path) <= SOCKET_PATH_MAX and re.fullmatch(rb"[A-Za-z0-9/._-]+", path) is not None


def _private_folder(folder: Path, account: Account) -> Path:
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # Anybody can make a folder of this name there before us.
    private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
    if not private or found.st_uid not in (os.geteuid(), account.uid):
        raise EmbeddedPostgresError(
            f"{folder} should be a folder of user {account.name} with mode 0700, for PostgreSQL's socket, and "
            "it is not: remove it, and find out who made it."
        )
    if found.st_uid != account.uid:
        os.chown(folder, account.uid, account.gid)
    return folder


async def _check_durable(dsn: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=CONNECT_LIMIT_S)
    try:
        for name in DURABLE:
            if await connection.fetchval(f"SHOW {name}", timeout=CONNECT_LIMIT_S) != SETTINGS[name]:
                raise EmbeddedPostgresError(
                    f"PostgreSQL runs with {name} switched off, so a power cut could lose what customers were "
                    f"told: undo it with ALTER ROLE postgres RESET {name} and ALTER DATABASE postgres RESET {name}."
                )
    finally:
        await connection.close(timeout=CONNECT_LIMIT_S)


async def _end_orphan(folder: Path, log: EventLog) -> None:
    """End the server of a killed broker, and clear away a lock file that names nobody of ours."""
    cluster = _cluster(folder)
    path = cluster / "postmaster.pid"
    lock = _read_lock(path)
    if lock is not None and is_server(pid := lock[0], cluster):
        log.warning("postgres.orphan", pid=pid, folder=str(folder))
        await end(pid, lambda: is_server(pid, cluster), ORPHAN_STEPS)
        if is_server(pid, cluster):
            raise EmbeddedPostgresError(
                f"A PostgreSQL that an earlier broker left behind runs on {folder} and does not end: end "
                f"process {pid}, then start the broker again."
            )
    _remove_stale(path, cluster)


def _remove_stale(path: Path, cluster: Path) -> None:
    """Remove a lock file that PostgreSQL would respect although its server is gone.

    It takes any living process of that number for the server, and a zombie too. A number that nobody
    has is left for PostgreSQL, which also looks there for memory that is still shared.
    """
    lock = _read_lock(path)
    if lock is None or (_exists(lock[0]) and not is_server(lock[0], cluster)):
        path.unlink(missing_ok=True)


def _read_lock(path: Path) -> tuple[int, str, str] | None:
    """Process, port and socket folder from the server's lock file, or None if it is not there or cut short."""
    try:
        lines = path.read_text().splitlines() + [""] * 5
        return int(lines[0]), lines[3], lines[4]
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def _exists(pid: int) -> bool:
    with contextlib.suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True
